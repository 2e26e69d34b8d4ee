"""Progress: one overwritten line on a terminal, for whoever watches something long. Silent elsewhere."""

from __future__ import annotations

import sys
from typing import Final

from persistence.seams import Clock

_EVERY_MS: Final = 100


class TerminalProgress:
    """The line, on standard error, renewed ten times a second at most."""

    __slots__ = ("_clock", "_next_ms", "_shown")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_ms = 0
        # Something stands there now.
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        now = self._clock.now_ms()
        if now >= self._next_ms and sys.stderr.isatty():
            self._next_ms = now + _EVERY_MS
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
