"""Arguments: from the bytes that a client sent to numbers and lifetimes, with Redis's own rules and error texts.

Redis is strict where Python is lenient: an integer has no sign `+`, no leading zero, no space and no underscore, and
fits 64 bits.
"""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER
from protocol.replies import Error
from server.commands.context import Context
from server.commands.numerals import LongDouble, parse_long_double
from server.errors import NOT_FLOAT, NOT_INTEGER, STRING_TOO_LONG, SYNTAX, CommandError, invalid_expire

INT64_MAX: Final = 9223372036854775807
INT64_MIN: Final = -9223372036854775808
# A string may not grow beyond this (proto-max-bulk-len).
MAX_STRING: Final = 512 * 1024 * 1024

_ZERO: Final = 48
_MINUS: Final = 45

# The smaller numbers as texts and as numbers, so many as Redis has ready: most counters stand at one of them, and keys
# that do share its text.
TEXTS: Final[list[bytes]] = [b"%d" % number for number in range(10_000)]
READY: Final = len(TEXTS)
# Texts of so many bytes are none of them.
READY_DIGITS: Final = 5
NUMBERS: Final[dict[bytes, int]] = {text: number for number, text in enumerate(TEXTS)}


def parse_integer(text: bytes) -> int | None:
    """The 64-bit integer that the text spells in its one canonical way; None when it does not."""
    length = len(text)
    if length < READY_DIGITS:
        ready = NUMBERS.get(text)
        if ready is not None:
            return ready
    if text.isdigit():
        if text[0] == _ZERO:
            return None
        if length < 19:
            return int(text)
        if length > 19:
            return None
    elif not (1 < length <= 20 and text[0] == _MINUS and text[1] != _ZERO and text[1:].isdigit()):
        return None
    value = int(text)
    return value if INT64_MIN <= value <= INT64_MAX else None


def integer_text(number: int) -> bytes:
    """The text that spells an integer."""
    return TEXTS[number] if 0 <= number < READY else b"%d" % number


def integer(text: bytes) -> int:
    """A 64-bit integer argument."""
    value = parse_integer(text)
    if value is None:
        raise CommandError(NOT_INTEGER)
    return value


def integer_between(text: bytes, low: int, high: int) -> int:
    """An integer argument with bounds of its own."""
    value = integer(text)
    if not low <= value <= high:
        raise CommandError(Error(f"ERR value is out of range, value must between {low} and {high}"))
    return value


def integer_from(text: bytes, low: int, refusal: Error) -> int:
    """An integer argument of at least `low`; one refusal for whatever is wrong with it."""
    value = parse_integer(text)
    if value is None or value < low:
        raise CommandError(refusal)
    return value


def long_double(text: bytes) -> LongDouble:
    """A number argument of INCRBYFLOAT and its kin; may be infinite."""
    value = parse_long_double(text)
    if value is None:
        raise CommandError(NOT_FLOAT)
    return value


def check_length(length: int) -> None:
    """Refuse to make a string of so many bytes."""
    if length > MAX_STRING:
        raise CommandError(STRING_TOO_LONG)


def counted_keys(argv: list[bytes], at: int) -> list[bytes]:
    """The keys whose number stands at argv[at] and which follow it; none when that number makes no sense.

    For `find_keys=`, which is asked before the handler has judged the arguments.
    """
    count = parse_integer(argv[at]) if at < len(argv) else None
    if count is None or not 0 < count < len(argv) - at:
        return []
    return argv[at + 1 : at + 1 + count]


def keys_after_count(argv: list[bytes]) -> list[bytes]:
    """For `find_keys=`: `numkeys key [key ...]` begins the arguments."""
    return counted_keys(argv, 1)


def destination_and_keys(argv: list[bytes]) -> list[bytes]:
    """For `find_keys=`: `destination numkeys key [key ...]` begins the arguments."""
    return [argv[1], *counted_keys(argv, 2)]


def always(argv: list[bytes]) -> bool:
    """For `blind=`: this command never looks at what it overwrites or deletes."""
    return True


# How a lifetime was given. The order matters: SECONDS and AT_SECONDS count seconds, the AT_ ones are points in time.
NO_LIFETIME: Final = 0
SECONDS: Final = 1  # EX
MILLISECONDS: Final = 2  # PX
AT_SECONDS: Final = 3  # EXAT
AT_MILLISECONDS: Final = 4  # PXAT
KEEP_LIFETIME: Final = 5  # KEEPTTL
PERSIST: Final = 6  # PERSIST

