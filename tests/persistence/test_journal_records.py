"""Records: what is written is what is read, recovery folds changes as the queue merges them, nonsense is refused."""

from __future__ import annotations

import copy
import math

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence.change import DELETE, EXPIRY, HASH, LIST, NEVER, SET, STREAM, STRING, WRITE, ZSET, Change
from persistence.dead_letters import DeadLetter
from persistence.field_lifetimes import ExpiringHash
from persistence.journal_frames import Bad
from persistence.journal_ledger import Ledger
from persistence.journal_records import (
    BATCH,
    GIVEN_UP,
    LETTER,
    MEMBERS,
    OUTCOME,
    TRIMMED,
    WHOLE,
    Batch,
    GivenUp,
    Outcome,
    Recorded,
    apply_members,
    fold,
    pack,
    pack_change,
    pack_items,
    pack_letter,
    read_records,
)
from persistence.journal_replay import Replay
from persistence.pending import merge
from tests.support.choices import Choices, chosen
from tests.support.journals import fields, gone, lifetime, members, same, scores, text


def there_and_back(change: Change, partial: bool = False) -> Recorded:
    body = pack_change("p:", change, partial, change.existed, 77, 0)
    (recorded,) = read_records(body, 5, 1, 1)
    assert isinstance(recorded, Recorded)
    assert (recorded.prefix, recorded.seq, recorded.first_ms) == ("p:", 5, 77)
    return recorded


@pytest.mark.parametrize(
    "change",
    [
        text(b"k", b"\xff\x00 bytes", None, 12_345),
        text(b"", b""),
        fields(b"k", {b"a": b"1", b"": b""}, None, False),
        members(b"k", {b"a", b"b"}, None),
        scores(b"k", {b"a": 1.5, b"b": math.inf, b"c": -math.inf, b"d": 5e-324}, None),
        Change(b"k", WRITE, LIST, [b"a", b"b", b"a"], None, NEVER, True),
        Change(b"k", WRITE, STREAM, [[b"1-1", [b"f", b"v"]], {b"group": 3}], None, NEVER, True),
        gone(b"k", None),
        lifetime(b"k", 99),
    ],
    ids=repr,
)
def test_change_survives_the_way_there_and_back(change: Change) -> None:
    assert same(there_and_back(change).change, change)


def test_negative_zero_keeps_its_sign() -> None:
    value = there_and_back(scores(b"k", {b"a": -0.0}, None)).change.value
    assert isinstance(value, dict)
    assert math.copysign(1, value[b"a"]) == -1


def test_members_alone_are_recorded_of_a_row_that_was_there() -> None:
    change = there_and_back(fields(b"k", {b"a": b"1", b"b": b"2"}, {b"b", b"c"}), partial=True).change
    assert (change.members, change.value) == ({b"b", b"c"}, {b"b": b"2"})
    change = there_and_back(members(b"k", {b"a", b"b"}, {b"b", b"c"}), partial=True).change
    assert (change.members, change.value) == ({b"b", b"c"}, {b"b"})
    change = there_and_back(scores(b"k", {b"a": 1.0, b"b": 2.0}, {b"b", b"c"}), partial=True).change
    assert (change.members, change.value) == ({b"b", b"c"}, {b"b": 2.0})


def test_one_member_of_a_large_set_is_tens_of_bytes() -> None:
    large = {b"member%d" % number for number in range(100_000)}
    record = Ledger().record("tags:{id:int}", Change(b"tags:1", WRITE, SET, large, {b"member7"}, NEVER, True), 1, 1, 0)
    assert len(record) < 60


def test_deadline_is_recorded_as_wall_clock_time() -> None:
    body = pack_change("p:", text(b"k", b"v", None, 1_000), False, None, 0, 500)
    (recorded,) = read_records(body, 1, 1, 1)
    assert isinstance(recorded, Recorded)
    assert recorded.change.deadline_ms == 1_500


