"""MemberSet: fair draws and walks that miss nobody, whatever is added and removed in between."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from server.keyspace.values.member_set import MemberSet, member_set_of
from server.keyspace.weights import TABLE_STEPS, table_weight


def names(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


def check(value: MemberSet) -> None:
    """The index, where there is one, holds each member once and nothing but members and those noted as gone."""
    value.check()


def test_it_equals_its_plain_form_and_its_like() -> None:
    value = member_set_of([b"a", b"b", b"a"])
    assert value == {b"a", b"b"}
    assert {b"a", b"b"} == value
    assert value == frozenset((b"a", b"b"))
    assert value == MemberSet({b"b", b"a"})
    assert value != {b"a"}
    assert value != [b"a", b"b"]
    assert (len(value), b"a" in value, b"c" in value, sorted(value)) == (2, True, False, [b"a", b"b"])


def test_a_copy_shares_nothing() -> None:
    value = member_set_of(names(0, 10))
    value.draw(random.Random(0).random)
    value.discard(b"3")
    copy = value.copy()
    copy.add(b"new")
    copy.discard(b"4")
    assert value == set(names(0, 10)) - {b"3"}
    assert copy == value.members - {b"4"} | {b"new"}
    check(value)
    check(copy)


def test_members_are_added_and_removed_once() -> None:
    value = MemberSet(set())
    assert (value.add(b"a"), value.add(b"a")) == (True, False)
    assert (value.discard(b"a"), value.discard(b"a")) == (True, False)
    assert len(value) == 0


@pytest.mark.parametrize("seed", range(20))
def test_it_stays_a_set_whatever_is_done(seed: int) -> None:
    generator = random.Random(seed)
    value = MemberSet(set())
    model: set[bytes] = set()
    for step in range(1500):
        member = b"%d" % generator.randrange(150)
        luck = generator.random()
        # Growing and shrinking in turn, so that sweeps happen.
        if luck < (0.5 if step // 300 % 2 else 0.2):
            assert value.add(member) is (member not in model)
            model.add(member)
        elif luck < 0.8:
            assert value.discard(member) is (member in model)
            model.discard(member)
        elif not model:
            continue
        elif luck < 0.9:
            assert value.draw(generator.random) in model
        elif luck < 0.95:
            model.remove(value.pop(generator.random))
        else:
            drawn = value.draw_many(generator.randrange(200), generator.random)
            assert len(drawn) == len(set(drawn))
            assert set(drawn) <= model
        assert value == model
        check(value)


def test_every_member_has_the_same_chance() -> None:
    generator = random.Random(1)
    value = member_set_of(names(0, 40))
    value.draw(generator.random)
    # What is removed and comes back must not be drawn more often.
    for member in names(0, 30):
        value.discard(member)
    for member in [*names(0, 10), *names(40, 50)]:
        value.add(member)
    drawn = Counter(value.draw(generator.random) for _ in range(30_000))
    assert set(drawn) == value.members
    # 1,000 each expected, standard deviation 31.
    assert all(850 < count < 1150 for count in drawn.values())


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_many_draws_have_the_same_chance_for_every_member(count: int) -> None:
    generator = random.Random(2)
    value = member_set_of(names(0, 10))
    drawn = Counter(name for _ in range(5_000) for name in value.draw_many(count, generator.random))
    expected = 5_000 * count / 10
    assert set(drawn) == value.members
    assert all(abs(times - expected) < 250 for times in drawn.values())


def test_popping_empties_the_set() -> None:
    generator = random.Random(3)
    value = member_set_of(names(0, 100))
    popped = [value.pop(generator.random) for _ in range(100)]
    assert sorted(popped) == sorted(names(0, 100))
    assert len(value) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_finds_what_is_there_all_the_time(seed: int) -> None:
    generator = random.Random(seed)
    lasting = set(names(1000, 1200))
    value = MemberSet(lasting | set(names(0, 300)))
    seen: set[bytes] = set()
    left = 0
    steps = 0
    while True:
        left, found = value.walk(left, 10)
        assert len(found) <= 10
        assert set(found) <= value.members
        seen.update(found)
        steps += 1
        if not left:
            break
        for _ in range(generator.choice([0, 5, 60])):
            # Those that come and go; draws move members about in the index.
            member = b"%d" % generator.randrange(300)
            if generator.random() < 0.7:
                value.discard(member)
            else:
                value.add(member)
            value.draw(generator.random)
        if generator.random() < 0.1:
            value = value.copy()
    assert lasting <= seen
    assert steps <= 51


def test_weights_add_up() -> None:
    assert member_set_of([b"a", b"bcd"]).weight() - MemberSet(set()).weight() == 2 * (
        member_set_of([b""]).weight() - MemberSet(set()).weight()
    ) + len(b"abcd")


def test_weight_knows_how_the_table_of_a_set_grows() -> None:
    members: set[bytes] = set()
    empty = sys.getsizeof(members)
    for number in range(1, 160_000):
        members.add(b"%d" % number)
        if number in TABLE_STEPS or number + 1 in TABLE_STEPS or number % 10_000 == 0:
            assert sys.getsizeof(members) - empty == table_weight(number)
