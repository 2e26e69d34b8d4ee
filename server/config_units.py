"""Values of the configuration file: what may be written, what it means, and the words in which the rest is refused.

Each reader takes what TOML gave (or a string out of the environment) and returns the plain value, or raises ValueError
with a text that completes the sentence "<key>: …". Texts never quote what may be a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(b|kb|mb|gb|tb|)", re.ASCII | re.IGNORECASE)
_BYTES: Final = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_SHARE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
# A hundred years: longer is a slip of the unit, and deadlines in milliseconds stay far below 2^53.
_LONGEST_S: Final = 100 * 365 * 86400.0
# Above any memory that exists; keeps sums of sizes inside 64 bits.
_LARGEST: Final = 1 << 52
# A cgroup without a limit says "max" (v2) or a number near 2^63 (v1).
_NO_LIMIT: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Amount:
    """A size, or a share (0 … 1) of something that is known later."""

    bytes: int = 0
    share: float = 0.0

    def of(self, whole: int) -> int:
        """The size in bytes, `whole` being what a share is taken of."""
        return int(whole * self.share) if self.share else self.bytes


def suggestion(word: str, known: Iterable[str]) -> str:
    """How a refusal of an unknown word ends: the nearest known word, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known are {', '.join(names)}" if names else "there are none"


def kind_of(value: object) -> str:
    """What a TOML value is called in a refusal: its type, never its content."""
    names = {
        bool: "a boolean",
        int: "a whole number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def text(value: object) -> str:
    """Any string without a NUL."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string in quotes, not {kind_of(value)}")
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def flag(value: object) -> bool:
    """true or false; also as strings, because that is how the environment writes them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"must be true or false, not {kind_of(value)}")


def whole(minimum: int, maximum: int) -> Callable[[object], int]:
    """A reader of whole numbers within bounds (both included)."""

    def read(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number from {minimum} to {maximum}, not {kind_of(value)}")
        if not minimum <= value <= maximum:
            raise ValueError(f"must be from {minimum} to {maximum}, not {value}")
        return value

    return read


def fraction(zero_allowed: bool) -> Callable[[object], float]:
    """A reader of shares below 1, from 0 or above it."""

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not (number >= 0 if zero_allowed else number > 0) or number >= 1:
            lowest = "0 or more" if zero_allowed else "above 0"
            raise ValueError(f"must be a number {lowest} and below 1")
        return number

    return read


def not_negative(value: object) -> float:
    """A finite number of 0 or more."""
    number = _number(value)
    if number is None or number < 0:
        raise ValueError("must be a number of 0 or more")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def duration(value: object) -> float:
    """Seconds: "250ms", "5s", "10m", "2h", "1d" or a plain number of seconds."""
    seconds: float | None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip().lower())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else None
    else:
        seconds = _number(value)
    if seconds is None or not 0 <= seconds <= _LONGEST_S:
        raise ValueError('must be a duration, such as "250ms", "5s", "10m", "2h" or a number of seconds')
    # Half a millisecond would become "no TTL" or "no delay" further down, which is the opposite of what was meant.
    if 0 < seconds < 0.001:
        raise ValueError('must be "0" or at least "1ms"')
    return seconds


def positive_duration(value: object) -> float:
    """A duration that is not zero."""
    seconds = duration(value)
    if not seconds:
        raise ValueError('must be longer than "0"')
    return seconds


def duration_or_off(value: object) -> float:
    """A duration, or "off", which is 0."""
    return 0.0 if value == "off" else duration(value)


def size_between(minimum: int, maximum: int) -> Callable[[object], int]:
    """A reader of sizes within bounds (both included)."""

    def read(value: object) -> int:
        amount = size(value)
        if not minimum <= amount <= maximum:
            raise ValueError(f"must be {minimum} … {maximum} bytes")
        return amount

    return read


def size(value: object) -> int:
    """Bytes: "64kb", "512mb", "2gb" (powers of 1024) or a plain number of bytes."""
    amount: float | None = None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match and ("." not in match[1] or match[2]):
            amount = float(match[1]) * _BYTES[match[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    if amount is None or not 0 <= amount <= _LARGEST:
        raise ValueError('must be a size, such as "64kb", "512mb", "2gb" or a number of bytes')
    return int(amount)


def amount(value: object) -> Amount:
    """A size, or a share such as "60%"."""
    if isinstance(value, str):
        match = _SHARE.fullmatch(value.strip())
        if match:
            percent = float(match[1])
            if not 0 < percent <= 100:
                raise ValueError('must be above "0%" and at most "100%"')
            return Amount(share=percent / 100)
        if "%" in value:
            raise ValueError('must be a share such as "60%" or a size such as "512mb"')
    return Amount(bytes=size(value))


def one_of(*choices: str) -> Callable[[object], str]:
    """A reader of one word out of several."""

    def read(value: object) -> str:
        word = text(value)
        if word not in choices:
            raise ValueError(f"unknown word {word!r}; {suggestion(word, choices)}")
        return word

    return read


def host(value: object) -> str:
    """An IP address or a host name, without a port."""
    name = text(value)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if not _HOST.fullmatch(name):
            raise ValueError(
                'must be an IP address or a host name without a port, such as "127.0.0.1" or "::1"'
            ) from None
    return name


def hosts(value: object) -> tuple[str, ...]:
    """A list of hosts, or one."""
    if isinstance(value, str):
        return (host(value),)
    if not isinstance(value, list):
        raise ValueError(f'must be a list of addresses, such as ["127.0.0.1"], not {kind_of(value)}')
    found = tuple(host(item) for item in value)
    if len(set(found)) != len(found):
        raise ValueError("names the same address twice")
    return found


def address(value: object) -> tuple[str, int] | None:
    """("127.0.0.1", 9121) from "127.0.0.1:9121" or "[::1]:9121"; None from "". Port 0 means any free one."""
    whole_text = text(value)
    if not whole_text:
        return None
    name, colon, port = whole_text.rpartition(":")
    bracketed = name.startswith("[") and name.endswith("]")
    # Five digits at most, so that int() is bounded.
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535 or (":" in name) != bracketed:
        raise ValueError('must be ADDRESS:PORT, such as "127.0.0.1:9121" or "[::1]:9121", or empty')
    return host(name[1:-1] if bracketed else name), int(port)


def file_mode(value: object) -> int:
    """Permission bits: "0660" (octal, as chmod takes them) or TOML's 0o660."""
    mode: int | None = None
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        mode = int(value, 8)
    elif isinstance(value, int) and not isinstance(value, bool):
        mode = value
    # A decimal 600 or 660 written by mistake is above 0o777 and refused here.
    if mode is None or not 0 <= mode <= 0o777:
        raise ValueError('must be octal permissions, such as "0600" or "0660"')
    return mode


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the tightest of its cgroup limits (v2 or v1) and the machine's memory.

    `root` is where /proc and /sys are looked for. A container sees its own group as the root of the hierarchy, while
    /proc/self/cgroup may still name the path on the host, so both places are read and what is missing is skipped.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A limit of any group above binds as well.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            limits += _limit_in(base.joinpath(*parts[:depth], name))
    return min(limits)


def _limit_in(file: Path) -> list[int]:
    try:
        content = file.read_text().strip()
    except OSError:
        return []
    return [int(content)] if content.isdigit() and int(content) < _NO_LIMIT else []
