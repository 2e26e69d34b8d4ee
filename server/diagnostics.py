"""Diagnostics, wired to the running server: SLOWLOG, LATENCY, MONITOR, DEBUG and what MEMORY asks of the process.

What each of them is, is in a module of its own; here they meet clock, dispatch, CONFIG and the operating system.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Awaitable, Iterable
from typing import Final

from persistence.seams import Clock
from protocol.replies import OK
from server.background import Background
from server.commands.context import Context
from server.config import ServerConfig
from server.dispatch import Dispatch
from server.latency import Latency
from server.monitors import Monitors
from server.session import Session
from server.settings import Setting, whole_number
from server.slowlog import SlowLog
from server.stopwatch import Stopwatch

_INT64_MAX: Final = (1 << 63) - 1
# Those of INFO latencystats, as Redis has them unless it is told otherwise.
_PERCENTILES: Final = (50, 99, 99.9)


def _unix_us() -> int:
    return time.time_ns() // 1000


class Diagnostics:
    """What an operator looks at when something is slow (the Diagnostics protocol of commands/context.py)."""

    __slots__ = (
        "_background",
        "_clock",
        "_dispatch",
        "_is_running",
        "allows_debug",
        "latency",
        "monitors",
        "slow_log",
        "stopwatch",
    )

    def __init__(self, config: ServerConfig, dispatch: Dispatch, background: Background, clock: Clock) -> None:
        self._background = background
        self._clock = clock
        self._dispatch = dispatch
        self.allows_debug = config.enable_debug_command
        self.slow_log = SlowLog(config.slowlog_log_slower_than_us, config.slowlog_max_len)
        self.latency = Latency(config.latency_monitor_threshold_ms)
        self.stopwatch = Stopwatch(self.slow_log, self.latency, time.perf_counter_ns, _unix_us)
        self.stopwatch.is_tracking = config.latency_tracking
        self.monitors = Monitors(_unix_us)
        dispatch.watch_commands(self.monitors)
        self._is_running = False

    def start(self) -> None:
        """The server begins to serve."""
        self._is_running = True
        self._restart()

    def stop(self) -> None:
        """The server has stopped."""
        self._is_running = False
        self.stopwatch.stop()

    # What commands ask.

    def slow_entries(self, count: int) -> list[list[object]]:
        """The newest entries of the slow log."""
        return self.slow_log.entries(count)

    def slow_count(self) -> int:
        """How many there are."""
        return len(self.slow_log)

    def forget_slow(self) -> None:
        """SLOWLOG RESET."""
        self.slow_log.clear()

    def latest_events(self) -> list[list[object]]:
        """LATENCY LATEST."""
        return self.latency.latest()

    def event_history(self, name: str) -> list[list[int]]:
        """LATENCY HISTORY."""
        return self.latency.history(name)

    def forget_events(self, names: list[str]) -> int:
        """LATENCY RESET."""
        return self.latency.reset(names)

    def histograms(self) -> dict[str, tuple[int, list[tuple[int, int]]]]:
        """Calls and cumulative counts by microseconds of each command that was timed."""
        return {name: (each.calls, each.cumulative()) for name, each in sorted(self.stopwatch.histograms.items())}

    def time_spent(self, name: str) -> tuple[int, float]:
        """Microseconds in a command's handler: its timed calls together, and each on average; 0 if none was timed."""
        histogram = self.stopwatch.histograms.get(name)
        if histogram is None:
            return 0, 0.0
        return histogram.total_ns // 1000, histogram.total_ns / 1000 / histogram.calls

    def forget_times(self) -> None:
        """CONFIG RESETSTAT."""
        self.stopwatch.histograms.clear()

    def info_latency(self) -> Iterable[tuple[str, object]]:
        """INFO latencystats: nothing unless latency-tracking is on."""
        for name, histogram in sorted(self.stopwatch.histograms.items()):
            values = [f"p{percent:g}={histogram.percentile(percent):.3f}" for percent in _PERCENTILES]
            yield f"latency_percentiles_usec_{name}", ",".join(values)

    def monitor(self, client: Context) -> None:
        """MONITOR."""
        assert isinstance(client, Session)
        if not client.monitoring:
            self.monitors.enter(client)

    def stop_monitoring(self, client: Context) -> None:
        """The client has gone, or been reset."""
        assert isinstance(client, Session)
        self.monitors.leave(client)

    def sleep(self, client: Context, argv: list[bytes], seconds: float) -> Awaitable[object]:
        """DEBUG SLEEP: this client waits, and the slow log has it."""
        return self._sleep(client, argv, seconds)

    async def _sleep(self, client: Context, argv: list[bytes], seconds: float) -> object:
        await self._clock.sleep(seconds)
        took_us = int(seconds * 1_000_000)
        if 0 <= self.slow_log.slower_than_us <= took_us:
            described = client.server.clients.describe(client.client_id) or {}
            address = described.get("addr", "").encode()
            self.slow_log.note(_unix_us() // 1_000_000, took_us, argv, address, client.name)
        return OK

    def expire_actively(self, wanted: bool) -> None:
        """DEBUG SET-ACTIVE-EXPIRE."""
        self._background.expires = wanted

    def release_memory(self) -> None:
        """Give the pages that the C library keeps free back to the system, where it is one that can (glibc)."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    # CONFIG.

    def settings(self) -> list[Setting]:
        """What CONFIG may ask and change."""
        return [
            Setting(
                "slowlog-log-slower-than",
                lambda: str(self.slow_log.slower_than_us),
                whole_number(-1, _INT64_MAX),
                self._set_slower_than,
            ),
            Setting(
                "slowlog-max-len", lambda: str(self.slow_log.max_len), whole_number(0, _INT64_MAX), self._set_max_len
            ),
            Setting(
                "latency-monitor-threshold",
                lambda: str(self.latency.threshold_ms),
                whole_number(0, _INT64_MAX),
                self._set_threshold,
            ),
            Setting(
                "latency-tracking",
                lambda: "yes" if self.stopwatch.is_tracking else "no",
                _yes_or_no,
                self._set_tracking,
            ),
            Setting("enable-debug-command", lambda: "yes" if self.allows_debug else "no"),
        ]

    def configure(self, config: ServerConfig) -> None:
        """The configuration file was read again."""
        self.slow_log.slower_than_us = config.slowlog_log_slower_than_us
        self.slow_log.max_len = config.slowlog_max_len
        self.slow_log.trim()
        self.latency.threshold_ms = config.latency_monitor_threshold_ms
        self._set_tracking(config.latency_tracking)

    def _restart(self) -> None:
        if self._is_running:
            self.stopwatch.start()
            self._dispatch.time_all(self.stopwatch.times_all)

    def _set_slower_than(self, value: object) -> None:
        assert isinstance(value, int)
        self.slow_log.slower_than_us = value
        self._restart()

    def _set_max_len(self, value: object) -> None:
        assert isinstance(value, int)
        self.slow_log.max_len = value
        self.slow_log.trim()

    def _set_threshold(self, value: object) -> None:
        assert isinstance(value, int)
        self.latency.threshold_ms = value
        self._restart()

    def _set_tracking(self, value: object) -> None:
        self.stopwatch.is_tracking = bool(value)
        if not value:
            self.stopwatch.histograms.clear()
        self._restart()


def _yes_or_no(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("yes", "no"):
        raise ValueError("argument must be 'yes' or 'no'")
    return lowered == "yes"
