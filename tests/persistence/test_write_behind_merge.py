"""Merging changes of one key: what a queue holds must have the effect of everything that was acknowledged."""

from __future__ import annotations

from persistence.change import DELETE, EXPIRY, HASH, NEVER, STRING, WRITE, Change
from persistence.pending import merge


def value(text: bytes, existed: bool | None = None) -> Change:
    return Change(b"k", WRITE, STRING, text, None, NEVER, existed)


def members(existed: bool, **fields: bytes) -> Change:
    row = {name.encode(): item for name, item in fields.items()}
    return Change(b"k", WRITE, HASH, row, set(row), NEVER, existed)


def delete() -> Change:
    return Change(b"k", DELETE, 0, None, None, NEVER, True)


def test_value_and_value_leave_the_last() -> None:
    merged = merge(value(b"1", False), value(b"2", True))
    assert (merged.verb, merged.value, merged.members, merged.existed) == (WRITE, b"2", None, False)


def test_members_and_members_leave_the_union_with_the_newest_value() -> None:
    merged = merge(members(True, a=b"1"), members(True, b=b"2"))
    assert merged.members == {b"a", b"b"}
    assert merged.value == {b"b": b"2"}
    assert merged.existed is True


def test_members_on_a_row_that_the_store_does_not_have_write_all_of_it() -> None:
    merged = merge(members(False, a=b"1"), members(True, b=b"2"))
    assert merged.members is None
    assert merged.existed is False


def test_anything_and_delete_leave_a_tombstone() -> None:
    assert merge(value(b"1"), delete()).verb == DELETE
    assert merge(members(True, a=b"1"), delete()).verb == DELETE


def test_write_on_a_tombstone_replaces_the_row() -> None:
    merged = merge(delete(), members(False, a=b"1"))
    assert (merged.verb, merged.members, merged.existed) == (WRITE, None, None)


def test_new_lifetime_keeps_the_unsaved_value() -> None:
    merged = merge(value(b"1"), Change(b"k", EXPIRY, STRING, b"1", None, 5000, True))
    assert (merged.verb, merged.value, merged.deadline_ms) == (WRITE, b"1", 5000)
