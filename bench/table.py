"""What a bench shows: a table at the end, one overwritten line of progress before."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that also reads well on a terminal: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        return "| " + " | ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])

    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"{text} |" for text in [line(cells[0]), line(ruler), *map(line, cells[1:])])


def number(value: float) -> str:
    """Thousands apart, as people read them: 1 234 567."""
    return f"{value:,.0f}".replace(",", " ")


class Progress:
    """One overwritten line on a terminal; silent elsewhere, and at most ten times a second."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        # When the line was written last.
        self._last = 0.0

    def show(self, text: str) -> None:
        """Replace the line."""
        now = time.monotonic()
        if self._shown and now - self._last >= 0.1:
            self._last = now
            sys.stderr.write(f"\r\x1b[K{now - self._started:6.0f} s  {text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._last = 0.0
