"""The database server itself: stopped, crashed, cutting connections, letting nobody in."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.scene import ROLE, Scene
from tests.simulation.check import REFUSED, UNKNOWN

pytestmark = pytest.mark.postgres


async def test_database_is_stopped_and_started_again(scene: Scene) -> None:
    # Straight to the server: what comes is "connection refused", not a reset by the proxy.
    await scene.start(proxied=False)
    await asyncio.to_thread(scene.server.stop)
    await scene.refused()
    await asyncio.to_thread(scene.server.start)
    await scene.converge()
    await scene.verify()
    # What needs no row is accepted all the time.
    blind = [each for each in scene.oracle.operations(REFUSED, UNKNOWN, behind=True) if each.commands[0][0] == b"SET"]
    assert blind == []


async def test_database_crashes_and_recovers(scene: Scene) -> None:
    await scene.start(proxied=False)
    await asyncio.to_thread(scene.server.restart, "immediate")
    await scene.converge()
    await scene.verify()


async def test_backends_are_terminated_in_waves(scene: Scene) -> None:
    await scene.start()
    cut = 0
    for _ in range(6):
        cut += await scene.cut_backends()
        await scene.answered(40)
    assert cut >= 12
    await scene.converge()
    await scene.verify()


async def test_database_has_no_connections_left(scene: Scene) -> None:
    """53300, which is FATAL: the connection is refused, not a statement."""
    await scene.start()
    await scene.sql(f"ALTER DATABASE {scene.database} CONNECTION LIMIT 0")
    await scene.cut_backends()
    await scene.refused(60)
    assert scene.saw("too many connections")
    await scene.sql(f"ALTER DATABASE {scene.database} CONNECTION LIMIT -1")
    await scene.converge()
    await scene.verify()


async def test_database_becomes_read_only_and_writable_again(scene: Scene) -> None:
    """25006, as after a fail-over: reads are served, writes are refused, and new connections find the new state."""
    await scene.start()
    await scene.sql(f"ALTER DATABASE {scene.database} SET default_transaction_read_only = on")
    await scene.cut_backends()
    await scene.until(lambda: scene.saw("25006"))
    before = scene.reads()
    await scene.refused(40)
    # The server answers: reads go on, and the breaker has nothing to say.
    assert scene.reads() >= before + 40
    assert not scene.node.engine.breakers["main"].is_open
    await scene.sql(f"ALTER DATABASE {scene.database} RESET default_transaction_read_only")
    await scene.converge()
    await scene.verify()


async def test_password_is_changed_and_changed_back(scene: Scene) -> None:
    """28P01: nothing can be saved or loaded, nothing is given up, and it heals by itself."""
    access = scene.server.data / "pg_hba.conf"
    trusting = await asyncio.to_thread(access.read_text)
    asking = f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n"
    try:
        await scene.sql(f"ALTER ROLE {ROLE} PASSWORD 'right'")
        await asyncio.to_thread(access.write_text, asking + trusting)
        await scene.sql("SELECT pg_reload_conf()")
        await scene.start(password="right")
        await scene.sql(f"ALTER ROLE {ROLE} PASSWORD 'wrong'")
        await scene.cut_backends()
        await scene.until(lambda: scene.saw("28P01"))
        await scene.refused()
        assert not scene.saw("right") and "right" not in str(scene.node.engine.queues["main"].last_error)
        await scene.sql(f"ALTER ROLE {ROLE} PASSWORD 'right'")
        await scene.converge()
        await scene.verify()
    finally:
        await asyncio.to_thread(access.write_text, trusting)
        await scene.sql("SELECT pg_reload_conf()")
