"""Commands from the bytes of one client: strict, incremental, linear.

**The problem.** Bytes arrive in pieces that have nothing to do with commands, from peers of whom some are hostile.
Every split of the same bytes must give the same commands and the same error; the work must be linear in the bytes,
whatever they say; nothing may be reserved on the strength of a number that has only been announced; and for the
traffic that matters, short commands that arrive whole, all of this must cost well under a microsecond.

**The method.** Two layers. The quick road (`quick`) takes runs of short complete commands and stops before anything
else. The careful road (`_next`) reads step by step, can stop after any byte and resume there, and is the only judge:
all limits and all error texts are here. An error is a function of the bytes seen so far, never of the reads they came
in. After one, the commands before it are delivered, `error` is set, and the parser is dead: where the next command
would begin is unknown.

What has arrived lives in three places, always in this order: ``_large`` (one argument of 32 KiB or more, growing in a
bytearray of its own), ``_data`` from ``_pos`` on (immutable: slicing it gives the arguments, and a read that finds it
empty becomes it without being copied) and ``_tail`` (what came while ``_data`` was not used up). When ``_data`` ends
in the middle of something, ``_need`` says how many bytes are worth looking at again, and until then `take` returns at
once. A bulk fed byte by byte is thus looked at twice, not once per byte, and what is copied when tail and rest are
joined is less than 32 KiB or one header line or one inline request.

**Rejected.** hiredis (it parses replies, takes anything for an argument, and reserves what was announced). int() and
isdigit() for lengths: they accept signs, underscores, spaces and digits of other scripts. Exceptions for "not enough
yet": that is the usual case, not the exceptional one. One growing bytearray for everything: deleting its front and
copying every argument twice costs more than the parsing. Memoryviews as arguments: a key would keep a whole read
alive.

**Limits of it.** Redis' C strings end an inline request at a NUL byte; here NUL is a byte like any other. Redis does
not look at the two bytes behind a bulk string; here anything but CRLF is an error, since it can only mean that client
and server disagree about where commands begin. A large argument exists twice for the moment of its conversion to
bytes. `max_query` is not enforced here (see `limits`).
"""

from typing import Final

from protocol.errors import ProtocolError, printable
from protocol.limits import DEFAULT, Limits
from protocol.quick import (
    COMPILED,
    CRLF,
    PATIENCE,
    QUICK_ARGS,
    QUICK_BULK,
    alike,
    by_bytes,
    by_split,
    learn_alike,
)

# Arguments from this size on collect in a bytearray. Smaller ones wait in the tail, where they are copied twice:
# below some ten kilobytes that is cheaper than an object more.
LARGE_BULK: Final = 32 * 1024

# Announced numbers beyond these are nonsense whatever the limits (Redis: INT_MAX), and have ten digits at most.
_INT_MAX: Final = 2**31 - 1
_LENGTH_DIGITS: Final = 10
# "*-1" is ignored as far as Redis can read it: down to -2**63.
_LONGEST_NEGATIVE: Final = 2**63
_NEGATIVE_DIGITS: Final = 19

# Answers of `_header` that are no length.
_WAIT: Final = -1
_FAILED: Final = -2

_INVALID_COUNT: Final = "Protocol error: invalid multibulk length"
_INVALID_LENGTH: Final = "Protocol error: invalid bulk length"

_BLANK: Final = b" \t\n\v\f\r"
_ESCAPES: Final[dict[int, int]] = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"

# Frequent header lines, read without looking at their digits; none is longer than _KNOWN_LINE with its CRLF.
_COUNTS: Final[dict[bytes, int]] = {b"*%d" % n: n for n in range(100)}
_LENGTHS: Final[dict[bytes, int]] = {b"$%d" % n: n for n in range(1000)}
_KNOWN_LINE: Final = 6


