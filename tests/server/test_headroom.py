"""The part of maxmemory that is kept for what is not counted follows the size of the process."""

from __future__ import annotations

from persistence.change import NEVER, STRING
from server.headroom import LEAST, MOST, URGENT, Headroom
from server.keyspace.keyspace import Keyspace
from server.keyspace.terms import Terms
from server.keyspace.weights import TIMED_OVERHEAD

_LIMIT = 256 << 20


def test_nothing_is_kept_while_the_process_is_within_the_limit() -> None:
    assert Headroom().adjust(_LIMIT, _LIMIT, _LIMIT) == 0


def test_growth_is_stopped_when_the_process_passes_the_limit() -> None:
    used = 200 << 20
    reserve = Headroom().adjust(_LIMIT, used, int(_LIMIT * 1.06))
    assert used - (2 << 20) < _LIMIT - reserve <= used


def test_the_keyspace_shrinks_by_what_the_process_creeps_on() -> None:
    headroom = Headroom()
    first = headroom.adjust(_LIMIT, 200 << 20, int(_LIMIT * 1.06))
    assert headroom.adjust(_LIMIT, 190 << 20, int(_LIMIT * 1.06)) == first
    assert headroom.adjust(_LIMIT, 190 << 20, int(_LIMIT * 1.06) + 1000) == first + 1000
    assert headroom.adjust(_LIMIT, 190 << 20, int(_LIMIT * 1.06)) == first + 1000


def test_a_process_far_above_the_limit_costs_keys_but_never_more_than_their_part() -> None:
    headroom = Headroom()
    before = 0
    for _ in range(1000):
        reserve = headroom.adjust(_LIMIT, 200 << 20, int(_LIMIT * (URGENT + 0.1)))
        assert reserve > before or reserve == int(_LIMIT * MOST)
        before = reserve
    assert before == int(_LIMIT * MOST)


def test_room_is_given_back_when_the_process_is_small_again() -> None:
    headroom = Headroom()
    headroom.adjust(_LIMIT, 200 << 20, int(_LIMIT * 1.3))
    for _ in range(1000):
        headroom.adjust(_LIMIT, 200 << 20, 200 << 20)
    assert headroom.reserve == 0


def test_a_limit_as_small_as_the_interpreter_is_about_data_alone() -> None:
    assert Headroom().adjust(LEAST - 1, LEAST // 2, 2 * LEAST) == 0


def test_without_a_limit_nothing_is_kept() -> None:
    assert Headroom().adjust(0, 1 << 30, 2 << 30) == 0


def test_the_keyspace_evicts_down_to_what_the_reserve_leaves() -> None:
    keyspace = Keyspace(1, 1)
    keyspace.tick(1000)
    keyspace.limit(Terms(1 << 20, "lru"))
    database = keyspace.database(0)
    for number in range(2000):
        database.put(b"key:%d" % number, STRING, b"x" * 100, NEVER, b"")
    keyspace.survey(512 << 10)
    while keyspace.tidy():
        pass
    assert keyspace.used() <= 512 << 10
    assert len(database) > 500


def test_times_to_live_and_the_order_of_eviction_count_as_used() -> None:
    keyspace = Keyspace(1, 1)
    keyspace.tick(1000)
    keyspace.limit(Terms(1 << 30, "lru"))
    database = keyspace.database(0)
    for number in range(100):
        database.put(b"key:%d" % number, STRING, b"value", 1_000_000, b"")
    before = keyspace.used()
    keyspace.survey(0)
    # 56 bytes for the place in the order, each, and for the deadline.
    assert keyspace.used() >= before + 100 * (56 + TIMED_OVERHEAD)
