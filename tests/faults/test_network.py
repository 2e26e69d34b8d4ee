"""The network between node and database: cut, stalled, slow, refused, at the worst moments."""

from __future__ import annotations

import asyncio
import os
import time
from random import Random

import pytest

from protocol.decoder import ReplyError
from tests.faults.scene import Scene
from tests.faults.workload import Client
from tests.simulation.check import REFUSED, UNKNOWN
from tests.support.proxy import DOWN, UP

pytestmark = pytest.mark.postgres

# "Black-holed for 10 s"; longer in `script/soak faults`.
BLACK_HOLE_S = float(os.environ.get("FOREBAY_BLACK_HOLE_S", "10"))
LATENCY_S = 0.2


async def test_load_connections_are_cut(scene: Scene) -> None:
    await scene.start()
    cut = 0
    for _ in range(8):
        cut += scene.proxy.reset(lambda link: scene.is_loading(link))
        await scene.answered(25)
    assert cut >= 8
    await scene.converge()
    await scene.verify()


async def test_flush_connections_are_cut_while_a_flush_is_sent(scene: Scene) -> None:
    await scene.start()
    for _ in range(8):
        # Keys of the write-behind prefix, within the statement that saves or loads them.
        scene.proxy.faults.cut_when(b"note:", UP)
        await scene.until(lambda: scene.proxy.faults.cut_after[UP] is None)
        await scene.answered(10)
    scene.proxy.faults.heal()
    await scene.converge()
    await scene.verify()


async def test_connections_are_cut_between_commit_and_its_answer(scene: Scene) -> None:
    await scene.start()

    def repeated() -> int:
        return scene.counters("note:").retries + scene.counters("session:{id:int}").retries

    # At least eight times, and until it has hit a flush: which transaction is the next to commit is chance.
    for number in range(60):
        if number >= 8 and repeated():
            break
        scene.proxy.faults.cut_when(b"COMMIT\0", UP)
        await scene.until(lambda: scene.proxy.faults.cut_after[UP] is None)
        await scene.answered(10)
    scene.proxy.faults.heal()
    await scene.converge()
    await scene.verify()
    # Nobody who writes behind is told of it.
    assert scene.oracle.operations(UNKNOWN, behind=True) == []
    assert repeated() > 0


async def test_write_through_cut_after_commit_is_unknown_and_quarantined(scene: Scene) -> None:
    await scene.start(clients=0)
    client = await Client.connect(scene.node.listener.port)
    # Two tables: a transaction with a COMMIT of its own. Saved and known, so that only the cut is new.
    written = [("MULTI",), ("HINCRBY", "account:901", "n", 1), ("INCR", "page:901"), ("EXEC",)]
    assert (await client.pipeline(written))[-1] == [1, 1]
    scene.proxy.faults.cut_when(b"COMMIT\0", UP)
    answer = (await client.pipeline(written))[-1]
    assert isinstance(answer, ReplyError) and str(answer).startswith("STORETIMEOUT"), answer
    began = time.monotonic()
    engine = scene.node.engine
    assert engine.quarantine.holds(b"account:901") and engine.quarantine.holds(b"page:901")
    # Reads pass through, and what they bring is not kept.
    assert await client.call("GET", "page:901") in (b"1", b"2")
    assert scene.node.keyspace.database(0).held(b"page:901") is None
    # A write waits until the first cannot land any more. It landed: the database had all that it needs.
    assert await client.call("INCR", "page:901") == 3
    assert time.monotonic() - began > scene.statement_timeout_s
    assert await client.call("HGET", "account:901", "n") == b"2"
    assert await scene.sql("SELECT n FROM accounts WHERE id = 901") == [(2,)]
    assert scene.counters("page:").unknown_outcomes == 1
    client.close()
    scene.watch.check()


