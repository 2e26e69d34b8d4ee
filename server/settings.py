"""Run-time settings by Redis's names: what CONFIG GET shows and CONFIG SET may change.

A Setting says how a value is read and, when it may change while the server runs, how a text is checked and how the
checked value takes effect. CONFIG SET checks all of its values before the first takes effect. Secrets are shown empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


class Setting:
    """One setting: `read` gives its text; `check` turns a text into a value or raises ValueError; `apply` uses it."""

    __slots__ = ("apply", "check", "name", "read")

    def __init__(
        self,
        name: str,
        read: Callable[[], str],
        check: Callable[[str], object] | None = None,
        apply: Callable[[object], None] | None = None,
    ) -> None:
        self.name = name
        self.read = read
        # Both None: the setting is fixed while the server runs.
        self.check = check
        self.apply = apply


class RuntimeSettings:
    """All settings, by name (the Settings protocol of commands/context.py)."""

    __slots__ = ("_settings", "changed")

    def __init__(self, settings: list[Setting]) -> None:
        self._settings = {setting.name: setting for setting in settings}
        # What CONFIG SET has set since the start, by name.
        self.changed: set[str] = set()

    def names(self) -> list[str]:
        """All names, in alphabetical order."""
        return sorted(self._settings)

    def get(self, name: str) -> str:
        """The present value as text; KeyError for an unknown name."""
        return self._settings[name].read()

    def set_many(self, values: dict[str, str]) -> None:
        """Set all or none; ValueError names the first that is refused and why, in Redis's words."""
        checked: list[tuple[Setting, object]] = []
        for name, text in values.items():
            setting = self._settings.get(name)
            if setting is None:
                raise ValueError(f"Unknown option or number of arguments for CONFIG SET - '{name}'")
            if setting.check is None and text == setting.read():
                # What is so already: scripts send `CONFIG SET save ""` to whatever server they meet.
                continue
            if setting.check is None:
                raise ValueError(
                    f"CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config"
                )
            try:
                checked.append((setting, setting.check(text)))
            except ValueError as error:
                raise ValueError(f"CONFIG SET failed (possibly related to argument '{name}') - {error}") from error
        for setting, value in checked:
            assert setting.apply is not None
            setting.apply(value)
            self.changed.add(setting.name)


_UNITS: Final = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


def memory_size(text: str) -> int:
    """Bytes from Redis's spelling: `100mb`, `1g`, `1024`."""
    lowered = text.strip().lower()
    digits = lowered.rstrip("bkmg")
    factor = _UNITS.get(lowered[len(digits) :])
    if factor is None or not digits.isascii() or not digits.isdigit():
        raise ValueError("argument must be a memory value")
    return int(digits) * factor


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A checker of integers in a range."""

    def check(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError("argument couldn't be parsed into an integer") from None
        if not least <= number <= most:
            raise ValueError(f"argument must be between {least} and {most} inclusive")
        return number

    return check
