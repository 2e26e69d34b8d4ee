"""Change: what one command did to one key.

Every mutation of a managed key is told to the persistence room as one Change. It names the key, the value after the
command, and which members (hash fields, set members …) were touched, so that a store can write the one column that
changed instead of the whole row. A Change holds absolute values, never a command: it can be repeated without harm.

There is no undo here. A command on a write-through key runs on a staged copy (see server/keyspace/overlay.py), so a
refused write is forgotten rather than rolled back.
"""

from __future__ import annotations

from typing import Final

# The kinds of value that a key can hold. The numbers are ours; names are Redis's (`TYPE key`).
STRING: Final = 0
LIST: Final = 1
SET: Final = 2
ZSET: Final = 3
HASH: Final = 4
STREAM: Final = 5

KIND_NAMES: Final = ("string", "list", "set", "zset", "hash", "stream")

# A deadline later than any clock: the key does not expire. The largest number that compiled code has in a register: one
# more, and every look at a key would compare objects.
NEVER: Final = (1 << 62) - 1

# What happened to the key as a whole.
WRITE: Final = 0  # it holds `value` now; `members` says which parts changed, None means all of it
DELETE: Final = 1  # a client deleted it; the database forgets it too
EXPIRY: Final = 2  # only its lifetime changed


class Change:
    """One key's change: enough for a store, a journal and a coalescing queue to repeat it."""

    __slots__ = ("deadline_ms", "existed", "key", "kind", "members", "value", "verb")

    def __init__(
        self,
        key: bytes,
        verb: int,
        kind: int,
        value: object,
        members: set[bytes] | None,
        deadline_ms: int,
        existed: bool | None,
    ) -> None:
        self.key = key
        self.verb = verb
        # STRING … STREAM; meaningless for DELETE.
        self.kind = kind
        # The value after the command, in the keyspace's own representation; None for DELETE.
        self.value = value
        # Touched members; None means the whole value was replaced.
        self.members = members
        # Logical expiry in server milliseconds, or NEVER.
        self.deadline_ms = deadline_ms
        # Did the row exist before? None: the command did not look.
        self.existed = existed

    def __repr__(self) -> str:
        verb = ("write", "delete", "expiry")[self.verb]
        parts = "all" if self.members is None else sorted(self.members)
        return f"<Change {verb} {self.key!r} {KIND_NAMES[self.kind]} {parts}>"
