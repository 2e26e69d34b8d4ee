"""The stopwatch: how long handlers take, for SLOWLOG and LATENCY.

Reading a clock twice for every command would cost a tenth of a GET. So the clock is put where it is wanted: a handler
that is to be timed is wrapped, the others are called as ever, and neither dispatch nor a handler knows the difference.

Which are timed follows from what is asked for. A threshold of a millisecond or more can only be passed by a command
whose work grows with something: not by those that Redis flags as fast, nor by those whose row says O(1). Below that,
and for histograms, all are. What a command waits for (a store, a lock, a key) is not its handler's time, as in Redis.

The command table is one for the process: of two stopwatches in it the one that was started last runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.commands.context import Context
from server.commands.spec import COMMANDS, FAST, CommandSpec, Handler
from server.latency import Histogram, Latency
from server.redaction import without_secrets
from server.slowlog import SlowLog

# Microseconds of a threshold from which on quick commands need not be timed.
_COARSE_US: Final = 1000


class Stopwatch:
    """Times handlers while somebody wants to know."""

    __slots__ = ("_now_ns", "_unix_us", "histograms", "is_tracking", "latency", "slow_log")

    def __init__(
        self, slow_log: SlowLog, latency: Latency, now_ns: Callable[[], int], unix_us: Callable[[], int]
    ) -> None:
        self.slow_log = slow_log
        self.latency = latency
        self._now_ns = now_ns
        self._unix_us = unix_us
        # latency-tracking: are histograms kept?
        self.is_tracking = False
        # By the command's name, in lower case, `a|b` for a subcommand.
        self.histograms: dict[str, Histogram] = {}

    @property
    def times_all(self) -> bool:
        """Are all handlers to be timed?"""
        return self.is_tracking or 0 <= self.slow_log.slower_than_us < _COARSE_US

    def start(self) -> None:
        """Time what is to be timed; to be called again when a threshold has changed. O(commands)."""
        least_ns = self._least_ns()
        for spec in every_command():
            handler = plain_handler(spec)
            wanted = self._wants(spec)
            spec.handler = Timed(spec, handler, self, self._now_ns, least_ns).run if wanted else handler

    def stop(self) -> None:
        """Time nothing."""
        for spec in every_command():
            timed = getattr(spec.handler, "__self__", None)
            if isinstance(timed, Timed) and timed.watch is self:
                spec.handler = timed.handler

    def _wants(self, spec: CommandSpec) -> bool:
        slow_us = self.slow_log.slower_than_us
        late_us = self.latency.threshold_ms * 1000
        if self.times_all:
            return True
        return (slow_us >= 0 or late_us > 0) and not is_quick(spec)

    def _least_ns(self) -> int:
        # What takes less need not be looked at.
        if self.is_tracking:
            return 0
        slow_us = self.slow_log.slower_than_us
        late_us = self.latency.threshold_ms * 1000
        return 1000 * min([limit for limit, is_on in ((slow_us, slow_us >= 0), (late_us, late_us > 0)) if is_on] or [0])

    def took(self, spec: CommandSpec, ctx: Context, argv: list[bytes], took_ns: int) -> None:
        """A handler has run that long."""
        took_us = took_ns // 1000
        if self.is_tracking:
            self.histograms.setdefault(spec.name, Histogram()).add(took_ns)
        late_ms = self.latency.threshold_ms
        if late_ms and took_us >= late_ms * 1000:
            event = "fast-command" if spec.flags & FAST else "command"
            self.latency.note(event, self._unix_us() // 1_000_000, took_us // 1000)
        if 0 <= self.slow_log.slower_than_us <= took_us:
            self.note_slow(spec, ctx, argv, took_us)

    def note_slow(self, spec: CommandSpec, ctx: Context, argv: list[bytes], took_us: int) -> None:
        """Enter a command into the slow log."""
        client = ctx.server.clients.describe(ctx.client_id) or {}
        address = client.get("addr", "").encode()
        self.slow_log.note(self._unix_us() // 1_000_000, took_us, without_secrets(spec, argv), address, ctx.name)


class Timed:
    """A handler with a clock around it."""

    __slots__ = ("_least_ns", "_now_ns", "handler", "spec", "watch")

    def __init__(
        self, spec: CommandSpec, handler: Handler, watch: Stopwatch, now_ns: Callable[[], int], least_ns: int
    ) -> None:
        self.spec = spec
        self.handler = handler
        self.watch = watch
        # A clock that only runs forward.
        self._now_ns = now_ns
        # The watch is told from so long on.
        self._least_ns = least_ns

    def run(self, ctx: Context, argv: list[bytes]) -> object:
        """The handler, timed, however it ends."""
        began_ns = self._now_ns()
        try:
            return self.handler(ctx, argv)
        finally:
            took_ns = self._now_ns() - began_ns
            if took_ns >= self._least_ns:
                self.watch.took(self.spec, ctx, argv, took_ns)


def every_command() -> list[CommandSpec]:
    """All rows of the command table, those of subcommands too."""
    specs: list[CommandSpec] = []
    for spec in COMMANDS.values():
        specs += [spec, *spec.subcommands.values()]
    return specs


def plain_handler(spec: CommandSpec) -> Handler:
    """The handler as its module has it."""
    timed = getattr(spec.handler, "__self__", None)
    return timed.handler if isinstance(timed, Timed) else spec.handler


def is_quick(spec: CommandSpec) -> bool:
    """Is its work bounded, whatever the values are?"""
    return spec.flags & FAST != 0 or spec.complexity == "O(1)"
