"""Quick roads through a buffer of small, complete, well-formed commands.

Nearly all traffic is arrays of a few short bulk strings that have arrived whole. A road takes as many of those as it
finds and stops in front of the first thing that is anything else: larger, incomplete, inline, empty, malformed. It
judges nothing. What it leaves is read by the careful road in `parser`, the only place with states and error texts, so
a road can be wrong only by taking a command that the careful one would have read differently (the fuzz tests compare).

`alone` and `alike` are for reads that are built like the last one of their length: one command, or many that differ in
nothing but their arguments' bytes, as a pipeline's often do. One C call cuts such a read.

For all others there are two roads because no single text is good in both worlds. Interpreted, the cost is the number
of bytecodes, so `by_split` lets one C call cut the whole buffer at every CRLF and only compares lengths; reading byte
by byte takes 2.4 times as long there. Compiled, arithmetic on bytes costs next to nothing and the objects that a
split creates are the price: `by_bytes` then takes half the time of `by_split`. Rejected on measurements: find() and a
slice per header line (3.5 times by_split), slices of fixed width looked up in a table of ready heads (1.6 times),
zip() over heads and arguments (2 times).

Those two have one signature: ``data`` from ``pos`` on is read, at most ``most`` commands (0 = any number) of at most
``max_args`` arguments are appended to ``out``, and the position of the first byte not taken is returned. They assume
limits of at least `QUICK_ARGS` arguments and of `QUICK_BULK` bytes per argument.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from types import FunctionType
from typing import Final

from mypy_extensions import i64

CRLF: Final = b"\r\n"
# `by_split` looks ahead, and what it cut in vain is work lost. So it starts with a small window and doubles while all
# goes well: no more is wasted than was gained. Searching costs it more per byte than copying, so it is not for large
# values either; a small last window keeps it away from them. A command of ten arguments and more, by its header, is
# mostly longer than the first.
_FIRST_WINDOW: Final = 1024
_LAST_WINDOW: Final = 4096

# Longer reads are not looked at as one command: they rarely are, and the look would be wasted.
ALONE: Final = 256

# What the roads may assume to be allowed: no argument is longer than a window, and nobody counts to four.
QUICK_BULK: Final = _LAST_WINDOW
QUICK_ARGS: Final = 4

# Header lines by length, for every length that fits into a window: no bounds to check.
_HEADS: Final[list[bytes]] = [b"$%d" % n for n in range(_LAST_WINDOW + 1)]
# Header line of a command → how many CRLF-terminated parts it has: itself, and two per argument.
_SPANS: Final[dict[bytes, int]] = {b"*%d" % n: 2 * n + 1 for n in range(1, 1000)}


# Short reads by length, as the last one of that length was built: how to cut one, everything before the first argument
# behind the name, the name, and what stands between its two arguments, and then between those and a third (empty: there
# is none). Clients send the same few shapes again and again; one C call cuts a read, and a few comparisons prove that
# it has the shape.
_Shape = tuple[Callable[[bytes], tuple[bytes, ...]], bytes, bytes, bytes, bytes]
_SHAPES: Final[list[_Shape | None]] = [None] * (ALONE + 1)
# Reads of that length that had another shape: every 64th is learnt, so that clients who differ cost next to nothing.
_MISSED: Final[dict[int, int]] = {}
# What a read begins with that may be one command of two to four arguments.
_FEW_WORDS: Final = (b"*2\r\n", b"*3\r\n", b"*4\r\n")
_LEARN_EVERY: Final = 64


def alone(data: bytes) -> list[bytes] | None:
    """The one command of two to four arguments that a read of at most ALONE bytes consists of, or None.

    The usual read of a client that does not pipeline. It costs two thirds of by_split, which is made for many, and half
    of it when the read has the shape of the last one of its length. Compiled, no shape is faster than by_bytes.
    """
    if COMPILED:
        found: list[list[bytes]] = []
        return found[0] if by_bytes(data, 0, 1, QUICK_ARGS, found) == len(data) else None
    shape = _SHAPES[len(data)]
    if shape is not None:
        cut, head, name, between, behind = shape
        if behind:
            start, key, middle, value, gap, last, end = cut(data)
            if start == head and middle == between and gap == behind and end == CRLF:
                return [name, key, value, last]
        elif between:
            start, key, middle, value, end = cut(data)
            if start == head and middle == between and end == CRLF:
                return [name, key, value]
        else:
            start, key, end = cut(data)
            if start == head and end == CRLF:
                return [name, key]
    argv = _alone_by_split(data) if data.startswith(_FEW_WORDS) else None
    if argv is not None:
        missed = _MISSED.get(len(data), _LEARN_EVERY) + 1
        if missed > _LEARN_EVERY:
            _learn(data, argv)
            missed = 0
        _MISSED[len(data)] = missed
    return argv


def _learn(data: bytes, argv: list[bytes]) -> None:
    # Remember how a read that is this command is built.
    gaps = [CRLF + _HEADS[len(each)] + CRLF for each in argv[2:]]
    rest = f"{len(argv[1])}s"
    size = len(argv[1]) + 2
    for gap, each in zip(gaps, argv[2:], strict=True):
        rest += f"{len(gap)}s{len(each)}s"
        size += len(gap) + len(each)
    head = data[: len(data) - size]
    gaps += [b"", b""]
    _SHAPES[len(data)] = (Struct(f"{len(head)}s{rest}2s").unpack, head, argv[0], gaps[0], gaps[1])


# Longer reads are not looked at as commands that are all built alike, nor are more than so many shapes remembered.
_LONGEST_RUN: Final = 16 << 10
_MOST_RUNS: Final = 512
# Reads of many commands by length, as the last one of that length was built: how to cut what follows the first head
# into one tuple per command, that head, the name, what stands between the arguments (as in `_SHAPES`), what stands
# between two commands (a CRLF and the head of the second), and their number.
_Run = tuple[Callable[[bytes], Iterator[tuple[bytes, ...]]], bytes, bytes, bytes, bytes, bytes, int]
_RUNS: Final[dict[int, _Run]] = {}


def alike(data: bytes, out: list[list[bytes]]) -> bool:
    """Append the commands that a read consists of, if it is built like the last one of its length; else nothing.

    Takes a third of by_split's time.
    """
    run = _RUNS.get(len(data))
    if run is None:
        return False
    cut, head, name, between, behind, link, count = run
    if not data.startswith(head):
        return False
    # With the first head moved to the end, every piece is the arguments of a command and the head of the next.
    parts = cut(data[len(head) :] + head)
    if behind:
        found = [
            [name, key, value, last]
            for key, middle, value, gap, last, end in parts
            if end == link and middle == between and gap == behind
        ]
    elif between:
        found = [[name, key, value] for key, middle, value, end in parts if end == link and middle == between]
    else:
        found = [[name, key] for key, end in parts if end == link]
    if len(found) != count:
        return False
    out += found
    return True


def learn_alike(data: bytes, commands: list[list[bytes]]) -> None:
    """A read of another shape was these commands: now and then, remember how it is built."""
    size = len(data)
    missed = _MISSED.get(size, _LEARN_EVERY) + 1
    if missed <= _LEARN_EVERY or size > _LONGEST_RUN:
        _MISSED[size] = missed
        return
    _MISSED[size] = 0
    first = commands[0]
    lengths = [len(each) for each in first]
    if not 2 <= len(lengths) <= 4:
        return
    for argv in commands:
        if argv[0] != first[0] or [len(each) for each in argv] != lengths:
            return
    heads = [b"$%d" % length + CRLF for length in lengths]
    head = b"*%d" % len(first) + CRLF + heads[0] + first[0] + CRLF + heads[1]
    link = CRLF + head
    gaps = [CRLF + each for each in heads[2:]]
    form = f"{lengths[1]}s"
    for gap, length in zip(gaps, lengths[2:], strict=True):
        form += f"{len(gap)}s{length}s"
    gaps += [b"", b""]
    if len(_RUNS) >= _MOST_RUNS:
        _RUNS.clear()
    _RUNS[size] = (Struct(f"{form}{len(link)}s").iter_unpack, head, first[0], gaps[0], gaps[1], link, len(commands))


def _alone_by_split(data: bytes) -> list[bytes] | None:
    # One cut more than four arguments take shows that it is more than one command.
    parts = data.split(CRLF, 10)
    total = len(parts)
    heads = _HEADS
    if total == 6:
        name = parts[2]
        key = parts[4]
        if parts[0] == b"*2" and not parts[5] and parts[1] == heads[len(name)] and parts[3] == heads[len(key)]:
            return [name, key]
    elif total == 8:
        name = parts[2]
        key = parts[4]
        value = parts[6]
        if (
            parts[0] == b"*3"
            and not parts[7]
            and parts[1] == heads[len(name)]
            and parts[3] == heads[len(key)]
            and parts[5] == heads[len(value)]
        ):
            return [name, key, value]
    elif total == 10:
        name = parts[2]
        key = parts[4]
        value = parts[6]
        last = parts[8]
        if (
            parts[0] == b"*4"
            and not parts[9]
            and parts[1] == heads[len(name)]
            and parts[3] == heads[len(key)]
            and parts[5] == heads[len(value)]
            and parts[7] == heads[len(last)]
        ):
            return [name, key, value, last]
    return None


def by_split(data: bytes, pos: int, most: int, max_args: int, out: list[list[bytes]]) -> int:
    """The road for the interpreter: cut at every CRLF, then check that each part is as long as its header says.

    Binary safe: an argument that contains CRLF is cut too, is then shorter than announced, and stops the road.
    """
    size = len(data)
    heads = _HEADS
    room = most - len(out) if most else -1
    window = _FIRST_WINDOW if size - pos <= _FIRST_WINDOW or data[pos + 2] == 13 else _LAST_WINDOW
    while True:
        end = size
        if size - pos > window:
            end = pos + window
            parts = data[pos:end].split(CRLF)
        elif pos:
            parts = data[pos:].split(CRLF)
        else:
            parts = data.split(CRLF)
        # The last part has no CRLF behind it (it is empty when the window ends with one) and belongs to nobody yet.
        total = len(parts) - 1
        i = 0
        odd = False
        while i < total and room:
            head = parts[i]
            # Two and three arguments, written out: half of the whole time is saved by not slicing and looping.
            if head == b"*2":
                stop = i + 5
                if stop > total:
                    break
                name = parts[i + 2]
                key = parts[i + 4]
                if heads[len(name)] != parts[i + 1] or heads[len(key)] != parts[i + 3]:
                    odd = True
                    break
                out.append([name, key])
            elif head == b"*3":
                stop = i + 7
                if stop > total:
                    break
                name = parts[i + 2]
                key = parts[i + 4]
                value = parts[i + 6]
                if (
                    heads[len(name)] != parts[i + 1]
                    or heads[len(key)] != parts[i + 3]
                    or heads[len(value)] != parts[i + 5]
                ):
                    odd = True
                    break
                out.append([name, key, value])
            else:
                span = _SPANS.get(head, 0)
                if span == 0 or span > 2 * max_args + 1:
                    odd = True
                    break
                stop = i + span
                if stop > total:
                    break
                argv = parts[i + 2 : stop : 2]
                if [heads[len(arg)] for arg in argv] != parts[i + 1 : stop : 2]:
                    odd = True
                    break
                out.append(argv)
            i = stop
            room -= 1
        pos = end - len(parts[total])
        if i != total:
            while total > i:
                total -= 1
                pos -= len(parts[total]) + 2
        if odd or end == size or room == 0:
            return pos
        if i:
            if window < _LAST_WINDOW:
                window += window
        elif window < _LAST_WINDOW:
            # A single command that is longer, of many arguments more often than of a large one.
            window = _LAST_WINDOW
        else:
            return pos


def by_bytes(data: bytes, pos: int, most: int, max_args: int, out: list[list[bytes]]) -> int:
    """The road for the compiler: no look-ahead, no object but the arguments and their list."""
    # Machine integers, which the interpreter does not know: its own are as good to it.
    size: i64 = len(data)
    room: i64 = most - len(out) if most else -1
    begin: i64 = pos
    at: i64
    count: i64
    digit: i64
    left: i64
    length: i64
    start: i64
    stop: i64
    end: i64
    # The smallest command, "*1\r\n$0\r\n\r\n", has ten bytes; a header line of four digits and its end has seven.
    while room != 0 and begin + 10 <= size:
        at = begin
        if data[at] != 42:  # *
            break
        count = data[at + 1] - 48
        if count < 1 or count > 9:
            break
        at += 2
        digit = data[at] - 48
        if 0 <= digit <= 9:
            count = count * 10 + digit
            at += 1
            digit = data[at] - 48
            if 0 <= digit <= 9:
                count = count * 10 + digit
                at += 1
        if count > max_args or data[at] != 13 or data[at + 1] != 10:
            break
        at += 2
        argv: list[bytes] = []
        left = count
        while left:
            if at + 6 > size or data[at] != 36:  # $
                break
            length = data[at + 1] - 48
            if length < 0 or length > 9:
                break
            at += 2
            # Four digits at most; after a leading zero none, so a second one stops the road.
            stop = at + 3 if length else at
            while at < stop:
                digit = data[at] - 48
                if digit < 0 or digit > 9:
                    break
                length = length * 10 + digit
                at += 1
            if length > QUICK_BULK:
                break
            start = at + 2
            end = start + length
            if end + 2 > size:
                break
            if data[at] != 13 or data[at + 1] != 10 or data[end] != 13 or data[end + 1] != 10:
                break
            argv.append(data[start:end])
            at = end + 2
            left -= 1
        if left:
            break
        out.append(argv)
        begin = at
        room -= 1
    return begin


# A compiled function is a built-in, not a FunctionType.
COMPILED: Final[bool] = not isinstance(by_bytes, FunctionType)
# How many commands to read carefully before a road that has stopped is tried again: by_split has to cut its first
# window anew each time, which an opponent would make it do in vain; by_bytes loses nothing.
PATIENCE: Final[int] = 1 if COMPILED else 16
