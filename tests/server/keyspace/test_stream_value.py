"""IdMap and Stream: their invariants under random operations, and the plain form in which stores keep a stream."""

from __future__ import annotations

import random

import msgpack
import pytest

from persistence.change import STREAM
from persistence.generic import _pack_array, _unpack_stream
from server.keyspace.values import id_map
from server.keyspace.values.id_map import IdMap
from server.keyspace.values.kinds import revive, weigh
from server.keyspace.values.stream import ID_MAX, Consumer, Group, Stream


@pytest.mark.parametrize("seed", range(20))
def test_map_of_ids_is_as_good_as_a_sorted_dictionary(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_map, "BLOCK", 4)
    r = random.Random(seed)
    ours: IdMap[int] = IdMap()
    plain: dict[int, int] = {}
    for step in range(400):
        number = r.randrange(200) if r.random() < 0.6 else max(plain, default=0) + 1
        if r.random() < 0.6:
            ours.put(number, step)
            plain[number] = step
        else:
            assert ours.pop(number) == plain.pop(number, None)
        assert ours.get(number) == plain.get(number)
        low, high = r.randrange(220), r.randrange(220)
        within = [(each, plain[each]) for each in sorted(plain) if low <= each <= high]
        assert list(ours.upward(low, high)) == within
        assert list(ours.downward(high, low)) == within[::-1]
        assert (ours.first(), ours.last()) == (min(plain, default=0), max(plain, default=0))
        assert len(ours) == len(plain)
        ours.check()


def random_stream(seed: int) -> Stream:
    r = random.Random(seed)
    stream = Stream()
    for group in (b"g", b"h"):
        stream.groups[group] = Group(group, 0, 0)
        for name in (b"c", b"d"):
            stream.groups[group].consumers[name] = Consumer(name, 7)
    for at in range(1, 400):
        words = [word for _ in range(r.choice([1, 2])) for word in (b"f%d" % r.randrange(90), b"v" * r.randrange(9))]
        stream.append(at << 64 | r.randrange(3), words)
        group = stream.groups[r.choice([b"g", b"h"])]
        consumer = group.consumers[r.choice([b"c", b"d"])]
        for number, _ in list(stream.entries.upward(group.last_id + 1, ID_MAX))[:2]:
            stream.advance(group, number)
            group.assign(number, consumer, at, 1)
        target = r.randrange(at) << 64
        for number, _ in list(stream.entries.upward(target, target + 9)):
            r.choice([stream.delete, group.settle])(number)
        if r.random() < 0.05:
            stream.trim(r.randrange(100), 0, r.random() < 0.5, 0)
        stream.check()
    return stream


@pytest.mark.parametrize("seed", range(5))
def test_stream_comes_back_from_its_stored_form(seed: int) -> None:
    stream = random_stream(seed)
    plain = _unpack_stream(_pack_array(stream))
    assert stream == plain
    again = revive(STREAM, plain)
    assert isinstance(again, Stream)
    again.check()
    assert again == stream and again is not stream
    assert revive(STREAM, again) is again
    # Names that only deleted entries had are not shared any more.
    assert weigh(STREAM, again) <= weigh(STREAM, stream)


def test_copy_of_a_stream_shares_nothing_that_changes() -> None:
    stream = random_stream(1)
    before = list(stream)
    copy = stream.copy()
    copy.check()
    assert copy == stream and weigh(STREAM, copy) == weigh(STREAM, stream)
    copy.append(stream.last_id + 1, [b"new", b"words"])
    group = copy.groups[b"g"]
    group.dismiss(group.consumers[b"c"])
    copy.trim(0, 0, False, 0)
    copy.check()
    assert list(stream) == before
    stream.check()


ID = b"\0" * 16


@pytest.mark.parametrize(
    "plain",
    [
        [],
        [ID, ID, 0, []],
        [b"", ID, 0, [], []],
        [ID, ID, b"0", [], []],
        [b"\x01" * 16, ID, 1, [[ID, [b"f", b"v"]]], []],
        [b"\x01" * 16, ID, 1, [[b"\x01" * 16, [b"f"]]], []],
        [b"\x01" * 16, ID, 1, [[b"\x01" * 16, [b"f", 1]]], []],
        [b"\x01" * 16, ID, 1, [[b"\x02" * 16, [b"f", b"v"]]], []],
        [ID, ID, 0, [], [[b"g", ID, 0, []]]],
        [ID, ID, 0, [], [[b"g", ID, 0, [], [[ID, 0, 0, 1]]]]],
        [ID, ID, 0, [], [[b"g", ID, 0, [[b"c", 0]], []]]],
        {b"not": b"an array"},
        7,
    ],
)
def test_what_is_no_stream_is_refused_when_it_is_read(plain: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        _unpack_stream(msgpack.packb(plain))
