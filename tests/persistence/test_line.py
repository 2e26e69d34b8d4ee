"""What waits for a flush: by key, by age, and in no dictionary that could stop the world."""

from __future__ import annotations

from random import Random

import pytest

from persistence.breaker import Breaker
from persistence.change import DELETE, NEVER, STRING, WRITE, Change
from persistence.journal_ledger import Ledger
from persistence.journal_records import Recorded, pack_change, read_records
from persistence.line import CHUNK_BITS, SHARD_MASK, Line, Text
from persistence.managed import ManagedPrefix, Target
from persistence.pending import PENDING_OVERHEAD, Pending
from persistence.prefixes import READ_THROUGH, WRITE_BEHIND, PrefixRule, Template
from server.clock import SystemClock

RULE = PrefixRule(Template("kv:"), store="main", read=READ_THROUGH, write=WRITE_BEHIND)


@pytest.fixture
def prefix() -> ManagedPrefix:
    return ManagedPrefix(RULE, None, Breaker("main", SystemClock(), Random(1)))


def pending_of(prefix: ManagedPrefix, key: bytes, seq: int) -> Pending:
    return Pending(Target(key, prefix, ()), Change(key, DELETE, STRING, None, None, NEVER, None), seq, seq, 1)


def put_text(line: Line, key: bytes, value: bytes, seq: int) -> None:
    """As the queue does it of a key of which nothing waits."""
    line.shards[hash(key) & SHARD_MASK][key] = Text(value, seq, seq * 10)
    line.chunk_of(seq)[seq] = key
    line.came(seq, 1)


def test_text_is_written_out_for_whoever_asks(prefix: ManagedPrefix) -> None:
    line = Line(prefix)
    put_text(line, b"kv:1", b"value", 7)
    pending = line.get(b"kv:1")
    assert pending is not None and line.get(b"kv:1") is pending
    change = pending.change
    assert (change.key, change.verb, change.kind, change.value) == (b"kv:1", WRITE, STRING, b"value")
    assert (change.members, change.deadline_ms, change.existed) == (None, NEVER, None)
    assert (pending.seq, pending.first_seq, pending.first_ms, pending.attempts) == (7, 7, 70, 0)
    assert pending.bytes == len(b"kv:1value") + PENDING_OVERHEAD
    assert (pending.target.prefix, pending.target.row_key) == (prefix, ())


def test_what_is_put_back_has_its_old_place(prefix: ManagedPrefix) -> None:
    line = Line(prefix)
    for seq in range(1, 6):
        put_text(line, b"kv:%d" % seq, b"v", seq)
    taken = [line.pop(b"kv:%d" % seq) for seq in (3, 1)]
    assert [pending.target.key for pending in line.values()] == [b"kv:2", b"kv:4", b"kv:5"]
    for pending in taken:
        assert pending is not None
        line[pending.target.key] = pending
    assert [pending.first_seq for pending in line.values()] == [1, 2, 3, 4, 5]
    assert line.oldest() == 1


@pytest.mark.parametrize("seed", range(4))
def test_line_says_what_a_sorted_list_says(prefix: ManagedPrefix, seed: int) -> None:
    random = Random(seed)
    line = Line(prefix)
    waiting: dict[bytes, int] = {}
    aside: list[Pending] = []
    seq = 0
    for _ in range(1500):
        # Far apart, so that there are many chunks.
        seq += random.randrange(1, 1 << (CHUNK_BITS - 4))
        key = b"kv:%d" % random.randrange(200)
        what = random.randrange(4)
        if what == 0 and aside:
            back = aside.pop(random.randrange(len(aside)))
            if back.target.key not in waiting:
                line[back.target.key] = back
                waiting[back.target.key] = back.first_seq
        elif key in waiting:
            if what == 1:
                del line[key]
            else:
                taken = line.pop(key)
                assert taken is not None and taken.first_seq == waiting[key]
                aside.append(taken)
            del waiting[key]
        elif what == 1:
            line[key] = pending_of(prefix, key, seq)
            waiting[key] = seq
        else:
            put_text(line, key, b"v", seq)
            waiting[key] = seq
        ages = sorted(waiting.values())
        assert (len(line), line.oldest()) == (len(ages), ages[0] if ages else 0)
        until = random.randrange(seq + 1)
        assert line.count_until(until) == sum(age <= until for age in ages)
    by_age = sorted(waiting, key=lambda key: waiting[key])
    assert {key for number in line.chunks() for key in line.keys_of(number)} == waiting.keys()
    assert [pending.target.key for pending in line.values()] == by_age
    stripped = [each for number in line.chunks() for each in line.strip(number)]
    assert sorted(key for key, _ in stripped) == sorted(waiting)
    assert (len(line), line.oldest(), list(line.values()), line.pop(by_age[0])) == (0, 0, [], None)


def test_no_dictionary_grows_with_the_number_of_unsaved_keys(prefix: ManagedPrefix) -> None:
    keys = 100_000
    line = Line(prefix)
    ledger = Ledger()
    for first in range(1, keys, 1000):
        ledger.begin_group(first)
        names = [b"kv:%d" % seq for seq in range(first, first + 1000)]
        ledger.record_texts("kv:", names, [b"v"] * 1000, [0] * 1000, first, 1, 0, [])
        for seq, name in enumerate(names, first):
            put_text(line, name, b"v", seq)
    share = 1.2 * keys / (SHARD_MASK + 1)
    assert max(map(len, line.shards)) < share
    assert max(len(line.keys_of(number)) for number in line.chunks()) <= 1 << CHUNK_BITS
    assert max(map(len, ledger._prefixes["kv:"].shards)) < share
    assert len(ledger._counts) <= keys / 1000


# -- the same in the journal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noted", [0, 1_699_999_999_300], ids=["asked", "not asked"])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536])
def test_pieces_of_a_text_are_the_record_of_its_change(size: int, noted: int) -> None:
    pieces: list[bytes] = []
    key = b"kv:" + b"k" * size
    values = [b"v" * size, b"w" * size]
    told = Ledger().record_texts("kv:", [key, key], values, [0, noted], 5, 1_700_000_000_000, 700, pieces)
    body = b"".join(pieces)
    assert told == len(body)
    packed = [
        pack_change(
            "kv:", Change(key, WRITE, STRING, value * size, None, NEVER, None), False, None, 1_700_000_000_000, 0
        )
        for value in (b"v", b"w")
    ]
    assert body == b"".join(packed)
    read = list(read_records(body, 5, 2, 1))
    assert all(isinstance(each, Recorded) and each.first_ms == 1_700_000_000_000 for each in read)


def test_oldest_group_that_is_needed_follows_what_is_settled_and_overwritten() -> None:
    ledger = Ledger()
    for first in (10, 20, 30):
        ledger.begin_group(first)
        ledger.record_texts("kv:", [b"%d" % first, b"twice"], [b"v", b"v"], [0, 0], first, 1, 0, [])
    assert ledger.floor(99) == 10
    ledger.settle([("kv:", b"10", 10)])
    assert ledger.floor(99) == 20
    ledger.record_text("kv:", b"20", b"again", 32, 1)
    assert (ledger.floor(99), ledger.unsaved_keys()) == (30, 3)
    ledger.settle([("kv:", b"20", 20), ("kv:", b"twice", 31), ("kv:", b"30", 30)])
    assert (ledger.floor(99), ledger.unsaved_keys(), ledger.needed_from("kv:", b"20")) == (30, 1, 32)
    ledger.settle([("kv:", b"20", 32)])
    assert (ledger.floor(99), ledger.unsaved_keys()) == (99, 0)
