"""The garbage collector is kept from what has survived it, and told of in INFO."""

from __future__ import annotations

import asyncio
import gc

import pytest

from server.collector import YOUNG, Collector
from server.net.connection import Connection
from server.session import Session
from tests.support.node import running_node
from tests.support.waiting import eventually

RULE = '[prefix."k:"]\nstore = "main"\nread = "read-through"\nwrite = "write-through"\n'
# What clients do before they leave, some in the middle of it.
VISITS: list[list[bytes]] = [
    [b"SET a 1", b"GET a", b"MULTI", b"INCR n", b"EXEC", b"NOSUCH"],
    [b"GET k:0", b"SET k:1 x", b"INCR k:2", b"MGET k:1 k:3", b"EVAL 'return redis.call(\"GET\", KEYS[1])' 1 k:1"],
    [b"HELLO 3", b"CLIENT TRACKING ON", b"GET a", b"GET k:1", b"SET k:1 y"],
    [b"SUBSCRIBE news", b"PSUBSCRIBE n*"],
    [b"BLPOP nothing 0.01", b"RPUSH list a", b"BLPOP list 1"],
    [b"WATCH a", b"MULTI", b"SET a 2"],
    [b"MONITOR"],
    [b"*x"],
]


@pytest.fixture
def collector() -> Collector:
    return Collector()


def test_what_survived_two_visits_is_frozen(collector: Collector) -> None:
    frozen = gc.get_freeze_count()
    kept = [[number] for number in range(100)]
    try:
        collector.visited("start", {"generation": 0})
        collector.visited("stop", {"generation": 0})
        assert gc.get_freeze_count() == frozen
        collector.visited("start", {"generation": 1})
        collector.visited("stop", {"generation": 1})
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        gc.unfreeze()


def test_visits_are_counted_and_the_longest_is_known(collector: Collector) -> None:
    for _ in range(3):
        collector.visited("start", {"generation": 0})
        collector.visited("stop", {"generation": 0})
    facts = dict(collector.info())
    assert facts["gc_visits"] == 3
    assert 0 < collector.longest_ns <= collector.total_ns


def test_a_server_that_frees_as_much_as_it_makes_is_visited_by_the_clock(collector: Collector) -> None:
    before = gc.get_threshold()
    try:
        collector.tame()
        held: list[list[int]] = [[number] for number in range(20_000)]
        gc.collect(1)
        most = 0
        for now_ms in range(200):
            for at in range(100 * now_ms, 100 * now_ms + 100):
                held[at % len(held)] = [at]
            collector.ticked(now_ms)
            most = max(most, len(gc.get_objects(generation=0)) + len(gc.get_objects(generation=1)))
        assert most < YOUNG
        seen = collector.passes
        for _ in range(100):
            collector.ticked(200)
        assert collector.passes <= seen + 1
    finally:
        gc.callbacks.remove(collector.visited)
        gc.set_threshold(*before)
        gc.unfreeze()


def test_taming_makes_visits_short_and_leaves_the_oldest_alone(collector: Collector) -> None:
    before = gc.get_threshold()
    try:
        collector.tame()
        young, _, old = gc.get_threshold()
        assert young == YOUNG and old >= 1_000_000
        assert collector.visited in gc.callbacks
    finally:
        gc.callbacks.remove(collector.visited)
        gc.set_threshold(*before)
        gc.unfreeze()


async def test_clients_that_come_and_go_leave_no_circles_behind() -> None:
    async with running_node('[stores.main]\nurl = "memory:"\n' + RULE) as node:
        port = node.listener.port

        async def visit(lines: list[bytes]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for line in lines:
                writer.write(line + b"\r\n")
                await writer.drain()
                await reader.read(1 << 16)
            writer.close()
            await writer.wait_closed()

        def left() -> int:
            return sum(type(each) in (Connection, Session, asyncio.Task) for each in gc.get_objects())

        await visit(VISITS[0])
        gc.collect()
        gc.disable()
        try:
            await eventually(lambda: not node.peers.by_id)
            before = left()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await eventually(lambda: left() >= before + 2)
            writer.close()
            await writer.wait_closed()
            for lines in VISITS * 5:
                await visit(lines)
            await eventually(lambda: not node.peers.by_id)
            await eventually(lambda: left() <= before + 2)
        finally:
            gc.enable()
