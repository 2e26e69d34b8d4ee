"""Draws: random members with repetition, whose number a client may choose at will.

A reply larger than the hard output limit of a normal client would cost it the connection; it is refused before it is
built.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from server.errors import OUT_OF_RANGE, CommandError

# The hard output limit of a normal client.
_LARGEST_REPLY: Final = 256 * 1024 * 1024
# What an item costs in a reply beside its bytes: the pointer in the list, the length line and two line ends.
_REPLY_OVERHEAD: Final = 16


def check_draws(count: int, names: Collection[bytes], extra: int) -> None:
    """Refuse to draw so many times from these names when the reply would be too large; `extra` bytes come with each.

    O(1) for fewer draws than names: on average the reply is smaller than what is in memory. Otherwise O(names), which
    is less than the draws themselves.
    """
    if count <= len(names):
        return
    mean = sum(map(len, names)) // len(names) + 1
    if count * (_REPLY_OVERHEAD + mean + extra) > _LARGEST_REPLY:
        raise CommandError(OUT_OF_RANGE)
