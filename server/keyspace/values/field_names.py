"""FieldNames: the names that the fields of many small hashes have in common, each kept once.

Most hashes are records: a million of them have the same few names, and each would have its own bytes for them, 48 a
field. So whoever puts a new field into a small hash asks here which object stands for its name. A large hash is a map,
whose names nobody else has; they are not asked for and crowd nothing out.

What is saved by that cannot be a matter of weights: when a field goes, nobody knows whether it shared its name. So a
field weighs as if the name were its own, and what that is too much for all hashes together is told by the number of
references that each name has, whenever the memory is surveyed.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import mul
from sys import getrefcount
from typing import Final

from server.keyspace.weights import BYTES_OVERHEAD

# A hash of more fields is a map. (Redis, too, takes for a map what has more, if in doubt.)
SMALL: Final = 128
# Names that are kept: more than most applications have, and so few that counting their references takes 0.1 ms.
MOST: Final = 2048
# References that a name has which only the table knows: it is key and value there, and counting needs some itself.
_ALONE: Final = next(map(getrefcount, dict.fromkeys([bytes(range(2))]))) + 1


class FieldNames:
    """Names of fields, as one database's small hashes share them."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        # Each name by itself.
        self._names: dict[bytes, bytes] = {}

    def shared(self, name: bytes) -> bytes:
        """The object that stands for this name. O(1)."""
        names = self._names
        return names.setdefault(name, name) if len(names) < MOST else names.get(name, name)

    def shared_all(self, wanted: list[bytes]) -> Iterable[bytes]:
        """The same for all the names of a hash."""
        names = self._names
        return map(names.setdefault if len(names) < MOST else names.get, wanted, wanted)

    def survey(self) -> int:
        """Bytes that hashes weigh too much because they share names. Names that no hash has any more are forgotten,
        and, when the table is full, those that only one has. O(names)."""
        names = self._names
        counts = list(map(getrefcount, names))
        uses: int = sum(map(mul, counts, map(len, names))) + BYTES_OVERHEAD * sum(counts)
        # The table's own references, and that each name is there once.
        once = (_ALONE + 1) * (sum(map(len, names)) + BYTES_OVERHEAD * len(names))
        fewest = _ALONE + 2 if len(names) >= MOST else _ALONE + 1
        if names and min(counts) < fewest:
            self._names = {name: name for name, count in zip(names, counts, strict=True) if count >= fewest}
        return uses - once

    def __len__(self) -> int:
        return len(self._names)


def saved_by(names: Iterable[bytes]) -> int:
    """Bytes that hashes weigh too much because they have these very names, which belong to somebody else."""
    # (One byte is one object for the whole interpreter, and may have any number of references.)
    return sum([getrefcount(name) * (BYTES_OVERHEAD + len(name)) for name in names if len(name) > 1])
