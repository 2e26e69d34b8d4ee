"""What a journal is made with and what it tells about itself: options, its Runner, its statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

ALWAYS: Final = "always"
EVERYSEC: Final = "everysec"
NO: Final = "no"

SEGMENT_BYTES: Final = 64 << 20
QUOTA_BYTES: Final = 1 << 30
# Two segments are always there, the open one and the spare; below three nothing could be kept while one is deleted.
QUOTA_SEGMENTS: Final = 3


class Runner(Protocol):
    """How the journal gets off the loop: a thread in the server, a list of jobs in a simulation."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this loop tick."""

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after that long."""

    def run(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run a job that blocks, then call `done` on the loop with its exception. One job at a time."""


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """[journal]; sizes in bytes."""

    directory: str
    fsync: str = EVERYSEC
    segment_bytes: int = SEGMENT_BYTES
    quota_bytes: int = QUOTA_BYTES

    def __post_init__(self) -> None:
        if self.fsync not in (ALWAYS, EVERYSEC, NO):
            raise ValueError(f"fsync {self.fsync!r} is not one of {ALWAYS}, {EVERYSEC}, {NO}")
        if not 1024 <= self.segment_bytes <= 1 << 31:
            raise ValueError("a segment must have at least 1 kb and at most 2 gb")
        if self.quota_bytes < QUOTA_SEGMENTS * self.segment_bytes:
            raise ValueError(f"the quota must hold at least {QUOTA_SEGMENTS} segments of {self.segment_bytes} bytes")


@dataclass(frozen=True, slots=True)
class JournalStats:
    """The journal at a moment."""

    segments: int
    bytes: int
    unsaved_keys: int
    next_seq: int
    durable_seq: int
    synced_seq: int
    undecided_batches: int
    dead_letters: int
    frames: int
    syncs: int
    refusing: str
    failed: bool
