"""Roads: which commands may take the short road through dispatch at this moment.

The short road is one look into a table. Whatever makes commands a special case for everybody takes them out of that
table, so that while nothing is special nobody has to look whether something is:

    somebody waits for a key       what may end the wait takes the long road, at whose end blocked clients are served
    CLIENT PAUSE                   what has to wait takes the long road, which knows how to
    notify-keyspace-events has m   reads take the long road, which looks for keys that they missed
    MONITOR                        everything takes the long road, which shows it
"""

from __future__ import annotations

from typing import Final

from server.commands.spec import BLOCKING, IMMEDIATE, NOSCRIPT, READ, WRITE, CommandSpec

Table = dict[bytes, CommandSpec]

# Writes of these groups give nothing to those who wait for a list, a sorted set or a stream. (That they took a key from
# somebody who waits for a group of its stream is told when the loop next turns.)
_UNRELATED: Final = frozenset(("string", "bitmap", "hyperloglog", "hash", "set"))
_PUBLISHING: Final = frozenset(("publish", "spublish"))
# Commands that look at all keys of a database. (The patterns of SORT cannot reach keys under a prefix rule.)
SURVEYS: Final = frozenset(("keys", "scan", "dbsize", "randomkey"))
# Commands that record in the journal what is no change of a key.
RECORDERS: Final = frozenset(("cache.discard", "cache.dlq|retry", "cache.dlq|drop"))


class Roads:
    """Chooses the table of the short road."""

    __slots__ = (
        "_while_blocked",
        "every",
        "is_monitored",
        "is_paused",
        "pauses_writes_only",
        "somebody_waits",
        "tells_misses",
    )

    def __init__(self, table: Table) -> None:
        # What may take the short road when nothing is special.
        self.every = {name: spec for name, spec in table.items() if _is_ordinary(spec)}
        # Clients come and go, so this one is made once; the other cases are rare.
        self._while_blocked = {name: spec for name, spec in self.every.items() if not _may_unblock(spec)}
        self.somebody_waits = False
        self.is_monitored = False
        self.is_paused = False
        self.pauses_writes_only = False
        self.tells_misses = False

    def short(self) -> Table:
        """The commands that may take the short road now. O(commands) in the rarer cases."""
        if self.is_monitored:
            return {}
        table = self._while_blocked if self.somebody_waits else self.every
        if self.is_paused:
            table = {name: spec for name, spec in table.items() if not self.must_wait(spec)}
        if self.tells_misses:
            table = {name: spec for name, spec in table.items() if not spec.flags & READ}
        return table

    def must_wait(self, spec: CommandSpec, queue: list[tuple[CommandSpec, list[bytes]]] | None = None) -> bool:
        """Does the pause hold this command up, or, with EXEC, one of those that were queued?"""
        if spec.name == "exec" and queue and any(self.must_wait(called) for called, _ in queue):
            return True
        return self.is_paused and (not self.pauses_writes_only or may_write(spec))


def may_write(spec: CommandSpec) -> bool:
    """Does a pause of writes concern this command? What is published counts as written."""
    return spec.writes or spec.name in _PUBLISHING


def _is_ordinary(spec: CommandSpec) -> bool:
    # May this command take the short road? Not if it looks at or changes the session's own state.
    return (
        not spec.subcommands
        and not spec.flags & (IMMEDIATE | BLOCKING)
        and spec.name not in SURVEYS
        and spec.group not in ("connection", "transactions", "server", "cache", "scripting")
        and not (spec.group == "pubsub" and spec.flags & NOSCRIPT)
    )


def _may_unblock(spec: CommandSpec) -> bool:
    return spec.flags & WRITE != 0 and spec.group not in _UNRELATED
