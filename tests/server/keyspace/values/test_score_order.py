"""ScoreOrder: many blocks, few scores and many, against a list that is sorted again for every question."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable

import pytest

from server.keyspace.values.score_order import BLOCK, ScoreOrder

Draw = Callable[[random.Random], float]


def few(generator: random.Random) -> float:
    return float(generator.randrange(3))


def some(generator: random.Random) -> float:
    return float(generator.randrange(500))


def many(generator: random.Random) -> float:
    return generator.random()


class Pair:
    """An order, and the scores that it was told of."""

    def __init__(self, scores: dict[bytes, float]) -> None:
        self.scores = scores
        self.order = ScoreOrder(scores)

    def put(self, member: bytes, score: float) -> None:
        old = self.scores.get(member)
        if old is not None:
            self.order.remove(old, member)
        self.scores[member] = score
        self.order.add(score, member)

    def discard(self, member: bytes) -> None:
        self.order.remove(self.scores[member], member)
        del self.scores[member]

    def pairs(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.scores.items())

    def compare(self, generator: random.Random, draw: Draw) -> None:
        """Every kind of question, some times each."""
        self.order.check()
        pairs = self.pairs()
        size = len(pairs)
        for _ in range(20):
            first = generator.randrange(size + 1)
            end = first + generator.choice([0, 1, 10, BLOCK, size])
            assert self.order.slice(first, end) == pairs[first:end]
            score = draw(generator)
            member = b"%d" % generator.randrange(3 * size + 1)
            assert self.order.rank(score, member) == bisect_left(pairs, (score, member))
            scores = [each for each, _ in pairs]
            assert self.order.below(score) == bisect_left(scores, score)
            assert self.order.up_to(score) == bisect_right(scores, score)
            if size:
                rank = generator.randrange(size)
                assert self.order.at(rank) == pairs[rank]
                assert self.order.rank(*pairs[rank]) == rank


@pytest.mark.parametrize("draw", [few, some, many])
def test_it_stays_in_order_while_it_grows_and_shrinks(draw: Draw) -> None:
    generator = random.Random(7)
    pair = Pair({})
    for number in range(4 * BLOCK):
        pair.put(b"%d" % generator.randrange(10**6), draw(generator))
        if number % 700 == 0:
            pair.compare(generator, draw)
    for _ in range(2 * BLOCK):
        pair.put(generator.choice(list(pair.scores)), draw(generator))
    pair.compare(generator, draw)
    members = list(pair.scores)
    generator.shuffle(members)
    for number, member in enumerate(members):
        pair.discard(member)
        if number % 700 == 0:
            pair.compare(generator, draw)
    assert len(pair.order) == 0 == len(pair.order.slice(0, 9))
    pair.put(b"again", 1.0)
    assert pair.order.slice(0, 9) == [(1.0, b"again")]


@pytest.mark.parametrize("draw", [few, some, many])
def test_one_that_comes_as_a_whole_is_sorted(draw: Draw) -> None:
    generator = random.Random(8)
    names = [b"%d" % number for number in range(34 * BLOCK + 5)]
    generator.shuffle(names)
    pair = Pair({name: draw(generator) for name in names})
    pair.compare(generator, draw)
    pair.put(b"one more", draw(generator))
    pair.discard(names[0])
    pair.compare(generator, draw)


@pytest.mark.parametrize("draw", [few, many])
def test_ranges_are_taken_out_across_blocks(draw: Draw) -> None:
    generator = random.Random(9)
    pair = Pair({b"%d" % number: draw(generator) for number in range(8 * BLOCK)})
    while pair.scores:
        size = len(pair.scores)
        first = generator.randrange(size)
        end = min(size, first + generator.choice([1, 1, 40, BLOCK, 3 * BLOCK]))
        expected = pair.pairs()[first:end]
        assert pair.order.take(first, end) == expected
        for _, member in expected:
            del pair.scores[member]
        if size % 3 == 0:
            pair.order.check()
    pair.order.check()


def test_a_copy_goes_its_own_way() -> None:
    pair = Pair({b"%d" % number: float(number) for number in range(3 * BLOCK)})
    scores = dict(pair.scores)
    copy = pair.order.copy(scores)
    pair.discard(b"7")
    scores[b"new"] = 0.5
    copy.add(0.5, b"new")
    pair.order.check()
    copy.check()
    assert copy.slice(0, 2) == [(0.0, b"0"), (0.5, b"new")]


def test_what_is_left_of_many_blocks_lies_in_few() -> None:
    generator = random.Random(10)
    pair = Pair({b"%d" % number: float(number) for number in range(20 * BLOCK)})
    for member in generator.sample(sorted(pair.scores), 19 * BLOCK):
        pair.discard(member)
    pair.order.check()
    assert len(pair.order) == BLOCK
    assert len(pair.order._blocks) <= 6
