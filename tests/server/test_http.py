"""The HTTP port: health, readiness, metrics, and a page."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from redis.exceptions import ResponseError

from server.metrics import Metrics
from server.net.http import HttpServer
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """What HttpServer asks: may be changed while it runs."""

    def __init__(self) -> None:
        self.ready = True
        self.hits = 7
        self.broken = False
        self.collections = 0

    def is_ready(self) -> bool:
        return self.ready

    def page(self) -> tuple[str, str]:
        return "<!doctype html><title>x</title>", "default-src 'none'; style-src 'sha256-x'"

    def collect(self) -> Iterator[Metric]:
        self.collections += 1
        if self.broken:
            raise RuntimeError("no counters")
        hits = CounterMetricFamily("forebay_hits", "Hits per prefix.", labels=["prefix"])
        hits.add_metric(['user:"{id}"'], self.hits)
        yield hits
        yield GaugeMetricFamily("forebay_clients", "Connected clients.", value=2)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[tuple[ClientSession, str]]:
    http = HttpServer(("127.0.0.1", 0), server.is_ready, server.collect, server.page)
    await http.start()
    assert http.address is not None
    host, port = http.address
    try:
        async with ClientSession() as session:
            yield session, f"http://{host}:{port}"
    finally:
        await http.stop()


async def get(session: ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def test_health_is_200_even_when_not_ready() -> None:
    server = Server()
    server.ready = False
    async with serving(server) as (session, base):
        assert await get(session, f"{base}/health") == (200, "ok\n")


async def test_ready_follows_the_server() -> None:
    server = Server()
    server.ready = False
    async with serving(server) as (session, base):
        assert await get(session, f"{base}/ready") == (503, "not ready\n")
        server.ready = True
        assert await get(session, f"{base}/ready") == (200, "ready\n")
        server.ready = False
        assert (await get(session, f"{base}/ready"))[0] == 503


async def test_metrics_are_collected_for_each_scrape() -> None:
    server = Server()
    async with serving(server) as (session, base):
        assert server.collections == 0
        async with session.get(f"{base}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            lines = (await answer.text()).splitlines()
        assert 'forebay_hits_total{prefix="user:\\"{id}\\""} 7.0' in lines
        assert "# TYPE forebay_hits_total counter" in lines
        assert "forebay_clients 2.0" in lines
        # Nothing of the library's own.
        assert not [line for line in lines if line.startswith(("python_", "process_"))]
        server.hits = 8
        assert " 8.0" in (await get(session, f"{base}/metrics"))[1]
        assert server.collections == 2


async def test_metrics_in_openmetrics_form_when_asked_for() -> None:
    async with (
        serving(Server()) as (session, base),
        session.get(f"{base}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await answer.text()).endswith("# EOF\n")


async def test_broken_collector_is_a_500_and_the_port_lives() -> None:
    server = Server()
    server.broken = True
    async with serving(server) as (session, base):
        status, text = await get(session, f"{base}/metrics")
        assert status == 500
        assert "no counters" not in text
        assert (await get(session, f"{base}/health"))[0] == 200


async def test_page_comes_with_its_own_policy_and_the_others_with_the_strictest() -> None:
    async with serving(Server()) as (session, base):
        async with session.get(f"{base}/") as answer:
            assert (await answer.text()).startswith("<!doctype html>")
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'sha256-x'"
            assert answer.headers["Server"] == "forebay"
        async with session.get(f"{base}/health") as answer:
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_other_paths_and_methods_are_refused() -> None:
    async with serving(Server()) as (session, base):
        assert (await get(session, f"{base}/nothing"))[0] == 404
        async with session.post(f"{base}/metrics", data=b"x") as answer:
            assert answer.status == 405
        async with session.head(f"{base}/ready") as answer:
            assert answer.status == 200


async def test_stop_frees_the_address_and_may_be_repeated() -> None:
    server = Server()
    http = HttpServer(("127.0.0.1", 0), server.is_ready, server.collect, server.page)
    assert http.address is None
    await http.stop()
    await http.start()
    address = http.address
    assert address is not None
    await http.stop()
    await http.stop()
    assert http.address is None
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(*address)


@pytest.fixture
def taken() -> Iterable[tuple[str, int]]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()


async def test_taken_address_is_an_error_and_leaves_nothing_behind(taken: tuple[str, int]) -> None:
    server = Server()
    http = HttpServer(taken, server.is_ready, server.collect, server.page)
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(http\.bind\): Address already in use"):
        await http.start()
    assert http.address is None


async def test_metrics_tell_who_listens_who_waits_and_what_scripts_do() -> None:
    async with running_node('[server]\nport = 0\n[http]\nbind = "127.0.0.1:0"\n') as node, ClientSession() as session:
        assert node.http is not None and node.http.address is not None
        listener, waiter, writer = client_of(node, protocol=3), client_of(node), client_of(node)
        await listener.execute_command("CLIENT", "TRACKING", "ON")
        await listener.get("told")
        hearing = listener.pubsub()
        await hearing.subscribe("news")
        waiting = asyncio.create_task(waiter.blpop("queue"))
        await eventually(lambda: node.dispatch.blocking.count == 1)
        await writer.publish("news", "one")
        await writer.set("told", "1")
        await writer.eval("return 1", 0)
        _, text = await get(session, "http://{}:{}/metrics".format(*node.http.address))
        await writer.rpush("queue", "x")
        await waiting
        await hearing.aclose()
        for client in (listener, waiter, writer):
            await client.aclose()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("forebay_"))
    expected = {
        'forebay_pubsub_names{kind="channel"}': 1,
        "forebay_pubsub_published_total": 1,
        "forebay_pubsub_delivered_total": 1,
        "forebay_blocked_clients": 1,
        "forebay_tracking_clients": 1,
        "forebay_tracking_invalidations_total": 1,
        "forebay_script_runs_total": 1,
        "forebay_scripts_cached": 1,
        "forebay_function_libraries": 0,
    }
    assert {name: float(samples[name]) for name in expected} == expected


async def test_every_metric_is_explained_on_the_page_for_operators() -> None:
    # Those that are told by prefix, store, or the journal have tables of their own.
    explained = set(re.findall(r"[a-z_]+", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")))
    elsewhere = ("forebay_prefix_", "forebay_store_", "forebay_follower_", "forebay_journal_")
    async with running_node("") as node, client_of(node) as client:
        with pytest.raises(ResponseError):
            await client.execute_command("NOSUCH")
        families = list(Metrics(node.parts).collect())
    names = {sample.name for family in families for sample in family.samples}
    assert sorted(name for name in names if not name.startswith(elsewhere) and name not in explained) == []
    assert {"forebay_build_info", "process_resident_memory_bytes", "forebay_error_replies_total"} <= names
