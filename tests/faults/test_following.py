"""Changes by plain SQL while nobody hears of them: what a client may read, and how soon it is right again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from persistence.invalidation import HEARTBEAT_S, outbox_sql
from server.config import parse_config
from tests.faults.scene import Scene, configuration, role_url
from tests.faults.workload import Client
from tests.support.node import running_node
from tests.support.shop import prefix

pytestmark = pytest.mark.postgres

ROWS = 1000
# "No stale read 5 s after healing."
STALE_S = 5.0
_FOLLOWED = prefix("row:{id:int}", read="read-through", table="rows", value="hash", invalidate="notify", ttl="1h")
_TABLE = f"""
CREATE TABLE rows (id int8 PRIMARY KEY, version int4 NOT NULL);
INSERT INTO rows SELECT id, 1 FROM generate_series(1, {ROWS}) AS id;
ALTER TABLE rows OWNER TO forebay_app;
"""


@pytest.fixture
async def following(scene: Scene) -> AsyncIterator[Client]:
    """A client of a node that follows the table, with every row in memory."""
    url = role_url(scene.server, scene.database, scene.proxy.port)
    toml = configuration(url, "2s", _FOLLOWED)
    await scene.script(_TABLE)
    await scene.script("SET ROLE forebay_app;" + outbox_sql(parse_config(toml, {}, "test.toml").rules))
    async with running_node(toml) as node:
        scene.node = node
        await scene.until(lambda: node.followers[0].stats().live)
        client = await Client.connect(node.listener.port)
        assert await versions(client) == {1}
        yield client
        client.close()


async def versions(client: Client) -> set[int]:
    """The versions that a client reads, over all rows."""
    replies = await client.pipeline([("HGET", f"row:{number}", "version") for number in range(1, ROWS + 1)])
    assert all(isinstance(reply, bytes) for reply in replies), replies
    return {int(reply) for reply in replies if isinstance(reply, bytes)}


async def change(scene: Scene, version: int) -> None:
    """A thousand rows in a hundred transactions."""
    outsider = await scene.outsider()
    for first in range(1, ROWS + 1, 10):
        await outsider.execute("UPDATE rows SET version = $1 WHERE id BETWEEN $2 AND $2 + 9", version, first)
    await outsider.close()


async def test_thousand_rows_changed_while_the_listener_is_black_holed(scene: Scene, following: Client) -> None:
    (listener,) = scene.proxy.find(b"LISTEN")
    listener.black_hole()
    began = time.monotonic()
    await change(scene, 2)
    # Longer than a heartbeat, so that a question of ours is lost in it, too; and no read is refused meanwhile.
    seen: set[int] = set()
    while time.monotonic() - began < HEARTBEAT_S + 0.5:
        seen |= await versions(following)
    assert seen == {1}
    listener.heal()
    healed = time.monotonic()
    await scene.until(lambda: _all(following, 2), STALE_S)
    assert time.monotonic() - healed < STALE_S
    scene.watch.check()


async def test_thousand_rows_changed_while_the_listener_is_cut_again_and_again(scene: Scene, following: Client) -> None:
    changing = asyncio.create_task(change(scene, 2))
    cut = 0
    while not changing.done() or cut < 3:
        cut += scene.proxy.reset(lambda link: b"LISTEN" in link.seen["up"])
        # Never back from the new version to the old one in one key; both may be there at one time.
        assert await versions(following) <= {1, 2}
    await changing
    healed = time.monotonic()
    await scene.until(lambda: _all(following, 2), STALE_S)
    assert time.monotonic() - healed < STALE_S
    scene.watch.check()


async def _all(client: Client, version: int) -> bool:
    return await versions(client) == {version}
