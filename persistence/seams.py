"""The seams: what the engine is given instead of reaching for it.

Clock, Random and Store are passed in, so that a simulation can run the real engine under a clock that it moves, faults
that it chooses and a memory that it inspects. `Memory`, `Held` and `View` say what the engine needs of the keyspace,
which is built elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from persistence.change import Change
from persistence.clock import Clock, Random
from persistence.lease import Lease

__all__ = ["Clock", "Held", "Memory", "Random", "View"]


class Held(Protocol):
    """An entry in memory, as the engine sees it."""

    key: bytes
    value: object
    deadline_ms: int
    soft_ms: int
    freq: int  # uses, as the eviction policy counts them
    access_ms: int  # server milliseconds of the last use
    lease: Lease | None

    @property
    def kind(self) -> int: ...

    @property
    def weight(self) -> int: ...


class Memory(Protocol):
    """The database of the keyspace in which prefix rules act."""

    now_ms: int
    # Does anybody want to know of changes?
    heeded: bool

    def held(self, key: bytes) -> Held | None:
        """The entry, even past its deadline."""

    def gaps(self, keys: list[bytes]) -> list[bytes] | None:
        """Those of these keys that are not held, each once; None when one that is may be too old to be served."""

    def entries(self) -> Iterator[Held]:
        """Every live entry."""

    def put(self, key: bytes, kind: int, value: object, deadline_ms: int, event: bytes) -> Held:
        """A client's write: watchers are told. No event: whoever ran the command tells what it did."""

    def overwrite(self, entry: Held, text: bytes, event: bytes) -> None:
        """A client's write of a string over a string, whose lease and deadline stay."""

    def rewrite(self, key: bytes, text: bytes, prefix: object, is_generic: bool, seq: int) -> Held | None:
        """A client's write of a string over a string, by the unsaved change with that sequence (0: it is saved): the
        entry, whose lease gets a new term, if it is of that prefix and may stay. None: it may not; nothing has been
        done then."""

    def rewrite_all(
        self, keys: list[bytes], texts: list[bytes], prefix: object, is_generic: bool, seq: int
    ) -> Sequence[Held | None]:
        """`rewrite` of many, by changes of which the first has that sequence."""

    def install(self, key: bytes, kind: int, value: object, deadline_ms: int) -> Held:
        """A loaded value: nobody is told."""

    def admit(self, key: bytes, kind: int, value: object, deadline_ms: int, soft_ms: int, lease: Lease) -> bool:
        """The same with its lease, for a key that memory does not hold; False: it does, and nothing has been done."""

    def admit_together(
        self, kind: int, keys: list[bytes], values: list[object], models: list[Lease], soft_ms: list[int]
    ) -> list[int]:
        """`admit` for many keys of one prefix and kind, whose leases are like one or other of the models; the places
        of those that memory does hold."""

    def admit_written(self, key: bytes, kind: int, value: object, until_ms: int, lease: Lease) -> bool:
        """The same for what a client wrote and a store has taken; False, too, when somebody wants to hear of it."""

    def admit_all_written(
        self, keys: list[bytes], texts: list[object], models: list[Lease], soft_ms: list[int]
    ) -> list[int]:
        """The same for many strings, as `admit_together`: the places of those for which that is not all."""

    def note(self, key: bytes, event: bytes) -> None:
        """A change that was told has a second event."""

    def drop(self, key: bytes) -> Held | None:
        """Take an entry out of memory: nobody is told."""

    def remove(self, key: bytes, event: bytes = b"del") -> bool:
        """A client's delete: watchers are told."""

    def touch_watchers(self, key: bytes) -> None:
        """Tell those who WATCH or track the key that it changed."""

    def told_void(self, head: bytes) -> None:
        """Tell those who track keys that begin so that copies of their rows may have become void."""

    def refile(self, key: bytes) -> None:
        """The entry's lease or deadline changed: the expiry wheel must know."""

    def unpinned(self, key: bytes) -> None:
        """The entry's unsaved change reached the store: it may be evicted again."""


class View(Protocol):
    """The staged copies on which one command or transaction runs."""

    changes: dict[bytes, Change]
    unknown: set[bytes]
    managed: set[bytes]

    def stage_loaded(self, key: bytes, kind: int, value: object, deadline_ms: int) -> None:
        """The command sees this value."""

    def stage_absent(self, key: bytes) -> None:
        """The command sees no such key."""

    def publish_plain(self, key: bytes) -> None:
        """Carry a change of an unmanaged key into memory."""
