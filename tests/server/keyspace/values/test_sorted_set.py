"""SortedSet, against a list that is sorted again for every question."""

from __future__ import annotations

import random
from math import inf

import pytest

from server.keyspace.values.sorted_set import SortedSet

SCORES = [-inf, -2.5, -1.0, -0.0, 0.0, 1.0, 1.0, 2.0, 2.0000000000000004, 5e-324, 1e300, inf]


def filled(generator: random.Random, size: int) -> SortedSet:
    return SortedSet({b"%d" % at: generator.choice(SCORES) for at in range(size)})


def in_order(value: SortedSet) -> list[tuple[float, bytes]]:
    return sorted((score, member) for member, score in value.items())


def test_it_equals_its_plain_form_and_its_like() -> None:
    value = SortedSet({b"a": 1.0, b"b": inf})
    assert value == {b"a": 1, b"b": inf}
    assert {b"a": 1.0, b"b": inf} == value
    assert value == SortedSet({b"b": inf, b"a": 1.0})
    assert value != {b"a": 1.0}
    assert value != [b"a", b"b"]
    assert (len(value), b"a" in value, b"c" in value, value.get(b"b"), value.get(b"c")) == (2, True, False, inf, None)
    assert sorted(value) == [b"a", b"b"]
    assert dict(value.items()) == {b"a": 1.0, b"b": inf}


@pytest.mark.parametrize("asked", [False, True])
def test_a_copy_shares_nothing(asked: bool) -> None:
    value = SortedSet({b"a": 1.0, b"b": 2.0})
    if asked:
        assert value.rank(b"b") == 1
    copy = value.copy()
    copy.put(b"c", 0.0)
    copy.discard(b"a")
    assert in_order(value) == value.slice(0, 9) == [(1.0, b"a"), (2.0, b"b")]
    assert in_order(copy) == copy.slice(0, 9) == [(0.0, b"c"), (2.0, b"b")]


@pytest.mark.parametrize("seed", range(20))
def test_it_stays_in_order_whatever_is_done(seed: int) -> None:
    generator = random.Random(seed)
    value = SortedSet({})
    model: dict[bytes, float] = {}
    for _ in range(800):
        member = b"%d" % generator.randrange(60)
        luck = generator.random()
        if luck < 0.5:
            score = generator.choice(SCORES)
            value.put(member, score)
            model[member] = score
        elif luck < 0.7:
            assert value.discard(member) is (model.pop(member, None) is not None)
        elif luck < 0.75:
            first, end = sorted(generator.choices(range(60), k=2))
            expected = in_order(value)[first : min(end, first + 3)]
            assert value.take(first, min(end, first + 3)) == expected
            for _, gone in expected:
                del model[gone]
        elif luck < 0.8:
            value = value.copy()
        elif luck < 0.9:
            pairs = in_order(value)
            rank = value.rank(member)
            assert rank == (pairs.index((model[member], member)) if member in model else None)
        else:
            first, end = generator.choices(range(60), k=2)
            assert value.slice(first, end) == in_order(value)[first:end]
            assert value.slice(first, end, True) == in_order(value)[first:end][::-1]
        assert value == model


def test_growing_member_by_member_prepares_the_order() -> None:
    value = SortedSet({})
    for number in range(511):
        value.put(b"%d" % number, -number)
    assert value._order is None
    value.put(b"511", -511)
    assert value._order is not None
    value.put(b"512", -512)
    assert value.slice(0, 2) == [(-512.0, b"512"), (-511.0, b"511")]


@pytest.mark.parametrize("size", [0, 1, 30])
def test_ranges_of_scores(size: int) -> None:
    value = filled(random.Random(size), size)
    pairs = in_order(value)
    for low in SCORES:
        for high in SCORES:
            for without_low in (False, True):
                for without_high in (False, True):
                    first, end = value.by_score(low, high, without_low, without_high)
                    expected = [
                        pair
                        for pair in pairs
                        if (low < pair[0] if without_low else low <= pair[0])
                        and (pair[0] < high if without_high else pair[0] <= high)
                    ]
                    assert (value.slice(first, end) if first < end else []) == expected


def test_ranges_of_texts() -> None:
    texts = [b"", b"a", b"aa", b"ab", b"b", b"\xff", b"\xff\xff"]
    value = SortedSet(dict.fromkeys(texts, 3.0))
    bounds = [None, b"", b"a", b"a\0", b"ab", b"c", b"\xff", b"\xff\xff\xff"]
    for low in bounds:
        for high in bounds:
            for without_low in (False, True):
                for without_high in (False, True):
                    first, end = value.by_text(low, high, without_low, without_high)
                    expected = [
                        text
                        for text in texts
                        if (low is None or (low < text if without_low else low <= text))
                        and (high is None or (text < high if without_high else text <= high))
                    ]
                    assert [text for _, text in (value.slice(first, end) if first < end else [])] == expected
    assert SortedSet({}).by_text(None, None, False, False) == (0, 0)


def test_draws_are_members_and_different() -> None:
    generator = random.Random(4)
    value = filled(generator, 20)
    for count in (0, 1, 5, 15, 19, 20, 50):
        seen: set[bytes] = set()
        for _ in range(60):
            drawn = value.draw_many(count, generator.randrange)
            assert len({member for _, member in drawn}) == len(drawn) == min(count, 20)
            assert all(value.get(member) == score for score, member in drawn)
            seen.update(member for _, member in drawn)
        assert len(seen) == (20 if count else 0)
    assert {value.at(rank) for rank in range(20)} == set(in_order(value))


def test_zeros_of_both_signs_are_one_score() -> None:
    value = SortedSet({b"b": -0.0, b"a": 0.0})
    assert [member for _, member in value.slice(0, 2)] == [b"a", b"b"]
    assert value.by_score(0.0, 0.0, False, False) == value.by_score(-0.0, -0.0, False, False) == (0, 2)
    value.put(b"b", 1.0)
    assert value.slice(0, 2) == [(0.0, b"a"), (1.0, b"b")]