class RequestParser:
    """The commands of one client, from bytes in any pieces.

    `feed` what was received, `take` the commands that are complete, then look at `error`. Feeding and taking are linear
    in the bytes, over any split of them.
    """

    __slots__ = (
        "_argv",
        "_bulk",
        "_data",
        "_held",
        "_large",
        "_left",
        "_limits",
        "_line",
        "_max_args",
        "_need",
        "_patience",
        "_pos",
        "_quick_size",
        "_tail",
        "drained",
        "error",
    )

    def __init__(self, limits: Limits = DEFAULT) -> None:
        # What was wrong with the stream; once set, nothing is parsed or kept any more.
        self.error: ProtocolError | None = None
        # Bytes not parsed yet: `_data` from `_pos` on, then `_tail`. `_data` is empty only when `_tail` is.
        self._data = b""
        self._pos = 0
        self._tail = bytearray()
        # So many unparsed bytes are needed before parsing can get any further; 0 when that is not known.
        self._need = 0
        # What `_need` waits for is the end of an inline request, so a newline ends the waiting.
        self._line = False
        # The command in progress: its arguments so far, their bytes, and how many are to come (0: no command).
        self._argv: list[bytes] = []
        self._held = 0
        self._left = 0
        # Length of the argument in progress; -1 while its header is not read.
        self._bulk = -1
        # The argument in progress together with its CRLF, if it is large and incomplete.
        self._large: bytearray | None = None
        self._limits = limits
        # Buffers up to this size may take the quick road; -1 forbids it.
        self._quick_size = -1
        self._max_args = limits.max_args
        # Commands to read carefully before the quick road is tried again; it last found nothing to its liking.
        self._patience = 0
        # The last `take` has left nothing behind: until more is fed there is nothing to take.
        self.drained = False
        self.limits = limits

    @property
    def limits(self) -> Limits:
        """What applies from the next header line on; may be replaced at any time, as after AUTH."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._max_args = limits.max_args
        # The roads know no limit but the number of arguments, so they are closed where another one could matter.
        quick = limits.max_bulk >= QUICK_BULK and limits.max_args >= QUICK_ARGS
        self._quick_size = limits.max_command if quick else -1
        if self._bulk < 0:
            self._need = 0
            self._line = False

    def buffered(self) -> int:
        """Bytes held: received and not parsed, or parsed into the command in progress. O(1)."""
        large = len(self._large) if self._large is not None else 0
        return self._held + large + len(self._data) - self._pos + len(self._tail)

    def feed(self, data: bytes) -> None:
        """Append received bytes. Amortized O(len(data)); never parses, never fails; ignored after an error."""
        self.drained = False
        if self._large is not None:
            room = self._bulk + 2 - len(self._large)
            if room > len(data):
                self._large += data
                return
            self._large += data[:room]
            data = data[room:]
            self._need = 0
        if not self._data:
            if self.error is None:
                self._data = data
        else:
            self._tail += data
            if self._line and b"\n" in data:
                self._need = 0

    def take(self, most: int = 0) -> list[list[bytes]]:
        """The next complete commands, at most ``most`` of them (0: all); linear in the bytes they occupy.

        Empty requests are skipped. When malformed input is reached, the commands before it are returned and `error` is
        set; from then on the answer is always empty.
        """
        out: list[list[bytes]] = []
        data = self._data
        self.drained = False
        if not data and self._large is None:
            return out
        pos = self._pos
        if self._need:
            if self._need > len(data) - pos + len(self._tail):
                return out
            self._need = 0
        if self._left == 0 and self._patience == 0 and len(data) <= self._quick_size:
            if COMPILED:
                pos = by_bytes(data, pos, most, self._max_args, out)
            else:
                pos = by_split(data, pos, most, self._max_args, out)
            if pos == len(data) and not self._tail:
                self._data = b""
                self._pos = 0
                self.drained = True
                return out
            self._pos = pos
            if not out:
                self._patience = PATIENCE - 1
        self._take_rest(most, out)
        return out

    def receive(self, data: bytes, most: int = 0) -> list[list[bytes]]:
        """`feed`, then `take`, in one step: the usual case is whole commands and nothing left from before."""
        if (
            self._data
            or self._need
            or self._left
            or self._patience
            or self._large is not None
            or self.error is not None
        ):
            self.feed(data)
            return self.take(most)
        out: list[list[bytes]] = []
        pos = 0
        size = len(data)
        if size <= self._quick_size:
            if COMPILED:
                pos = by_bytes(data, 0, most, self._max_args, out)
            elif most == 0 and alike(data, out):
                pos = size
            else:
                pos = by_split(data, 0, most, self._max_args, out)
                if pos == size and len(out) > 1:
                    learn_alike(data, out)
            if pos == size:
                self.drained = True
                return out
        self.drained = False
        self._data = data
        self._pos = pos
        if not out:
            self._patience = PATIENCE - 1
        self._take_rest(most, out)
        return out

    # What `take` does once the quick road has stopped: careful commands, and the quick road again after some of them.
    def _take_rest(self, most: int, out: list[list[bytes]]) -> None:
        patience = PATIENCE
        while self.error is None:
            if patience:
                patience -= 1
            elif self._left == 0 and len(self._data) <= self._quick_size:
                patience = PATIENCE - 1
                if COMPILED:
                    self._pos = by_bytes(self._data, self._pos, most, self._max_args, out)
                else:
                    self._pos = by_split(self._data, self._pos, most, self._max_args, out)
            if self._pos == len(self._data) and self._large is None:
                self._refill()
                if not self._data:
                    break
            if most and len(out) >= most:
                break
            argv = self._next()
            if argv is not None:
                out.append(argv)
                if self._patience:
                    self._patience -= 1
            elif not self._refill():
                break

    # The careful road: the next command with at least one argument, or None when the bytes at hand are used up or an
    # error was found. Everything needed to resume is in the attributes, so it may stop after any byte.
    def _next(self) -> list[bytes] | None:
        if self._large is not None:
            self._finish_large(self._large)
        data = self._data
        size = len(data)
        if self._left == 0 and self._argv:
            return self._complete()
        while self._left == 0:
            pos = self._pos
            if pos >= size:
                self._need = 1
                return None
            byte = data[pos]
            if byte == 42:  # *
                end = data.find(CRLF, pos, pos + _KNOWN_LINE)
                count = _COUNTS.get(data[pos:end], -1) if end >= 0 else -1
                if count < 0 or count > self._max_args:
                    count = self._header(True)
                    if count < 0:
                        return None
                    end = data.find(CRLF, pos)
                self._pos = end + 2
                self._left = count
            elif byte == 10:
                self._pos = pos + 1
            elif byte == 13 and data[pos + 1 : pos + 2] == b"\n":
                self._pos = pos + 2
            else:
                argv = self._inline()
                if argv is None or argv:
                    return argv
        argv = self._argv
        left = self._left
        length = self._bulk
        pos = self._pos
        held = self._held
        max_command = self._limits.max_command
        max_bulk = self._limits.max_bulk
        while left:
            if length < 0:
                end = data.find(CRLF, pos, pos + _KNOWN_LINE)
                length = _LENGTHS.get(data[pos:end], -1) if end >= 0 else -1
                if length < 0 or length > max_bulk:
                    self._pos = pos
                    length = self._header(False)
                    if length < 0:
                        break
                    end = data.find(CRLF, pos)
                pos = end + 2
                if held + length > max_command:
                    self._fail("Protocol error: command exceeds the query buffer limit")
                    return None
            end = pos + length
            if end + 2 > size:
                self._need = length + 2
                break
            if data[end] != 13 or data[end + 1] != 10:
                self._fail("Protocol error: expected CRLF after bulk")
                return None
            argv.append(data[pos:end])
            pos = end + 2
            held += length
            length = -1
            left -= 1
        if self.error is not None:
            return None
        self._pos = pos
        self._left = left
        self._held = held
        self._bulk = length if length >= 0 else -1
        return self._complete() if left == 0 else None

    def _complete(self) -> list[bytes]:
        argv = self._argv
        self._argv = []
        self._held = 0
        return argv

    # When `_next` has come to the end of `_data`: join the tail if that makes enough, else arrange to wait. Whether to
    # call `_next` again.
    def _refill(self) -> bool:
        if self.error is not None:
            return False
        # The rest is copied so that an idle connection does not keep a whole read for the first bytes of a command.
        rest = self._data[self._pos :]
        self._pos = 0
        if self._tail:
            self._data = rest + self._tail
            self._tail = bytearray()
            if len(self._data) >= self._need or self._line:
                self._need = 0
                self._line = False
                return True
        else:
            self._data = rest
        if self._bulk >= LARGE_BULK:
            self._large = bytearray(self._data)
            self._data = b""
        return False

    def _finish_large(self, large: bytearray) -> None:
        length = self._bulk
        if large[length:] != CRLF:
            self._fail("Protocol error: expected CRLF after bulk")
            return
        del large[length:]
        self._argv.append(bytes(large))
        self._large = None
        self._held += length
        self._bulk = -1
        self._left -= 1

    # The number in the header line at `_pos`: of arguments (0 for an empty or negative count) or of bytes. _WAIT when
    # the line is not complete, _FAILED when it is wrong. O(max_header_line).
    def _header(self, is_count: bool) -> int:
        data = self._data
        pos = self._pos
        limits = self._limits
        if pos >= len(data):
            self._need = 1
            return _WAIT
        if not is_count and data[pos] != 36:  # $
            return self._fail(f"Protocol error: expected '$', got '{printable(data[pos])}'")
        end = data.find(b"\r", pos, pos + limits.max_header_line + 1)
        if end < 0:
            if len(data) - pos > limits.max_header_line:
                return self._fail(f"Protocol error: too big {'mbulk' if is_count else 'bulk'} count string")
            self._need = len(data) - pos + 1
            return _WAIT
        if end + 1 == len(data):
            self._need = end + 2 - pos
            return _WAIT
        if is_count and data[pos + 1] == 45:  # -
            number = _digits(data, pos + 2, end, _NEGATIVE_DIGITS)
            number = 0 if 1 <= number <= _LONGEST_NEGATIVE else -1
        else:
            number = _digits(data, pos + 1, end, _LENGTH_DIGITS)
        # Unauthenticated, what nobody would be allowed is called invalid, as Redis does.
        most = limits.max_args if is_count else limits.max_bulk
        bound = most if limits.authenticated else _INT_MAX if is_count else DEFAULT.max_bulk
        if data[end + 1] != 10 or number < 0 or number > bound:
            return self._fail(_INVALID_COUNT if is_count else _INVALID_LENGTH)
        if number > most:
            return self._fail(f"Protocol error: unauthenticated {'multibulk' if is_count else 'bulk'} length")
        return number

    # The inline request at `_pos`: its arguments (none when blank), or None when it is incomplete or wrong.
    def _inline(self) -> list[bytes] | None:
        data = self._data
        pos = self._pos
        max_inline = self._limits.max_inline
        end = data.find(b"\n", pos, pos + max_inline + 1)
        if end < 0:
            if len(data) - pos > max_inline:
                self._fail("Protocol error: too big inline request")
            else:
                self._need = max_inline + 1
                self._line = True
            return None
        line = data[pos:end]
        if line.endswith(b"\r"):
            line = line[:-1]
        argv = split_inline(line)
        if argv is None:
            self._fail("Protocol error: unbalanced quotes in request")
            return None
        if argv and argv[0].lower() in (b"post", b"host:"):
            self._fail("Protocol error: possible cross protocol scripting", True)
            return None
        self._pos = end + 1
        return argv

    # Die: remember why, keep nothing else.
    def _fail(self, message: str, silent: bool = False) -> int:
        self.error = ProtocolError(message, silent)
        self._data = b""
        self._pos = 0
        self._tail = bytearray()
        self._argv = []
        self._held = 0
        self._left = 0
        self._bulk = -1
        self._large = None
        return _FAILED


# The number that data[start:end] spells in at most `most` canonical decimal digits, or -1.
def _digits(data: bytes, start: int, end: int, most: int) -> int:
    length = end - start
    if length < 1 or length > most or (data[start] == 48 and length > 1):
        return -1
    number = 0
    for at in range(start, end):
        digit = data[at] - 48
        if digit < 0 or digit > 9:
            return -1
        number = number * 10 + digit
    return number


def split_inline(line: bytes) -> list[bytes] | None:
    r"""The arguments of an inline request by Redis' quoting rules, or None when quotes are unbalanced. O(len(line)).

    Within double quotes ``\n \r \t \b \a \xHH`` are escapes and ``\`` keeps any other byte; within single quotes only
    ``\'`` is one. A quote may open inside a word, but a closing one must be followed by a blank or the end.
    """
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    argv: list[bytes] = []
    size = len(line)
    at = 0
    while True:
        while at < size and line[at] in _BLANK:
            at += 1
        if at >= size:
            return argv
        word = bytearray()
        quote = 0
        while at < size:
            byte = line[at]
            at += 1
            if quote == 0:
                if byte == 34 or byte == 39:  # " '
                    quote = byte
                elif byte == 32 or byte == 9 or byte == 13 or byte == 10:
                    break
                else:
                    word.append(byte)
            elif byte == quote:
                if at < size and line[at] not in _BLANK:
                    return None
                quote = 0
                break
            elif byte != 92 or at >= size:  # \
                word.append(byte)
            elif quote == 39:
                if line[at] == 39:
                    byte = 39
                    at += 1
                word.append(byte)
            elif (
                line[at] == 120 and at + 2 < size and line[at + 1] in _HEX_DIGITS and line[at + 2] in _HEX_DIGITS
            ):  # \xHH
                word.append(int(line[at + 1 : at + 3], 16))
                at += 3
            else:
                word.append(_ESCAPES.get(line[at], line[at]))
                at += 1
        if quote:
            return None
        argv.append(bytes(word))
