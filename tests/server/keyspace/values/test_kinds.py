"""The table of kinds: every plain value comes to life, is copied and weighed; and kinds that are missing are named."""

from __future__ import annotations

from math import inf

import pytest

from persistence.change import HASH, LIST, SET, STRING, ZSET
from server.keyspace.values.kinds import copy_value, is_empty, revive, weigh
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.weights import field_weight, member_weight, scored_weight

PLAIN: list[tuple[int, object, object]] = [
    (STRING, b"text", b""),
    (HASH, {b"f": b"v"}, {}),
    (LIST, [b"b", b"a", b"b"], []),
    (SET, {b"a", b"b"}, set()),
    (SET, frozenset((b"a", b"b")), frozenset()),
    (ZSET, {b"a": 1.0, b"b": -inf}, {}),
]
KINDS = pytest.mark.parametrize(("kind", "plain", "empty"), PLAIN)


@KINDS
def test_a_plain_value_comes_to_life_and_equals_what_it_was(kind: int, plain: object, empty: object) -> None:
    live = revive(kind, plain)
    assert live == plain
    assert plain == live
    assert (live != plain) is False
    assert revive(kind, live) is live
    assert live != empty


def test_what_is_revived_does_not_change_with_its_plain_form() -> None:
    members = {b"a"}
    scores = {b"a": 1.0}
    live_set, live_scores = revive(SET, members), revive(ZSET, scores)
    members.add(b"b")
    scores[b"a"] = 2.0
    assert live_set == {b"a"}
    assert live_scores == {b"a": 1.0}


@KINDS
def test_a_copy_equals_the_value_and_weighs_the_same(kind: int, plain: object, empty: object) -> None:
    live = revive(kind, plain)
    copy = copy_value(kind, live)
    assert copy == live
    assert kind == STRING or copy is not live
    assert weigh(kind, copy) == weigh(kind, live)


@KINDS
def test_only_a_string_may_be_empty(kind: int, plain: object, empty: object) -> None:
    assert not is_empty(kind, revive(kind, plain))
    assert is_empty(kind, revive(kind, empty)) is (kind != STRING)


def test_a_member_weighs_what_its_change_reports() -> None:
    assert weigh(HASH, {b"field": b"value"}) - weigh(HASH, {}) == field_weight(b"field", b"value")
    assert weigh(SET, MemberSet({b"member"})) - weigh(SET, MemberSet(set())) == member_weight(b"member")
    assert weigh(ZSET, SortedSet({b"member": 1.0})) - weigh(ZSET, SortedSet({})) == scored_weight(b"member")
