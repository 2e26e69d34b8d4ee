"""What can go wrong between us and the backing store.

    StoreError
    ├── StoreDown        cannot be reached; nothing was changed; worth retrying
    ├── StoreRejected    refused for good: carries the SQLSTATE and a text that is safe to show to a client
    │   ├── RowRejected      … because of this row's data (classes 22, 23, 44, 54, P0001, or our check at accept time)
    │   └── MappingRejected  … because of the mapping (classes 42, 28, 3D): no row of it can succeed
    ├── StoreTimeout     no answer in time: the outcome of a write is UNKNOWN, not failed
    ├── LoadTimeout      a load did not finish in time; never the same as "no such row"
    └── RowVanished      an UPDATE found no row where one was loaded: load again, run again

Drivers' exceptions are translated at the edge, in persistence/stores/<name>.py, and nowhere else. Messages never carry
the database's DETAIL or HINT, because those quote other people's rows.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything that a store can raise."""


class StoreDown(StoreError):
    """The store cannot be reached, and it is certain that nothing was changed."""


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


class StoreTimeout(StoreError):
    """The answer did not come in time. A write may or may not have happened."""


class LoadTimeout(StoreError):
    """A load did not finish within `load_timeout`."""


class RowVanished(StoreError):
    """A row that was loaded is gone; the transaction was rolled back. `keys` are the key tuples concerned."""

    def __init__(self, keys: list[tuple[object, ...]]) -> None:
        super().__init__(f"{len(keys)} row(s) vanished")
        self.keys = keys
