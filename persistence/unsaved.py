"""Unsaved: the books of one write-behind queue, which write_behind.py adds to and flusher.py takes from.

A key is in one or two of three places, each with a Pending of its own:

    backlogs   waits for a flush, in its prefix's line
    suspects   was refused, or is locked by somebody else: tried alone
    flying     was taken for a flush; what comes meanwhile gathers in a backlog

Each Pending has the oldest sequence of what is in it, which is how old it is: who asks what is saved compares that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from persistence.change import Change
from persistence.dead_letters import DeadLetters
from persistence.errors import JournalError
from persistence.line import Backlog
from persistence.managed import ManagedPrefix, Target
from persistence.pending import Pending, QueueStats, item_of
from persistence.pending import take_in as merge_in
from persistence.queue_log import QueueLog
from persistence.seams import Clock

logger = logging.getLogger("forebay.write_behind")

# Keys that are recorded anew before clients get a turn: some milliseconds.
_SLICE: Final = 250


class Unsaved:
    """What the database does not have yet, and who waits for it to."""

    __slots__ = (
        "_saved_waiters",
        "backlogs",
        "clock",
        "dead",
        "flying",
        "given_up",
        "log",
        "seq",
        "suspects",
    )

    def __init__(self, log: QueueLog, clock: Clock) -> None:
        self.log = log
        self.clock = clock
        # Of the newest change.
        self.seq = 0
        self.backlogs: dict[ManagedPrefix, Backlog] = {}
        # Rows that were refused and are tried alone.
        self.suspects: dict[bytes, Pending] = {}
        self.flying: dict[bytes, Pending] = {}
        # Keys that fly although they were given up.
        self.given_up = 0
        self._saved_waiters: list[asyncio.Future[None]] = []
        self.dead = DeadLetters()

    def backlog_of(self, prefix: ManagedPrefix) -> Backlog:
        """What is unsaved of a prefix; the same object for ever."""
        backlog = self.backlogs.get(prefix)
        if backlog is None:
            backlog = self.backlogs[prefix] = Backlog(prefix)
        return backlog

    def close_backlog(self, prefix: ManagedPrefix) -> None:
        """A prefix has gone, and nothing of it is unsaved."""
        self.backlogs.pop(prefix, None)

    # -- asking -------------------------------------------------------------------------------------------------------

    def unsaved(self, target: Target) -> Change | None:
        """The newest unsaved change of a key: what a read must see before it looks at the store."""
        pending = self._newest(target)
        return pending.change if pending is not None and pending.on_over is None else None

    def has_any(self, prefix: ManagedPrefix, keys: Iterable[bytes]) -> bool:
        """May there be an unsaved change of one of these keys?"""
        if (self.suspects and not self.suspects.keys().isdisjoint(keys)) or (
            self.flying and not self.flying.keys().isdisjoint(keys)
        ):
            return True
        backlog = self.backlogs.get(prefix)
        return backlog is not None and backlog.pendings.has_any(keys)

    def unsaved_seq(self, target: Target) -> int:
        """The sequence of that change; 0 when there is none."""
        pending = self._newest(target)
        return pending.seq if pending is not None and pending.on_over is None else 0

    def _newest(self, target: Target) -> Pending | None:
        key = target.key
        backlog = self.backlogs.get(target.prefix)
        pending = backlog.pendings.get(key) if backlog is not None else None
        return pending or self.suspects.get(key) or self.flying.get(key)

    def unsaved_until(self, seq: int) -> int:
        """Unsaved keys of which some change has this sequence or an older one. O(what flies + unsaved keys / 4,096)."""
        count = sum([backlog.pendings.count_until(seq) for backlog in self.backlogs.values()])
        for pending in (*self.suspects.values(), *self.flying.values()):
            count += pending.first_seq <= seq and pending.on_over is None
        return count

    def has_older(self, prefix: ManagedPrefix | None, seq: int) -> bool:
        """Is a key unsaved, of one prefix or of any, that was first changed at this sequence or before?

        O(what flies + unsaved keys / 4,096).
        """
        for each, backlog in self.backlogs.items():
            if (prefix is None or each is prefix) and 0 < backlog.pendings.oldest() <= seq:
                return True
        for pendings in (self.flying, self.suspects):
            for pending in pendings.values():
                is_meant = prefix is None or pending.target.prefix is prefix
                if is_meant and pending.first_seq <= seq and pending.on_over is None:
                    return True
        return False

    def has_others_before(self, pending: Pending) -> bool:
        """Is another key on its way to the store that was changed first, and that was not refused itself?

        O(what flies or was refused + prefixes).
        """
        age = pending.first_seq
        for backlog in self.backlogs.values():
            if 0 < backlog.pendings.oldest() < age:
                return True
        for other in (*self.flying.values(), *self.suspects.values()):
            if other.first_seq < age and not other.attempts and other.on_over is None:
                return True
        return False

    def is_at_rest(self, prefix: ManagedPrefix) -> bool:
        """Is nothing of a prefix under way to the store, not even what was given up, nor about to be queued?"""
        return not prefix.committing and all(each.target.prefix is not prefix for each in self.flying.values())

    def bytes_of(self, prefix: ManagedPrefix) -> int:
        """Unsaved bytes of a prefix, what flies included."""
        backlog = self.backlogs.get(prefix)
        return backlog.bytes if backlog is not None else 0

    def count(self, prefix: ManagedPrefix | None = None) -> int:
        """Unsaved keys, of one prefix or of all."""
        count = 0
        for each, backlog in self.backlogs.items():
            if prefix is None or each is prefix:
                count += len(backlog.pendings)
        if prefix is None:
            return count + len(self.suspects) + len(self.flying) - self.given_up
        for pending in (*self.suspects.values(), *self.flying.values()):
            count += pending.target.prefix is prefix and pending.on_over is None
        return count

    def stats(self, prefix: ManagedPrefix | None = None) -> QueueStats:
        """The queue now, of one prefix or of all."""
        now = self.clock.now_ms()
        oldest = now
        for each, backlog in self.backlogs.items():
            if backlog.pendings and (prefix is None or each is prefix):
                oldest = min(oldest, next(iter(backlog.pendings.values())).first_ms)
        flying = 0
        for pending in (*self.suspects.values(), *self.flying.values()):
            if prefix is None or pending.target.prefix is prefix:
                oldest = min(oldest, pending.first_ms)
        for pending in self.flying.values():
            flying += prefix is None or pending.target.prefix is prefix
        weight = sum(map(self.bytes_of, self.backlogs)) if prefix is None else self.bytes_of(prefix)
        dead = sum(1 for letter in self.dead.values() if prefix is None or letter.prefix == prefix.rule.name)
        return QueueStats(self.count(prefix), weight, now - oldest, flying, dead)

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds, looked at whenever something was saved; False when the time ran out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not condition():
            turn: asyncio.Future[None] = loop.create_future()
            self._saved_waiters.append(turn)
            try:
                async with asyncio.timeout_at(deadline):
                    await turn
            except TimeoutError:
                return condition()
        return True

    def tell_waiters(self) -> None:
        """Something was saved, given up, or will not be saved soon."""
        waiters, self._saved_waiters = self._saved_waiters, []
        for turn in waiters:
            if not turn.done():
                turn.set_result(None)

    # -- moving -------------------------------------------------------------------------------------------------------

    def leave(self, pending: Pending) -> bool:
        """A key that flew has landed. True: it was given up meanwhile, there is nothing more to do about it."""
        del self.flying[pending.target.key]
        if pending.on_over is None:
            return False
        self.given_up -= 1
        pending.on_over(pending)
        return True

    def doubt(self, target: Target) -> None:
        """Nobody knows what the row of a key is like beside what is unsaved of it: saved, the copy goes."""
        flying = self.flying.get(target.key)
        if flying is not None:
            # It may be committed already, and what made us doubt may be newer.
            flying.is_unseen = True
        newest = self._newest(target)
        # (A whole value leaves nothing else of the row.)
        if newest is not None and newest.change.members is not None:
            newest.is_unseen = True

    def put_back(self, pending: Pending) -> None:
        """To its place in its line again, with what has come since merged on top."""
        prefix = pending.target.prefix
        key = pending.target.key
        queue = self.backlogs[prefix].pendings
        newer = queue.pop(key)
        if newer is not None:
            self.take_in(pending, newer)
        queue[key] = pending

    def take_in(self, pending: Pending, newer: Pending) -> None:
        """What has been changed while a key flew goes on top of it."""
        before = pending.bytes + newer.bytes
        merge_in(pending, newer)
        self.backlogs[pending.target.prefix].bytes += pending.bytes - before

    def record_anew(self, pending: Pending) -> None:
        """Record what is to be saved of a key that flew, because it is not what was recorded.

        Whatever has come since goes in before: a record stands for everything that was recorded before it.
        """
        newer = self.backlogs[pending.target.prefix].pendings.pop(pending.target.key)
        if newer is not None:
            self.take_in(pending, newer)
        try:
            self.seq = pending.seq = self.log.record(pending.target.prefix.rule.name, pending.change, ours=True)
        except JournalError as error:
            # Nothing is acknowledged any more, and nothing saved; the journal has it as it was.
            logger.error("a change of %s cannot be recorded anew: %s", pending.target.prefix.rule.name, error)

    async def carry_forward(self, below: int) -> int:
        """Record once more what is unsaved since before a sequence, so that the journal up to it can go; how many.

        What cannot be saved (a table that is not as it should be, a database that is away) would hold everything that
        was recorded after it. O(unsaved keys), in slices. Raises JournalError.
        """
        carried = 0
        for backlog in list(self.backlogs.values()):
            for number in backlog.pendings.chunks():
                for place, key in enumerate(backlog.pendings.keys_of(number), 1):
                    if place % _SLICE == 0:
                        await asyncio.sleep(0)
                    pending = backlog.pendings.get(key)
                    # (While it flies, too: whether what was recorded before is still needed will be known later.)
                    if pending is not None and key not in self.flying:
                        carried += self._restate(pending, below)
                await asyncio.sleep(0)
        for pending in list(self.suspects.values()):
            if self.suspects.get(pending.target.key) is pending:
                carried += self._restate(pending, below)
        return carried

    def _restate(self, pending: Pending, below: int) -> bool:
        seq = self.log.restate(item_of(pending), pending.change, below)
        if seq:
            self.seq = pending.seq = seq
        return seq > 0
