"""The replies to what goes wrong between us and a store (interface.md, "Errors that a client can tell apart")."""

from __future__ import annotations

from persistence.errors import (
    JournalError,
    LoadTimeout,
    RowVanished,
    StoreDown,
    StoreError,
    StoreRejected,
    StoreTimeout,
)
from persistence.plan import Busy, CrossStore, Unmapped
from protocol.replies import Error

# Everything that the engine raises on purpose.
EXPECTED = (StoreError, JournalError, Busy, CrossStore, Unmapped)


def reply_of(error: Exception) -> Error:
    """The error reply for one of `EXPECTED`; a text that is safe to show, never the database's DETAIL."""
    if isinstance(error, StoreRejected):
        return Error(f"STOREREJECTED {error.sqlstate} {error.message}")
    if isinstance(error, StoreDown):
        return Error(f"STOREDOWN the store cannot be reached, nothing was changed: {error}")
    if isinstance(error, StoreTimeout):
        return Error("STORETIMEOUT outcome unknown: the write may or may not have happened; the key left memory")
    if isinstance(error, LoadTimeout):
        return Error("LOADTIMEOUT the load did not finish in time")
    if isinstance(error, RowVanished):
        return Error("STOREREJECTED 40001 the row keeps changing underneath this command, try again")
    if isinstance(error, JournalError):
        return Error(f"MISCONF writes to write-behind prefixes are refused: {error}")
    if isinstance(error, Busy):
        return Error(f"BUSY {error}")
    if isinstance(error, CrossStore):
        return Error(f"CROSSSTORE {error}")
    return Error(f"ERR {error}")
