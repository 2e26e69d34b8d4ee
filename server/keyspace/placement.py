"""Placement: which prefix a key of database 0 has, as the rules see it: the longest literal head that begins it."""

from __future__ import annotations

from typing import NamedTuple

from server.keyspace.terms import Terms


class Share(NamedTuple):
    """A prefix rule as the keyspace sees it: its name, its head, and its own terms, if it has any."""

    name: str
    head: bytes
    terms: Terms | None


class Placement:
    """Prefixes by head; they are numbered from 1 in the order given."""

    __slots__ = ("_lengths", "_numbers", "shares")

    def __init__(self, shares: list[Share]) -> None:
        self.shares = shares
        self._numbers = {share.head: number for number, share in enumerate(shares, 1)}
        self._lengths = sorted({len(share.head) for share in shares}, reverse=True)

    def number_of(self, key: bytes) -> int:
        """The number of a key's prefix; 0 when no rule has it. O(distinct lengths of heads)."""
        numbers = self._numbers
        for length in self._lengths:
            number = numbers.get(key[:length])
            if number is not None:
                return number
        return 0

    def number_named(self, name: str) -> int:
        """The number of a rule; 0 when there is none of that name. O(rules)."""
        for number, share in enumerate(self.shares, 1):
            if share.name == name:
                return number
        return 0
