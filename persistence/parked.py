"""Parked: a command that waits without a task of its own.

Whatever it waits for calls `resume` when it is there. Whoever runs the command leaves a callback for its reply; it may
do so before or after that.
"""

from __future__ import annotations

from collections.abc import Callable


class Parked:
    """A waiting command; a subclass knows how it goes on."""

    __slots__ = ("_is_due", "_told")

    def __init__(self) -> None:
        self._told: Callable[[object], None] | None = None
        # Nothing is waited for any more but somebody to be told.
        self._is_due = False

    def answer(self) -> object:
        """The reply, now that what was waited for is there. Called once."""
        raise NotImplementedError

    def resume(self) -> None:
        """What was waited for is there, or will not come."""
        if self._told is None:
            self._is_due = True
        else:
            self._told(self.answer())

    def answer_to(self, told: Callable[[object], None]) -> None:
        """Call this one with the reply, now or later, once."""
        self._told = told
        if self._is_due:
            told(self.answer())

    def close(self) -> None:
        """Nobody wants the reply."""
