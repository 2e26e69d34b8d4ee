"""The circuit breaker of a store, under a clock that is moved by hand; and the three that share it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from persistence.breaker import FIRST_PAUSE_MS, LONGEST_PAUSE_MS, THRESHOLD, Breaker
from persistence.errors import (
    LoadTimeout,
    RowRejected,
    RowsLocked,
    StoreDown,
    StoreError,
    StoreTimeout,
)
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules
from tests.support.waiting import eventually


class HandClock:
    """Server milliseconds that stand still."""

    def __init__(self) -> None:
        self.ms = 1000

    def now_ms(self) -> int:
        return self.ms

    def wall_offset_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class NoChance:
    """Pauses are never shortened."""

    def random(self) -> float:
        return 1.0

    def uniform(self, low: float, high: float) -> float:
        return high


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def breaker(clock: HandClock) -> Breaker:
    return Breaker("main", clock, NoChance())  # type: ignore[arg-type]


def open_it(breaker: Breaker) -> None:
    for _ in range(THRESHOLD):
        assert breaker.allows()
        breaker.failed()
    assert breaker.is_open


async def ask(breaker: Breaker, error: BaseException | None) -> None:
    async def answer() -> None:
        if error is not None:
            raise error

    await breaker.ask(answer())


def test_four_failures_and_a_success_leave_it_closed(breaker: Breaker) -> None:
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.allows() and not breaker.is_open and breaker.opened == 0


def test_one_probe_at_a_time_when_the_pause_is_over(breaker: Breaker, clock: HandClock) -> None:
    open_it(breaker)
    assert not breaker.allows()
    assert breaker.wait_ms() == FIRST_PAUSE_MS
    clock.ms += int(FIRST_PAUSE_MS)
    assert breaker.wait_ms() == 0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    # Who waits for the probe need not look again at once.
    assert breaker.wait_ms() > 0
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True, True, True]


def test_probe_that_fails_doubles_the_pause_up_to_the_longest(breaker: Breaker, clock: HandClock) -> None:
    open_it(breaker)
    pauses = []
    for _ in range(7):
        pauses.append(breaker.wait_ms())
        clock.ms += breaker.wait_ms()
        assert breaker.allows()
        breaker.failed()
    assert pauses == [100, 200, 400, 800, 1600, 2000, LONGEST_PAUSE_MS]
    assert breaker.opened == 1


def test_failures_that_were_under_way_when_it_opened_do_not_lengthen_the_pause(breaker: Breaker) -> None:
    open_it(breaker)
    for _ in range(20):
        breaker.failed()
    assert breaker.wait_ms() == FIRST_PAUSE_MS


def test_probe_that_is_given_up_lets_the_next_one_try(breaker: Breaker, clock: HandClock) -> None:
    open_it(breaker)
    clock.ms += int(FIRST_PAUSE_MS)
    assert breaker.allows()
    breaker.give_up()
    assert breaker.is_open and breaker.allows()


@pytest.mark.parametrize("error", [StoreDown("no route"), StoreTimeout("?"), LoadTimeout("late")])
async def test_what_says_that_the_store_cannot_be_reached_opens_it(breaker: Breaker, error: StoreError) -> None:
    for _ in range(THRESHOLD):
        with pytest.raises(type(error)):
            await ask(breaker, error)
    assert breaker.is_open


@pytest.mark.parametrize(
    "error", [RowRejected("23514", "no"), RowsLocked("55P03"), StoreDown("25006 read-only", answered=True)]
)
async def test_what_the_server_says_itself_keeps_it_closed(breaker: Breaker, error: StoreError) -> None:
    for _ in range(2 * THRESHOLD):
        with pytest.raises(type(error)):
            await ask(breaker, error)
    assert not breaker.is_open


async def test_interrupted_probe_says_nothing_about_the_store(breaker: Breaker, clock: HandClock) -> None:
    open_it(breaker)
    clock.ms += int(FIRST_PAUSE_MS)
    assert breaker.allows()
    with pytest.raises(asyncio.CancelledError):
        await ask(breaker, asyncio.CancelledError())
    assert breaker.is_open and breaker.allows()


def test_those_who_wait_are_told_once_that_it_closes(breaker: Breaker) -> None:
    told: list[bool] = []
    breaker.notify_closed(lambda: told.append(breaker.is_open))
    breaker.succeeded()
    open_it(breaker)
    breaker.succeeded()
    breaker.succeeded()
    assert told == [False]


# -- loads, writes and flushes share it -------------------------------------------------------------------------------


async def test_failed_writes_turn_loads_away_and_a_load_that_succeeds_lets_writes_and_flushes_through(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shop = SqliteShop(tmp_path_factory.mktemp("shop") / "shop.db")
    await shop.execute("insert into users (id, name) values (1, 'Ada')")
    users = {"table": "users", "read": "read-through"}
    sections = [
        prefix("user:{id:int}", value="json", write="write-through", **users),
        prefix("later:{id:int}", value="hash", write="write-behind", write_delay="10ms", **users),
    ]
    async with running_node(rules(shop, sections)) as node:
        client = client_of(node, decode_responses=True)
        assert await client.hget("later:1", "name") == "Ada"
        store = node.engine.stores["main"]
        apply = store.apply
        attempts = 0

        async def failing(*_: object) -> None:
            nonlocal attempts
            attempts += 1
            raise StoreDown("connection refused")

        store.apply = failing  # type: ignore[method-assign]
        for number in range(THRESHOLD):
            with pytest.raises(ResponseError, match="connection refused"):
                # Blind: a load that succeeds would say that the store can be reached.
                await client.set(f"user:{number + 10}", '{"name": "x"}')
        breaker = node.engine.breakers["main"]
        assert breaker.is_open
        # Writes and loads fail without asking, and a flush waits.
        with pytest.raises(ResponseError, match="left alone"):
            await client.set("user:1", '{"name": "x"}')
        with pytest.raises(ResponseError, match="left alone"):
            await client.hget("later:99", "name")
        assert await client.hset("later:1", "name", "Bob") == 0
        assert attempts == THRESHOLD
        store.apply = apply  # type: ignore[method-assign]
        await eventually(_served(client.get, "user:1"))
        assert not breaker.is_open
        await eventually(lambda: node.engine.unsaved() == 0)
        assert await client.set("user:2", '{"name": "Cyd"}')
        assert await shop.rows("select name from users order by id") == [("Bob",), ("Cyd",)]
        await client.aclose()
    await shop.close()


def _served(call: Callable[..., Awaitable[object]], *words: str) -> Callable[[], Awaitable[bool]]:
    async def served() -> bool:
        try:
            await call(*words)
        except ResponseError:
            return False
        return True

    return served