def test_dead_letter_survives_the_way_there_and_back() -> None:
    change = fields(b"k", {b"a": b"1"}, {b"a", b"b"})
    dead = DeadLetter("p:", b"k", 9, "23514", "no", 5, 1234, change)
    dead.id = 3
    body = pack_letter(dead, 0)
    (letter,) = read_records(body, 1, 1, 0)
    assert isinstance(letter, DeadLetter)
    got = (letter.id, letter.prefix, letter.key, letter.seq, letter.sqlstate, letter.message, letter.attempts)
    assert got == (3, "p:", b"k", 9, "23514", "no", 5)
    assert letter.unix_ms == 1234
    assert same(letter.change, change)


def test_records_of_ours_survive_the_way_there_and_back() -> None:
    items = [("p:", b"a", 1), ("q:", b"b", 2), ("p:", b"c", 3)]
    body = pack((BATCH, "main", pack_items(items))) + pack((OUTCOME, 1, True)) + pack((GIVEN_UP, "p:", 7))
    batch, outcome, given_up = read_records(body, 10, 3, 1)
    assert isinstance(batch, Batch)
    assert (batch.number, batch.store, sorted(batch.items)) == (10, "main", sorted(items))
    assert isinstance(outcome, Outcome)
    assert (outcome.number, outcome.applied) == (1, True)
    assert isinstance(given_up, GivenUp)
    assert (given_up.prefix, given_up.seq) == ("p:", 7)


# -- folding ----------------------------------------------------------------------------------------------------------

KINDS = {HASH: {b"a": b"1", b"b": b"2"}, SET: {b"a", b"b"}, ZSET: {b"a": 1.0, b"b": 2.0}}
_EMPTY: dict[int, object] = {HASH: {}, SET: set(), ZSET: {}}


def _touched(kind: int, value: object, member: bytes, number: int) -> object:
    # The value with one member set, or taken out when the number is 0.
    if kind == SET:
        assert isinstance(value, set)
        return value | {member} if number else value - {member}
    assert isinstance(value, dict)
    rest = {name: item for name, item in value.items() if name != member}
    return {**rest, member: b"%d" % number if kind == HASH else float(number)} if number else rest


@st.composite
def lives(draw: st.DrawFn) -> list[Change]:
    """What clients do to one key one after another, as handlers tell it."""
    start = draw(st.sampled_from([None, HASH, SET, ZSET]))
    held: tuple[int, object] | None = (start, copy.copy(KINDS[start])) if start is not None else None
    changes: list[Change] = []
    for number in range(1, draw(st.integers(1, 7)) + 1):
        choice = draw(st.sampled_from(["member", "member", "member", "set", "delete", "expire"]))
        existed = held is not None
        if choice == "set":
            held = (STRING, b"%d" % number)
            changes.append(text(b"k", b"%d" % number, draw(st.sampled_from([existed, None]))))
        elif choice == "delete":
            held = None
            changes.append(gone(b"k", draw(st.sampled_from([existed, None]))))
        elif choice == "expire":
            if held is not None:
                changes.append(Change(b"k", EXPIRY, held[0], None, None, number * 10, True))
        else:
            kind = held[0] if held is not None and held[0] != STRING else draw(st.sampled_from([HASH, SET, ZSET]))
            if held is not None and held[0] == STRING:
                continue
            before = held[1] if held is not None else _EMPTY[kind]
            member = draw(st.sampled_from([b"a", b"b", b"c"]))
            after = _touched(kind, before, member, draw(st.sampled_from([0, number])) if existed else number)
            if not after:
                held = None
                # The last member was taken out: which ones went is known.
                changes.append(Change(b"k", DELETE, 0, None, {member}, NEVER, True))
                continue
            held = (kind, after)
            changes.append(Change(b"k", WRITE, kind, after, {member} if existed else None, NEVER, existed))
    return changes


