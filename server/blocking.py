"""Blocking: clients that wait for a key to have something for them, and the order in which they are served.

A command that found nothing (BLPOP, XREAD BLOCK …) returns `Blocked`. Its client then stands in one line for each of
its keys. A line WATCHes its key: that is the whole hook in the keyspace, and as long as nobody waits it does not exist.
When the key changes, the line is *ready*; when the command (or the whole transaction) that changed it is over, and
before any other command runs, dispatch calls `serve`, and the first in the line has its command run again.

Why run it again, rather than hand it the element: a command knows best what it takes, and on a key under a prefix rule
the taking is a write like any other, with its plan, its locks and its store.

Who is served first. Places are numbered as clients come, and a line is served in that order. A command that goes
through the engine cannot finish at once; its client steps out of its lines (it is *trying*) and, if it found nothing
after all, back into its old place. Meanwhile those behind it do not try for the same key: on a queue of tasks they
would load, lock and fail one after the other for each task that comes.

What is not missed. A client takes its place in the same step in which its command found nothing, so no change can lie
in between. A key that changes other than by a command (its row was changed by others, it ran out) makes its line ready,
too, and is served when the loop next turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from persistence.change import STREAM
from persistence.seams import Clock
from protocol.replies import NIL_ARRAY, NO_REPLY, Error
from server.commands.context import Blocked
from server.commands.spec import CommandSpec
from server.keyspace.database import Database
from server.session import Session

UNBLOCKED: Final = Error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
# Event loops count the time in floats and do not like centuries: a longer timeout is set anew when this has passed.
_LONGEST_TIMER_S: Final = 86_400.0


class Retry:
    """What running a command again came to when it has to wait for a store: the rest of it."""

    __slots__ = ("rest",)

    def __init__(self, rest: Coroutine[Any, Any, object]) -> None:
        self.rest = rest


class Runner(Protocol):
    """Dispatch, as it is needed here."""

    def run_again(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """A reply, Blocked, or a Retry."""

    def is_managed(self, database: Database, key: bytes) -> bool:
        """May the key have a value that memory does not hold?"""

    def heed(self, somebody_waits: bool) -> None:
        """The first client has begun to wait, or the last one has stopped."""

    def tick(self) -> None:
        """Let the keyspace see the time: commands are going to be run without a batch."""


class Presence(Protocol):
    """The connections, as they are needed here."""

    def has_left(self, client_id: int) -> bool:
        """Has this client hung up? While a command of its waits, its connection outlives it."""


class Waiter:
    """One blocked client: its command, its place and its future reply."""

    __slots__ = (
        "_blocking",
        "argv",
        "deadline_ms",
        "heeds_loss",
        "is_trying",
        "keys",
        "kind",
        "lines",
        "number",
        "session",
        "spec",
        "timer",
        "turn",
        "verdict",
    )

    def __init__(
        self, blocking: Blocking, number: int, session: Session, spec: CommandSpec, argv: list[bytes], blocked: Blocked
    ) -> None:
        self._blocking = blocking
        # Its place: lower numbers have waited longer.
        self.number = number
        self.session = session
        self.spec = spec
        self.argv = argv if blocked.argv is None else blocked.argv
        self.keys = list(dict.fromkeys(blocked.keys))
        self.kind = blocked.kind
        self.heeds_loss = blocked.heeds_loss
        self.lines: list[Line] = []
        # Server milliseconds; 0: no timeout.
        self.deadline_ms = 0
        self.timer: asyncio.TimerHandle | None = None
        # Resolved with the reply or a Retry; another one for each turn.
        self.turn: asyncio.Future[object] = blocking.loop.create_future()
        # Its command is being run through the engine.
        self.is_trying = False
        # Why it must not wait any longer, decided while it was trying: the reply that it gets if it found nothing.
        self.verdict: object = None

    def look_again(self) -> None:
        """One of several keys may have changed between the look at it and now: try once more."""
        if len(self.lines) > 1:
            for line in self.lines:
                line.touched()

    def unblock(self, with_error: bool) -> None:
        """CLIENT UNBLOCK."""
        self._blocking.dismiss(self, UNBLOCKED if with_error else NIL_ARRAY)

    def abandon(self) -> None:
        """The connection is gone, or is to go: nothing is taken for it any more."""
        self._blocking.dismiss(self, NO_REPLY)


class Line:
    """The clients that wait for one key, in the order in which they came. Watches the key."""

    __slots__ = ("_blocking", "database", "heeding", "key", "ready", "trying", "waiters")

    def __init__(self, blocking: Blocking, database: Database, key: bytes) -> None:
        self._blocking = blocking
        self.database = database
        self.key = key
        # By their numbers, which rise.
        self.waiters: dict[int, Waiter] = {}
        # How many of them must also hear that the key is gone.
        self.heeding = 0
        # Stands among those that are to be served.
        self.ready = False
        # Whose turn it is, while its command takes from this key through the engine.
        self.trying: Waiter | None = None

    def touched(self) -> None:
        """The key changed (Watcher)."""
        if not self.ready:
            self.ready = True
            self._blocking.line_is_ready(self)


class Blocking:
    """All blocked clients and their lines."""

    __slots__ = (
        "_lines",
        "_number",
        "_runner",
        "_scheduled",
        "_serving",
        "clock",
        "closed",
        "count",
        "presence",
        "ready",
    )

    def __init__(self, clock: Clock, runner: Runner) -> None:
        self.clock = clock
        self._runner = runner
        # By number of the database, and key.
        self._lines: dict[tuple[int, bytes], Line] = {}
        # Lines whose key has changed, in that order.
        self.ready: deque[Line] = deque()
        self._serving = False
        # The loop will call `_serve_soon`.
        self._scheduled = False
        self._number = 0
        # Blocked clients, those that are trying included (INFO blocked_clients).
        self.count = 0
        # Set by whoever knows the connections.
        self.presence: Presence | None = None
        # The server stops: nobody may begin to wait.
        self.closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that everything runs in."""
        return asyncio.get_running_loop()

    # -- coming and going ---------------------------------------------------------------------------------------------

    def enlist(self, session: Session, spec: CommandSpec, argv: list[bytes], blocked: Blocked) -> Waiter:
        """A client's command found nothing: it takes its place in the lines of its keys."""
        self._number += 1
        waiter = Waiter(self, self._number, session, spec, argv, blocked)
        session.blocked = waiter
        self.count += 1
        if self.count == 1:
            self._runner.heed(True)
        self._stand_in_line(waiter)
        if self.closed:
            self._let_go(waiter)
        elif blocked.timeout_ms:
            waiter.deadline_ms = self.clock.now_ms() + blocked.timeout_ms
            self._set_timer(waiter)
        return waiter

    def _stand_in_line(self, waiter: Waiter) -> None:
        database = waiter.session.db
        for key in waiter.keys:
            line = self._lines.get((database.index, key))
            if line is None:
                line = self._lines[(database.index, key)] = Line(self, database, key)
                database.watch(key, line)
            behind = bool(line.waiters) and next(reversed(line.waiters)) > waiter.number
            line.waiters[waiter.number] = waiter
            if behind:
                # It comes back to its old place.
                line.waiters = dict(sorted(line.waiters.items()))
            line.heeding += waiter.heeds_loss
            waiter.lines.append(line)

    def _step_out(self, waiter: Waiter) -> None:
        for line in waiter.lines:
            del line.waiters[waiter.number]
            line.heeding -= waiter.heeds_loss
            self._close_if_empty(line)
        waiter.lines = []

    def _close_if_empty(self, line: Line) -> None:
        if not line.waiters and line.trying is None:
            line.database.unwatch(line.key, line)
            del self._lines[(line.database.index, line.key)]

    def dismiss(self, waiter: Waiter, reply: object) -> None:
        """End a client's wait with this reply; one that is trying may still find something first."""
        if waiter.is_trying:
            waiter.verdict = reply
        elif waiter.session.blocked is waiter:
            self._settle(waiter, reply)

    def _settle(self, waiter: Waiter, reply: object) -> None:
        self._step_out(waiter)
        self.leave(waiter)
        waiter.turn.set_result(reply)

    def leave(self, waiter: Waiter) -> None:
        """A client that had stepped out of its lines has its reply."""
        if waiter.timer is not None:
            waiter.timer.cancel()
        self._end_try(waiter, True)
        waiter.session.blocked = None
        self.count -= 1
        if not self.count:
            self._runner.heed(False)

    def put_back(self, waiter: Waiter) -> None:
        """A client that was trying found nothing: it takes its old place, and waits for another turn."""
        waiter.turn = self.loop.create_future()
        # Nothing there for those behind it either.
        self._end_try(waiter, False)
        self._stand_in_line(waiter)
        if self.closed:
            self._let_go(waiter)
        elif waiter.verdict is not None:
            self._settle(waiter, waiter.verdict)

    def _end_try(self, waiter: Waiter, pass_on: bool) -> None:
        waiter.is_trying = False
        database = waiter.session.db
        for key in waiter.keys:
            line = self._lines.get((database.index, key))
            if line is not None and line.trying is waiter:
                line.trying = None
                if not pass_on:
                    continue
                if line.waiters:
                    line.touched()
                else:
                    self._close_if_empty(line)

    def close(self) -> None:
        """The server stops: let everybody go, without a reply."""
        self.closed = True
        for waiter in self._everybody():
            self._let_go(waiter)

    def close_leavers(self) -> None:
        """Let go of clients that have hung up. Called once a second."""
        for waiter in self._everybody():
            if self._has_left(waiter):
                self._let_go(waiter)

    def _let_go(self, waiter: Waiter) -> None:
        # Its connection is closed with the reply that it does not get.
        waiter.session.close_after_reply = True
        self._settle(waiter, NO_REPLY)

    def _has_left(self, waiter: Waiter) -> bool:
        return self.presence is not None and self.presence.has_left(waiter.session.client_id)

    def _everybody(self) -> list[Waiter]:
        # Who waits for several keys stands in several lines.
        return list(
            {waiter.number: waiter for line in self._lines.values() for waiter in line.waiters.values()}.values()
        )

    # -- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self, waiter: Waiter) -> None:
        left_s = (waiter.deadline_ms - self.clock.now_ms()) / 1000
        waiter.timer = self.loop.call_later(min(max(left_s, 0.0), _LONGEST_TIMER_S), self._time_is_up, waiter)

    def _time_is_up(self, waiter: Waiter) -> None:
        if self.clock.now_ms() < waiter.deadline_ms:
            self._set_timer(waiter)
        else:
            self.dismiss(waiter, NIL_ARRAY)

    # -- serving ------------------------------------------------------------------------------------------------------

    def line_is_ready(self, line: Line) -> None:
        """Serve it when the running command is over; should there be none, when the loop next turns."""
        self.ready.append(line)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._serve_soon)

    def _serve_soon(self) -> None:
        self._scheduled = False
        if self.ready:
            self._runner.tick()
            self.serve()

    def serve(self) -> None:
        """Run the commands of those whose keys have changed; what that changes in turn is served as well."""
        if self._serving:
            return
        self._serving = True
        try:
            while self.ready:
                line = self.ready.popleft()
                line.ready = False
                self._serve_line(line)
        finally:
            self._serving = False

    def _serve_line(self, line: Line) -> None:
        is_managed = self._runner.is_managed(line.database, line.key)
        if not (is_managed or line.heeding) and line.database.peek(line.key) is None:
            # The usual end of a list: whoever was served last took the last element.
            return
        for waiter in list(line.waiters.values()):
            if waiter.number not in line.waiters or not self._concerns(line, waiter, is_managed):
                continue
            if line.trying is not None and waiter.kind != STREAM:
                return
            self._try(line, waiter)

    def _concerns(self, line: Line, waiter: Waiter, is_managed: bool) -> bool:
        # May this client's command come out differently now?
        if waiter.heeds_loss:
            return True
        entry = line.database.peek(line.key)
        if entry is None:
            return is_managed
        return entry.kind == waiter.kind

    def _try(self, line: Line, waiter: Waiter) -> None:
        if self._has_left(waiter):
            # What was taken for it would be lost.
            self._let_go(waiter)
            return
        outcome = self._runner.run_again(waiter.session, waiter.spec, waiter.argv)
        if isinstance(outcome, Blocked):
            return
        if not isinstance(outcome, Retry):
            self._settle(waiter, outcome)
            return
        waiter.is_trying = True
        if waiter.kind != STREAM:
            # Elements are taken by one at a time; a stream is read by all at once.
            line.trying = waiter
        self._step_out(waiter)
        waiter.turn.set_result(outcome)
