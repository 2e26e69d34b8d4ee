"""ListValue against a plain Python list, in blocks so small that every seam between them is met."""

from __future__ import annotations

import random

import pytest

from protocol.quick import COMPILED
from server.keyspace.values import list_value
from server.keyspace.values.list_value import ListValue

USUAL = list_value.BLOCK


@pytest.fixture(params=[4, 16, USUAL], ids=["tiny", "small", "usual"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    if COMPILED:
        # The compiler has put the number where it is used.
        return USUAL
    monkeypatch.setattr(list_value, "BLOCK", request.param)
    return int(request.param)


def step(r: random.Random, ours: ListValue, plain: list[bytes]) -> None:
    """One random operation on both, with the same result."""
    item = b"%d" % r.randrange(6)
    kind = r.randrange(12)
    at = r.randint(0, len(plain))
    end = r.randint(at, len(plain))
    if kind < 2:
        ours.push_left(item)
        plain.insert(0, item)
    elif kind < 4:
        ours.push_right(item)
        plain.append(item)
    elif kind == 4 and plain:
        assert ours.pop_left() == plain.pop(0)
    elif kind == 5 and plain:
        assert ours.pop_right() == plain.pop()
    elif kind == 6:
        ours.insert(at, item)
        plain.insert(at, item)
    elif kind == 7 and at < len(plain):
        assert ours.get(at) == plain[at]
        assert ours.set(at, item * 3) == plain[at]
        plain[at] = item * 3
    elif kind == 8:
        assert ours.slice(at, end) == plain[at:end]
        if r.random() < 0.1:
            before = ours.weight()
            assert ours.trim(at, end) == before - ours.weight()
            plain[:] = plain[at:end]
    elif kind == 9 and r.random() < 0.3:
        remove(ours, plain, item, r.randint(-3, 3))
    elif kind >= 10:
        several = [item] * r.choice([1, 2, 3, 40])
        if kind == 10:
            ours.extend(several)
            plain += several
        else:
            several[0] = b"last"
            ours.extend_left(several)
            plain[:0] = several[::-1]


def remove(ours: ListValue, plain: list[bytes], item: bytes, count: int) -> None:
    places = [at for at, each in enumerate(plain) if each == item]
    places = places[:count] if count > 0 else places[count:]
    assert ours.remove(item, count) == len(places)
    plain[:] = [each for at, each in enumerate(plain) if at not in places]


@pytest.mark.parametrize("seed", range(15))
def test_any_operations_have_the_result_they_have_on_a_plain_list(block: int, seed: int) -> None:
    r = random.Random(seed)
    plain = [b"%d" % r.randrange(6) for _ in range(r.choice([0, 3, block, 5 * block]))]
    ours = ListValue(plain)
    plain = list(plain)
    for _ in range(300):
        step(r, ours, plain)
        ours.check()
    assert ours == plain
    assert list(reversed(ours)) == plain[::-1]
    assert ours.copy() == ours
    assert len(ours) == len(plain)


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_those_of_a_plain_search(block: int, seed: int) -> None:
    r = random.Random(seed)
    plain = [b"%d" % r.randrange(5) for _ in range(r.randint(0, 60))]
    ours = ListValue()
    for item in reversed(plain[:20]):
        ours.push_left(item)
    ours.extend(plain[20:])
    for _ in range(40):
        item = b"%d" % r.randrange(6)
        from_right, rank, limit, most = r.random() < 0.5, r.randint(1, 3), r.randint(1, 5), r.randint(1, 70)
        order = range(len(plain))[::-1] if from_right else range(len(plain))
        expected = [at for at in list(order)[:most] if plain[at] == item][rank - 1 :][:limit]
        assert ours.positions(item, from_right, rank, limit, most) == expected
        assert ours.position(item) == (plain.index(item) if item in plain else -1)


def test_many_elements_at_once_become_blocks_as_if_they_came_one_by_one(block: int) -> None:
    many = [b"%d" % at for at in range(5 * block + 3)]
    at_once, one_by_one = ListValue(), ListValue()
    at_once.extend_left(many)
    for item in many:
        one_by_one.push_left(item)
    at_once.check()
    assert at_once == one_by_one == ListValue(many[::-1])
    assert at_once._middle is not None and max(map(len, at_once._middle)) == block


def test_copy_shares_nothing(block: int) -> None:
    ours = ListValue([b"%d" % at for at in range(3 * block)])
    copy = ours.copy()
    ours.set(block, b"other")
    ours.pop_left()
    ours.push_right(b"more")
    assert copy == [b"%d" % at for at in range(3 * block)]
    copy.check()


def test_queue_used_from_both_ends_gives_up_its_blocks(block: int) -> None:
    ours = ListValue()
    for at in range(10 * block):
        ours.push_left(b"%d" % at)
    for at in range(10 * block):
        assert ours.pop_right() == b"%d" % at
        ours.push_left(b"x")
        assert ours.pop_left() == b"x"
    assert len(ours) == 0
    ours.check()
    with pytest.raises(IndexError):
        ours.pop_left()
    with pytest.raises(IndexError):
        ours.pop_right()


def test_removing_most_elements_leaves_few_blocks() -> None:
    ours = ListValue([b"keep" if at % 500 == 0 else b"go" for at in range(50_000)])
    assert ours.remove(b"go", 0) == 49_900
    assert ours._middle is not None and len(ours._middle) == 1
    ours.check()
