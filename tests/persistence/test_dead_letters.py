"""Dead letters that are tried again: what was acknowledged later stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from persistence.errors import RowRejected
from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, PrefixRule, Template
from tests.persistence.test_flusher import Desk
from tests.support.fake_disk import FakeDisk
from tests.support.lives import Life, shop_store
from tests.support.waiting import eventually

USERS: Final = PrefixRule(
    Template("user:{id:int}"),
    store="main",
    read=READ_THROUGH,
    write=WRITE_BEHIND,
    write_delay_s=3600.0,
    retry_limit=1,
    table="users",
    value="hash",
    columns=(("name", "name"), ("n", "n")),
)
ITEMS: Final = replace(
    USERS, template=Template("item:{id:int}"), table="items", value="column", column="body", columns=()
)


async def refused(desk: Desk, life: Life, *words: str) -> None:
    """This write becomes a dead letter."""

    async def refuse(keys: tuple[str, ...]) -> None:
        raise RowRejected("23514", "not this one")

    desk.before = refuse
    queue = life.engine.queues["main"]
    before = len(queue.dead)
    await life.call(*words)
    queue.hurry()
    await eventually(lambda: len(queue.dead) == before + 1)
    desk.before = None


async def test_letter_that_a_later_change_has_overtaken_is_not_tried_again() -> None:
    store = shop_store()
    desk = Desk(store)
    async with Life(store, (ITEMS,), FakeDisk()) as life:
        await refused(desk, life, "SET", "item:1", "old")
        await life.call("SET", "item:1", "new")
        await life.flush()
        assert await life.call("CACHE.DLQ", "RETRY", "ALL") == 0
        await life.flush()
        assert await life.call("GET", "item:1") == b"new"
        assert await life.call("CACHE.DLQ", "COUNT") == 1
    assert store.tables["items"].rows[1,]["body"] == "new"


@pytest.mark.parametrize(("later", "retried", "n"), [("name", 1, 1), ("n", 0, 2)])
async def test_letter_of_one_column_is_overtaken_by_changes_of_that_column_alone(
    later: str, retried: int, n: int
) -> None:
    store = shop_store()
    desk = Desk(store)
    async with Life(store, (USERS,), FakeDisk()) as life:
        await life.call("HSET", "user:1", "name", "ann", "n", "0")
        await life.flush()
        await refused(desk, life, "HSET", "user:1", "n", "1")
        await life.call("HSET", "user:1", later, "2")
        await life.flush()
        assert await life.call("CACHE.DLQ", "RETRY", "ALL") == retried
        await life.flush()
    assert store.tables["users"].rows[1,]["n"] == n


async def test_letters_of_one_key_can_be_tried_again_in_their_order() -> None:
    store = shop_store()
    desk = Desk(store)
    async with Life(store, (ITEMS,), FakeDisk()) as life:
        await refused(desk, life, "SET", "item:1", "first")
        await refused(desk, life, "SET", "item:1", "second")
        for left in (1, 0):
            assert await life.call("CACHE.DLQ", "RETRY", "ALL") == 1
            await life.flush()
            assert await life.call("CACHE.DLQ", "COUNT") == left
    assert store.tables["items"].rows[1,]["body"] == "second"
