"""What can go wrong between us and the backing store.

    StoreError
    ├── StoreDown        cannot be reached, or is in no state to serve; nothing was changed; worth retrying
    │   ├── RowsLocked       … because somebody else holds rows of this write; its neighbours may be fine
    │   └── TooSlow          … because it gave up this write after `statement_timeout`; a smaller one may be fine
    ├── StoreRejected    refused for good: carries the SQLSTATE and a text that is safe to show to a client
    │   ├── RowRejected      … because of this row's data (classes 22, 23, 44, 54, P0001, or our check at accept time)
    │   └── MappingRejected  … because of the mapping (classes 42, 28, 3D): no row of it can succeed
    │       └── SchemaChanged    … because a column's type is not what it was: describe the table again, load again
    ├── StoreTimeout     no answer in time: the outcome of a write is UNKNOWN, not failed
    ├── LoadTimeout      a load did not finish in time; never the same as "no such row"
    └── RowVanished      an UPDATE found no row where one was loaded: load again, run again

and between us and the journal's disk:

    JournalError
    ├── JournalFull      no room for another change, for now; nothing was changed; clears itself
    ├── JournalFailed    a write or a sync failed: nothing can be acknowledged any more until the server is restarted
    ├── JournalCorrupt   recorded changes cannot be read back; `forebay journal repair`
    └── JournalLocked    another server has this journal

Drivers' exceptions are translated at the edge, in persistence/stores/<name>.py, and nowhere else. Messages never carry
the database's DETAIL or HINT, because those quote other people's rows.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything that a store can raise."""


class StoreDown(StoreError):
    """The store cannot be reached or is in no state to serve, and it is certain that nothing was changed.

    `answered`: the server said so itself (read-only, disk full, deadlock), so it can be reached.
    """

    def __init__(self, message: str = "", answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class RowsLocked(StoreDown):
    """Rows of this write are held by somebody else's transaction (55P03, 40P01, 40001); rolled back."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, answered=True)


class TooSlow(StoreDown):
    """The store has given up a write that took longer than `statement_timeout` (57014); rolled back."""


class StoreRejected(StoreError):
    """The store refused the statement for good; `sqlstate` is five characters as in PostgreSQL's appendix A."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{sqlstate} {message}")
        self.sqlstate = sqlstate
        self.message = message


class RowRejected(StoreRejected):
    """Refused because of the data of one row; its neighbours may be fine."""


class MappingRejected(StoreRejected):
    """Refused because table, column or permission is not what the mapping says; nothing under it can succeed."""


class SchemaChanged(MappingRejected):
    """A load brought values of another type than the mapping was made for; nobody has seen them."""


class StoreTimeout(StoreError):
    """The answer did not come in time. A write may or may not have happened."""


class LoadTimeout(StoreError):
    """A load did not finish within `load_timeout`."""


class RowVanished(StoreError):
    """A row that was loaded is gone; the transaction was rolled back. `keys` are the key tuples concerned."""

    def __init__(self, keys: list[tuple[object, ...]]) -> None:
        super().__init__(f"{len(keys)} row(s) vanished")
        self.keys = keys


class JournalError(Exception):
    """Base of everything that a journal can raise."""


class JournalFull(JournalError):
    """The disk or the quota has no room for another change. Reads and flushing go on, and it clears itself."""


class JournalFailed(JournalError):
    """The disk refused a write or a sync: what it holds of the newest changes is unknown, so nothing is promised."""


class JournalCorrupt(JournalError):
    """Recorded changes are damaged or missing; `file` and `offset` say where, `reason` why."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"{file}: offset {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class JournalLocked(JournalError):
    """Another server holds the lock of the journal's directory."""