async def test_write_behind_cut_after_commit_counts_once(scene: Scene) -> None:
    await scene.start(clients=0)
    client = await Client.connect(scene.node.listener.port)
    scene.proxy.faults.cut_when(b"COMMIT\0", UP)
    # Together, so that they are saved together: then there is a COMMIT.
    written = [("MULTI",), ("INCR", "note:901"), ("HINCRBY", "session:901", "n", 1), ("EXEC",)]
    count = 0
    while scene.proxy.faults.cut_after[UP] is not None:
        count += 1
        assert (await client.pipeline(written))[-1] == [count, count]
    assert await client.call("INCR", "note:901") == count + 1
    assert await client.call("CACHE.FLUSH", "TIMEOUT", 8000) != []
    assert scene.node.engine.unsaved() == 0
    assert await scene.sql("SELECT value FROM forebay_kv WHERE key = 'note:901'") == [(b"%d" % (count + 1),)]
    assert await scene.sql("SELECT n FROM sessions WHERE id = 901") == [(count,)]
    assert scene.counters("note:").retries >= 1
    client.close()
    scene.watch.check()


async def test_answers_vanish_while_requests_arrive(scene: Scene) -> None:
    """The worst half of a black hole: whatever is asked for happens, and nobody hears of it."""
    await scene.start()
    for _ in range(3):
        # A transaction that waits for the answer to BEGIN is refused; we want one that waits for the last answer.
        if scene.oracle.operations(UNKNOWN):
            break
        scene.proxy.faults.black_hole(DOWN)
        await scene.refused()
        scene.proxy.faults.heal()
        await scene.answered(40)
    await scene.converge()
    await scene.verify()


@pytest.mark.slow
async def test_network_is_a_black_hole_for_ten_seconds(scene: Scene) -> None:
    await scene.start()
    scene.proxy.faults.black_hole()
    began = time.monotonic()
    await scene.refused()
    await scene.until(lambda: time.monotonic() - began > BLACK_HOLE_S, 2 * BLACK_HOLE_S)
    # Nobody waits for a timeout any more: most are told at once.
    waits = sorted(each.answered_s - each.called_s for each in scene.oracle.operations(REFUSED))
    assert waits[len(waits) // 2] < 0.3, waits[len(waits) // 2]
    scene.proxy.faults.heal()
    await scene.converge()
    await scene.verify()


@pytest.mark.serial
async def test_latency_of_200_ms_with_jitter_is_no_outage(scene: Scene) -> None:
    await scene.start(statement_timeout="2500ms", load_timeout="4s")
    random = Random(1)

    async def jitter() -> None:
        while True:
            scene.proxy.faults.delay(LATENCY_S * (0.75 + random.random() / 2))
            await asyncio.sleep(0.02)

    jittering = asyncio.create_task(jitter())
    try:
        await scene.answered(40)
    finally:
        jittering.cancel()
    # Slow, and no more than that: what is refused (on a machine that is slow itself) is the exception.
    assert scene.oracle.operations(UNKNOWN) == []
    assert len(scene.oracle.operations(REFUSED)) <= 10
    assert scene.node.engine.breakers["main"].opened == 0
    scene.proxy.faults.heal()
    await scene.converge()
    await scene.verify()


async def test_connection_is_reset_in_the_middle_of_a_result(scene: Scene) -> None:
    await scene.start()
    for _ in range(8):
        # The key within a row: the end of the row, and the message that the statement is complete, never come.
        scene.proxy.faults.cut_when(b"page:", DOWN)
        await scene.until(lambda: scene.proxy.faults.cut_after[DOWN] is None)
        await scene.answered(10)
    scene.proxy.faults.heal()
    await scene.converge()
    await scene.verify()


async def test_new_connections_are_refused_and_old_ones_cut(scene: Scene) -> None:
    await scene.start()
    scene.proxy.refuse()
    await scene.answered(30)
    scene.proxy.reset()
    await scene.refused(60)
    assert scene.node.engine.breakers["main"].opened >= 1
    await scene.proxy.accept()
    await scene.converge()
    await scene.verify()