# In both spellings that clients use, so that the common case needs no folding.
LIFETIMES: Final = {
    b"EX": SECONDS,
    b"PX": MILLISECONDS,
    b"EXAT": AT_SECONDS,
    b"PXAT": AT_MILLISECONDS,
    b"ex": SECONDS,
    b"px": MILLISECONDS,
    b"exat": AT_SECONDS,
    b"pxat": AT_MILLISECONDS,
}
# The largest number of seconds whose milliseconds fit 64 bits.
_MOST_SECONDS: Final = INT64_MAX // 1000


def positive_deadline(ctx: Context, unit: int, text: bytes, command: str) -> int:
    """The server deadline of a lifetime that must be above zero: SET, SETEX, PSETEX, GETEX. `command` in lower case."""
    amount = integer(text)
    if amount <= 0:
        raise CommandError(invalid_expire(command))
    return deadline(ctx, unit, amount, command)


def deadline(ctx: Context, unit: int, amount: int, command: str) -> int:
    """The server deadline of a lifetime or a point in time; one in the past comes out as the present moment.

    What lies beyond year 146 million is taken for that year: the keyspace's NEVER must stay later than any deadline.
    """
    if unit in (SECONDS, AT_SECONDS):
        if not -_MOST_SECONDS <= amount <= _MOST_SECONDS:
            raise CommandError(invalid_expire(command))
        amount *= 1000
    now_ms = ctx.db.now_ms
    if unit >= AT_SECONDS:
        amount -= ctx.server.wall_offset_ms()
    else:
        amount += now_ms
        # Redis adds to the wall clock and refuses what exceeds 64 bits.
        if amount >= NEVER and amount + ctx.server.wall_offset_ms() > INT64_MAX:
            raise CommandError(invalid_expire(command))
    if amount < now_ms:
        return now_ms
    return amount if amount < NEVER else NEVER - 1


class SetOptions:
    """The options of SET and GETEX."""

    __slots__ = ("amount", "get", "if_absent", "if_present", "unit")

    def __init__(self) -> None:
        # NO_LIFETIME … PERSIST, and the number that came with the first four.
        self.unit = NO_LIFETIME
        self.amount = b""
        # NX, XX, GET
        self.if_absent = False
        self.if_present = False
        self.get = False

    def parse(self, argv: list[bytes], start: int, is_set: bool) -> None:
        """Read the options from argv[start:], of SET or of GETEX; raises on conflicts."""
        at = start
        while at < len(argv):
            option = argv[at].upper()
            unit = LIFETIMES.get(option, NO_LIFETIME)
            if unit != NO_LIFETIME:
                # One of them given twice counts as given last, as in Redis.
                if at + 1 == len(argv) or (self.unit != NO_LIFETIME and self.unit != unit):
                    raise CommandError(SYNTAX)
                at += 1
                self.unit = unit
                self.amount = argv[at]
            elif is_set and option == b"KEEPTTL" and self.unit in (NO_LIFETIME, KEEP_LIFETIME):
                self.unit = KEEP_LIFETIME
            elif not is_set and option == b"PERSIST" and self.unit in (NO_LIFETIME, PERSIST):
                self.unit = PERSIST
            elif is_set and option == b"NX" and not self.if_present:
                self.if_absent = True
            elif is_set and option == b"XX" and not self.if_absent:
                self.if_present = True
            elif is_set and option == b"GET":
                self.get = True
            else:
                raise CommandError(SYNTAX)
            at += 1

    def has_deadline(self) -> bool:
        """Was one of EX, PX, EXAT, PXAT given?"""
        return NO_LIFETIME < self.unit <= AT_MILLISECONDS


# EXPIRE's conditions, as bits.
EXPIRE_NX: Final = 1
EXPIRE_XX: Final = 2
EXPIRE_GT: Final = 4
EXPIRE_LT: Final = 8

_CONDITIONS: Final = {b"NX": EXPIRE_NX, b"XX": EXPIRE_XX, b"GT": EXPIRE_GT, b"LT": EXPIRE_LT}
_NX_CONFLICT: Final = Error("ERR NX and XX, GT or LT options at the same time are not compatible")
_GT_CONFLICT: Final = Error("ERR GT and LT options at the same time are not compatible")


def expire_conditions(argv: list[bytes]) -> int:
    """The conditions of the EXPIRE family, from argv[3:], as bits."""
    given = 0
    for option in argv[3:]:
        bit = _CONDITIONS.get(option.upper(), 0)
        if not bit:
            raise CommandError(Error(b"ERR Unsupported option " + option))
        given |= bit
    if given & EXPIRE_NX and given != EXPIRE_NX:
        raise CommandError(_NX_CONFLICT)
    if given & EXPIRE_GT and given & EXPIRE_LT:
        raise CommandError(_GT_CONFLICT)
    return given