@settings(max_examples=400, deadline=None)
@given(lives())
def test_what_recovery_folds_is_what_the_queue_has_merged(changes: list[Change]) -> None:
    ledger = Ledger()
    replay = Replay()
    queued: Change | None = None
    for seq, change in enumerate(changes, 1):
        body = ledger.record("p:", change, seq, seq * 100, 0)
        for record in read_records(body, seq, 1, 1):
            replay.apply(record)
        fresh = Change(
            change.key, change.verb, change.kind, change.value, change.members, change.deadline_ms, change.existed
        )
        queued = fresh if queued is None else merge(queued, fresh)
    recovered = replay.take_unsaved(0)
    if queued is None:
        assert recovered == []
        return
    (recorded,) = recovered
    change = recorded.change
    assert (recorded.seq, recorded.first_ms) == (len(changes), 100)
    if queued.members is None or queued.verb == DELETE:
        assert same(change, queued)
        return
    # Of a row that the database has, recovery knows the touched members alone.
    assert (change.verb, change.kind, change.members, change.existed, change.deadline_ms) == (
        queued.verb,
        queued.kind,
        queued.members,
        True,
        queued.deadline_ms,
    )
    assert apply_members(change.kind, _EMPTY[change.kind], change) == change.value
    for member in queued.members:
        assert _member(change.value, member) == _member(queued.value, member)


def _member(value: object, member: bytes) -> object:
    if isinstance(value, set):
        return member in value
    assert isinstance(value, dict)
    return value.get(member)


def test_members_on_a_tombstone_are_recorded_as_the_whole_value() -> None:
    ledger = Ledger()
    ledger.record("p:", gone(b"k"), 1, 1, 0)
    body = ledger.record("p:", fields(b"k", {b"a": b"1", b"b": b"2"}, {b"b"}, True), 2, 2, 0)
    (recorded,) = read_records(body, 2, 1, 1)
    assert isinstance(recorded, Recorded)
    assert (recorded.change.value, recorded.change.members) == ({b"a": b"1", b"b": b"2"}, None)
    assert recorded.change.existed is None


def test_field_lifetimes_are_recorded_with_their_fields() -> None:
    whole = ExpiringHash({b"a": b"1", b"b": b"2"}, {b"b": 99})
    assert there_and_back(Change(b"k", WRITE, HASH, whole, None, NEVER, True)).change.value == whole
    touched = there_and_back(Change(b"k", WRITE, HASH, whole, {b"b"}, NEVER, True), partial=True).change
    assert touched.value == ExpiringHash({b"b": b"2"}, {b"b": 99})
    base = ExpiringHash({b"b": b"0", b"c": b"3"}, {b"c": 7})
    both = ExpiringHash({b"b": b"2", b"c": b"3"}, {b"b": 99, b"c": 7})
    assert apply_members(HASH, base, touched) == both
    # A field that is written anew has no lifetime.
    plain = there_and_back(fields(b"k", {b"b": b"4"}, {b"b"}), partial=True).change
    assert apply_members(HASH, both, plain) == ExpiringHash({b"b": b"4", b"c": b"3"}, {b"c": 7})


def test_members_are_put_on_a_value_that_was_loaded() -> None:
    change = fields(b"k", {b"a": b"9"}, {b"a", b"b"})
    assert apply_members(HASH, {b"a": b"1", b"b": b"2", b"c": b"3"}, change) == {b"a": b"9", b"c": b"3"}
    change = members(b"k", {b"a"}, {b"a", b"b"})
    assert apply_members(SET, {b"b", b"c"}, change) == {b"a", b"c"}


def test_folding_a_lifetime_keeps_the_value() -> None:
    folded = fold(there_and_back(text(b"k", b"v")), there_and_back(lifetime(b"k", 99)))
    assert (folded.change.verb, folded.change.value, folded.change.deadline_ms) == (WRITE, b"v", 99)


