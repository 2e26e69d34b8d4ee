"""Journaling: the write-behind journal's life in a server: opened before the stores, closed after them."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from typing import Final

from persistence.disk import RealDisk
from persistence.engine import Engine
from persistence.errors import JournalError, JournalLocked
from persistence.journal import Journal
from persistence.journal_options import JournalOptions
from persistence.journal_recovery import Recovery, open_journal
from persistence.journal_thread import JournalThread
from persistence.restart import Orphaned, take_up
from server.clock import SystemClock
from server.config import JournalConfig
from server.errors import ConfigError

log = logging.getLogger("forebay.journal")

# How long clients may be kept waiting at start by a database that does not answer.
_DECIDE_S: Final = 5.0
# What writing and syncing the last records may take, whatever else has used up the time.
_LAST_SYNC_S: Final = 5.0


class Journaling:
    """The journal of a node, if the configuration wants one."""

    __slots__ = ("_config", "_engine", "_recovery", "_thread", "journal")

    def __init__(self, config: JournalConfig, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._thread: JournalThread | None = None
        self._recovery: Recovery | None = None
        self.journal: Journal | None = None

    def open(self, clock: SystemClock) -> None:
        """Lock and read the directory. ConfigError when it cannot be had, JournalCorrupt when it cannot be read."""
        config = self._config
        if not config.dir:
            return
        options = JournalOptions(config.dir, config.fsync, config.segment_bytes, config.max_bytes)
        self._thread = JournalThread()
        # Names a new journal, and in the database the batches that it has flushed.
        node = f"{random.SystemRandom().getrandbits(64):016x}"
        try:
            self.journal, self._recovery = open_journal(RealDisk(), options, self._thread, clock, node)
        except JournalLocked as error:
            raise ConfigError(f"journal.dir: {error}") from error
        self._engine.use_journal(self.journal)

    def take_up(self) -> None:
        """What is unsaved goes back into queues and memory; after the stores were opened. ConfigError for orphans."""
        journal, recovery = self.journal, self._recovery
        if journal is None or recovery is None:
            return
        self._recovery = None
        try:
            found = take_up(self._engine, journal, recovery)
        except Orphaned as error:
            raise ConfigError(f"journal.dir: {error}") from error
        if found.torn_bytes:
            log.warning("%d bytes of a write that was never acknowledged were cut off", found.torn_bytes)
        if found.keys or found.dead_letters:
            log.info(
                "journal: %d unsaved keys, %d undecided flushes, %d dead letters",
                found.keys,
                found.undecided_batches,
                found.dead_letters,
            )

    async def decide(self) -> None:
        """Ask the databases what became of flushes that the last process did not hear of, before clients are served.

        A database that cannot be asked now is asked later; until then the change counts as unsaved, and wins over what
        others may have written since.
        """
        for name, queue in self._engine.queues.items():
            if not await queue.wait_decided(_DECIDE_S):
                log.warning("store %s cannot tell yet which of the last flushes it has committed", name)

    async def tend(self) -> None:
        """Keep the journal short: what cannot be saved for long must not hold everything behind it. Once a second."""
        journal = self.journal
        if journal is None:
            return
        queues = self._engine.queues.values()
        below = journal.held_up(sum([queue.stats().bytes for queue in queues]))
        if not below:
            return
        try:
            carried = sum([await queue.carry_forward(below) for queue in queues])
        except JournalError as error:
            log.error("unsaved changes could not be recorded once more: %s", error)
            return
        if carried:
            log.info("%d unsaved changes were recorded once more, so that older segments can go", carried)

    def sync_now(self) -> None:
        """What was recorded is written and synced now, blocking (the process is about to be ended in a hurry)."""
        if self.journal is None or self._thread is None:
            return
        self._thread.join()
        try:
            self.journal.write_now()
        except (OSError, JournalError) as error:
            log.error("the journal could not be synced: %s", error)

    async def close(self, timeout_s: float) -> None:
        """Write, sync and give back; what is unsaved stays there for the next start."""
        journal = self.journal
        if journal is None:
            return
        try:
            if not await journal.close(max(_LAST_SYNC_S, timeout_s)):
                log.error("the journal was closed before everything in it was synced")
        except JournalError as error:
            log.error("the journal was closed: %s", error)
        if self._thread is not None:
            self._thread.close()

    def info(self) -> Iterable[tuple[str, object]]:
        """INFO persistence."""
        journal = self.journal
        yield "journal_enabled", int(journal is not None)
        if journal is None:
            return
        stats = journal.stats()
        yield "journal_fsync", self._config.fsync
        yield "journal_segments", stats.segments
        yield "journal_bytes", stats.bytes
        yield "journal_unsaved_keys", stats.unsaved_keys
        yield "journal_next_seq", stats.next_seq
        yield "journal_durable_seq", stats.durable_seq
        yield "journal_synced_seq", stats.synced_seq
        yield "journal_undecided_batches", stats.undecided_batches
        yield "journal_dead_letters", stats.dead_letters
        yield "journal_frames", stats.frames
        yield "journal_syncs", stats.syncs
        yield "journal_refusing", stats.refusing or "no"
        yield "journal_failed", int(stats.failed)
