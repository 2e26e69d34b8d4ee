"""Plan and Commit: what a command on managed keys needs before it runs, and what is to be done after it has run."""

from __future__ import annotations

from persistence.managed import ManagedPrefix, Target
from persistence.mapping import RowOp
from persistence.stores.base import Store


class Busy(Exception):
    """A write cannot be taken now: the backlog of its prefix is full, or its rule has just been changed."""


class CrossStore(Exception):
    """One command or transaction writes to two stores."""


class Unmapped(Exception):
    """The key has the head of a rule with `unmapped = "reject"` but does not fit its template."""


class Plan:
    """What a command needs before and after it runs."""

    __slots__ = (
        "keys",
        "last_resort",
        "locks",
        "must_load",
        "ready",
        "save_before_reply",
        "stale",
        "store_writes",
        "targets",
    )

    def __init__(self) -> None:
        # All keys of the command, managed or not.
        self.keys: set[bytes] = set()
        # Managed keys that the command may write, by key.
        self.targets: dict[bytes, Target] = {}
        # Managed keys whose value the command needs. Those that memory holds are among them: they may be evicted or
        # run out while the others are being loaded.
        self.must_load: dict[bytes, Target] = {}
        # Keys to lock; empty for pure reads.
        self.locks: set[bytes] = set()
        # Nothing has to be waited for, neither before nor after.
        self.ready = True
        # Keys that the command may write and whose prefix writes to a store.
        self.store_writes: dict[bytes, Target] = {}
        # Keys that are answered from a copy whose time is over: (kind, value) as it was when the plan was made.
        self.stale: dict[bytes, tuple[int, object]] = {}
        # Keys that may be, if their load fails: those that are only read.
        self.last_resort: set[bytes] = set()
        # Keys whose backlog is full and whose rule wants the reply to wait for the store then.
        self.save_before_reply: list[Target] = []


class Commit:
    """An accepted set of changes: what goes to the store now, what is queued, what only memory gets."""

    __slots__ = ("behind", "canonical", "decided", "deleted", "ops", "queued", "store", "sync_targets", "voided")

    def __init__(self) -> None:
        self.store: Store | None = None
        self.ops: list[RowOp] = []
        # Targets of `ops`, in the same order.
        self.sync_targets: list[Target] = []
        # Those, and the keys that the command might have written there but decided not to (SETNX of an existing key).
        # As long as the outcome is unknown they must stay as they were when it decided.
        self.decided: list[Target] = []
        # The prefix of each change that will be queued.
        self.behind: list[ManagedPrefix] = []
        # Key → the value that memory gets: what the client wrote, as the store will show it.
        self.canonical: dict[bytes, object] = {}
        # Keys of which memory must keep nothing: while the store was written, their copies were voided.
        self.voided: set[bytes] = set()
        # Keys whose DELETE met a row.
        self.deleted: set[bytes] = set()
        # Store → the newest sequence that its write-behind queue gave to these changes (CACHE.WAIT).
        self.queued: dict[str, int] = {}