# -- nonsense ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        7,
        [],
        [99],
        ["text"],
        [WHOLE, "p:"],
        [WHOLE, b"p:", b"k", None, 1, None, STRING, b"v"],
        [WHOLE, "p:", "k", None, 1, None, STRING, b"v"],
        [WHOLE, "p:", b"k", 1, 1, None, STRING, b"v"],
        [WHOLE, "p:", b"k", None, -1, None, STRING, b"v"],
        [WHOLE, "p:", b"k", None, 1, 1 << 63, STRING, b"v"],
        [WHOLE, "p:", b"k", None, 1, None, 9, b"v"],
        [WHOLE, "p:", b"k", None, 1, None, HASH, b"v"],
        [WHOLE, "p:", b"k", None, 1, None, HASH, {b"a": 1}],
        [WHOLE, "p:", b"k", None, 1, None, ZSET, {b"a": math.nan}],
        [WHOLE, "p:", b"k", None, 1, None, SET, [1]],
        [MEMBERS, "p:", b"k", True, 1, None, STRING, {b"a": b"v"}],
        [MEMBERS, "p:", b"k", True, 1, None, HASH, [b"a"]],
        [BATCH, "main", ["p:", [b"k"]]],
        [BATCH, "main", ["p:", [b"k"], []]],
        [OUTCOME, 1, None],
        [TRIMMED, 9],
        [LETTER, 1, "p:", b"k", 1, "23514", "m", 1, 1, [OUTCOME, 1, True]],
        [LETTER, 1, "p:", b"k", 1, "23514", "m", 1, 1, [LETTER]],
    ],
    ids=repr,
)
def test_record_that_makes_no_sense_is_refused(record: object) -> None:
    with pytest.raises(Bad):
        list(read_records(msgpack.packb(record, use_bin_type=True), 1, 1, 1))


def test_body_with_more_or_fewer_records_than_said_is_refused() -> None:
    body = pack((OUTCOME, 1, True))
    for count in (2, 3):
        with pytest.raises(Bad):
            list(read_records(body, 1, count, 1))
    with pytest.raises(Bad):
        list(read_records(body + body, 1, 1, 1))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_do_worse_than_being_refused(body: bytes, count: int) -> None:
    try:
        records = list(read_records(body, 1, count, 1))
    except Bad:
        return
    assert len(records) == count


def record_of_any_kind(choices: Choices) -> list[object]:
    return [choices.below(14), *[_any_value(choices, 3) for _ in range(choices.below(10))]]


def _any_value(choices: Choices, deep: int) -> object:
    kind = choices.below(7 if deep else 5)
    if kind == 0:
        return choices.one_of([None, False, True])
    if kind == 1:
        return choices.below(300)
    if kind == 2:
        return choices.below((1 << 64) + (1 << 63)) - (1 << 63)
    if kind == 3:
        return choices.some(5)
    if kind == 4:
        return choices.some(5).decode("latin-1")
    if kind == 5:
        return [_any_value(choices, deep - 1) for _ in range(choices.below(9))]
    return {choices.some(3): _any_value(choices, deep - 1) for _ in range(choices.below(4))}


@settings(max_examples=500, deadline=None)
@given(chosen(record_of_any_kind, 200))
def test_no_record_does_worse_than_being_refused(record: list[object]) -> None:
    body = msgpack.packb(record, use_bin_type=True)
    try:
        (understood,) = read_records(body, 1, 1, 1)
    except Bad:
        return
    replay = Replay()
    replay.apply(understood)
    replay.take_unsaved(0)


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(Bad):
        list(read_records(b"\x91" * 100_000 + b"\x01", 1, 1, 1))
    letters = b""
    for _ in range(400):
        letters += msgpack.packb([LETTER, 1, "p:", b"k", 1, "23514", "m", 1, 1, None])[:-1]
    with pytest.raises(Bad):
        list(read_records(letters + b"\x01", 1, 1, 1))


def test_delete_verb_has_no_value() -> None:
    assert there_and_back(gone(b"k")).change.verb == DELETE
