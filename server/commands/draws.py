"""Draws: what commands that name random members are asked for, and how many a client may want.

With repetition a client may choose any number. A reply larger than the hard output limit of a normal client would cost
it the connection; it is refused before it is built.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from server.commands.args import INT64_MAX, integer_between
from server.errors import OUT_OF_RANGE, SYNTAX, CommandError

# The hard output limit of a normal client.
_LARGEST_REPLY: Final = 256 * 1024 * 1024
# What an item costs in a reply beside its bytes: the pointer in the list, the length line and two line ends.
REPLY_OVERHEAD: Final = 16


class Draw:
    """The arguments of HRANDFIELD and ZRANDMEMBER: `key [count [word]]`."""

    __slots__ = ("count", "is_single", "with_more")

    def __init__(self, argv: list[bytes], word: bytes) -> None:
        # Without a count one name is wanted, and not in a list.
        self.is_single = len(argv) == 2
        # Below zero: so many with repetition.
        self.count = 1 if self.is_single else integer_between(argv[2], -INT64_MAX, INT64_MAX)
        # The word was given: each name comes with what belongs to it.
        self.with_more = len(argv) > 3
        if self.with_more:
            if len(argv) > 4 or argv[3].upper() != word:
                raise CommandError(SYNTAX)
            if abs(self.count) > INT64_MAX // 2:
                raise CommandError(OUT_OF_RANGE)

    def nothing(self) -> object:
        """The reply when there is nothing to draw from."""
        return None if self.is_single else []


def check_draws(count: int, names: Collection[bytes], extra: int) -> None:
    """Refuse to draw so many times from these names when the reply would be too large; `extra` bytes come with each.

    O(1) for fewer draws than names: on average the reply is smaller than what is in memory. Otherwise O(names), which
    is less than the draws themselves.
    """
    if count <= len(names):
        return
    mean = sum(map(len, names)) // len(names) + 1
    if count * (REPLY_OVERHEAD + mean + extra) > _LARGEST_REPLY:
        raise CommandError(OUT_OF_RANGE)
