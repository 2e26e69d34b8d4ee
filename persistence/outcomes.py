"""Outcomes: what becomes of a change that was taken for a flush.

    landed     the store has it
    returned   it was not sent, or certainly not committed: back to the front of its line
    refused    the row itself is at fault: set aside, tried alone, and at last a dead letter
    locked     somebody else holds the row: set aside, which is no attempt
               (so is one that other rows stand in the way of, while a change older than it is not saved)
    stopped    its whole mapping is refused: back in its line, and the line is left alone for a while

Synchronous: each of them is one step from one consistent state of the books (unsaved.py) to another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from persistence.change import DELETE, WRITE
from persistence.dead_letters import DeadLetter
from persistence.errors import JournalError, MappingRejected, StoreRejected
from persistence.pending import Pending, Saved, item_of
from persistence.seams import Random
from persistence.stores.base import Applied
from persistence.unsaved import Unsaved

logger = logging.getLogger("forebay.write_behind")

# Longest pause before something that failed is tried again, a row or a store.
BACKOFF_MOST_S: Final = 2.0
# How long a mapping that the store refuses altogether is left alone before it is tried again.
STOPPED_RETRY_S: Final = 5.0
# How long a row that somebody else holds is left alone: trying it may take as long as the store waits for a lock.
LOCKED_RETRY_S: Final = 1.0
# Refusals for the sake of other rows, which an older change may put right: a foreign key, a unique one, an exclusion.
_OF_OTHER_ROWS: Final = ("23503", "23505", "23P01")


class Outcomes:
    """Closes the accounts of changes that flew."""

    __slots__ = ("_clock", "_log", "_on_dead", "_on_saved", "_random", "_unsaved")

    def __init__(
        self, unsaved: Unsaved, random: Random, on_saved: Callable[[Saved], None], on_dead: Callable[[Pending], None]
    ) -> None:
        self._unsaved = unsaved
        self._log = unsaved.log
        self._clock = unsaved.clock
        self._random = random
        self._on_saved = on_saved
        self._on_dead = on_dead

    def landed(self, pending: Pending, applied: Applied, unseen: bool = False) -> None:
        """The store has it; `unseen`: nobody knows what the row is like now."""
        change = pending.change
        if self._unsaved.leave(pending):
            return
        if not applied.found and change.verb != DELETE:
            # Somebody else deleted the row. The write was acknowledged, so it wins: write the whole value.
            pending.target.prefix.counters.conflicts += 1
            if change.verb == WRITE or change.value is not None:
                change.existed = False
                change.members = None
                change.verb = WRITE
                pending.first_ms -= int(pending.target.prefix.rule.write_delay_s * 1000)
                self._unsaved.record_anew(pending)
                self._unsaved.put_back(pending)
                return
            # (A new lifetime, recovered without the value that it was for.)
            unseen = True
        self._unsaved.backlogs[pending.target.prefix].bytes -= pending.bytes
        unseen = unseen or pending.is_unseen
        if unseen:
            self._unsaved.doubt(pending.target)
        self._unsaved.dead.saved(pending.target.key, change, pending.seq)
        self._on_saved(Saved(pending, applied, unseen))

    def returned(self, batch: list[Pending]) -> None:
        """Back to the front of the queues, oldest first, newer changes merged on top."""
        for pending in reversed(batch):
            if self._unsaved.flying.get(pending.target.key) is pending and not self._unsaved.leave(pending):
                pending.target.prefix.counters.retries += 1
                self._unsaved.put_back(pending)

    def refused(self, pending: Pending, error: StoreRejected) -> None:
        """The row is at fault: it is tried again alone, `retry_limit` times in all.

        Unless it may have come too early: what it refers to, or what has its place, is an older change that waits for
        its delay, its mapping, its lock or an answer. Then this is no attempt.
        """
        if error.sqlstate in _OF_OTHER_ROWS and self._unsaved.has_others_before(pending):
            self.locked(pending)
            return
        if self._unsaved.leave(pending):
            return
        prefix = pending.target.prefix
        prefix.counters.write_errors += 1
        self._catch_up(pending)
        pending.attempts += 1
        if pending.attempts >= prefix.rule.retry_limit:
            if not self._unsaved.dead.is_full():
                self._bury(pending, error)
                return
            if pending.attempts == prefix.rule.retry_limit:
                logger.error("too many dead letters: a key of %s stays unsaved: %s", prefix.rule.name, error)
        pause_ms = min(BACKOFF_MOST_S * 1000, 50 * 2**pending.attempts) * (0.5 + self._random.random())
        self._set_aside(pending, pause_ms)

    def locked(self, pending: Pending) -> None:
        """Somebody else holds the row, or may still change it: set aside as a refused one, but that is no attempt."""
        if self._unsaved.leave(pending):
            return
        pending.target.prefix.counters.retries += 1
        self._catch_up(pending)
        pending.attempts = 0
        self._set_aside(pending, LOCKED_RETRY_S * 1000)

    def _set_aside(self, pending: Pending, pause_ms: float) -> None:
        pending.not_before_ms = self._clock.now_ms() + int(pause_ms)
        self._unsaved.suspects[pending.target.key] = pending

    def _catch_up(self, pending: Pending) -> None:
        # Changes that came while it flew deserve attempts of their own.
        newer = self._unsaved.backlogs[pending.target.prefix].pendings.pop(pending.target.key)
        if newer is not None:
            self._unsaved.take_in(pending, newer)
            pending.attempts = 0

    def _bury(self, pending: Pending, error: StoreRejected) -> None:
        prefix = pending.target.prefix
        letter = DeadLetter(
            *item_of(pending),
            error.sqlstate,
            error.message,
            pending.attempts,
            self._clock.now_ms() + self._clock.wall_offset_ms(),
            pending.change,
        )
        try:
            self._log.bury(letter)
        except JournalError:
            self._set_aside(pending, BACKOFF_MOST_S * 1000)
            raise
        self._unsaved.backlogs[prefix].bytes -= pending.bytes
        prefix.counters.dead_letters += 1
        self._unsaved.dead.add(letter)
        logger.error("dead letter %d: %r of %s refused: %s", letter.id, letter.key, letter.prefix, error)
        self._on_dead(pending)
        self._unsaved.tell_waiters()

    def stopped(self, pending: Pending, error: MappingRejected) -> None:
        """The store refuses its mapping altogether."""
        prefix = pending.target.prefix
        if self._unsaved.leave(pending):
            return
        if not prefix.stopped:
            logger.error("saving of %s is stopped, its changes are kept: %s", prefix.rule.name, error)
        prefix.stopped = str(error)
        pending.not_before_ms = self._clock.now_ms() + int(STOPPED_RETRY_S * 1000)
        self._unsaved.put_back(pending)
