"""Any bytes in any pieces: same commands, same error, nothing but ProtocolError, bounded memory."""

import sys
from typing import NamedTuple

from hypothesis import example, given, settings

from protocol.decoder import pack_command
from protocol.errors import ProtocolError
from protocol.limits import DEFAULT, UNAUTHENTICATED, Limits
from protocol.parser import RequestParser
from protocol.quick import by_bytes, by_split
from tests.support.choices import Choices, chosen

SMALL = Limits(max_bulk=50, max_args=5, max_inline=40, max_command=100)
TIGHT = Limits(max_bulk=5000, max_args=4, max_inline=40, max_command=6000)
LIMITS = [DEFAULT, DEFAULT, UNAUTHENTICATED, SMALL, TIGHT]

# Fragments that lead deep into the parser, mixed with noise.
FRAGMENTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"*",
    b"$",
    b"*1\r\n",
    b"*2\r\n",
    b"*3\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*12\r\n",
    b"$0\r\n\r\n",
    b"$1\r\n",
    b"$3\r\nGET\r\n",
    b"$4\r\nPING\r\n",
    b"$-1\r\n",
    b"$01\r\n",
    b":1\r\n",
    b"PING\r\n",
    b'"',
    b"'",
    b"\\x4",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n",
    b"$5000\r\n",
    b"*1048576\r\n",
    b"*1048577\r\n",
    b"POST ",
    b" ",
]
LARGE = [b"$40000\r\n" + b"v" * 40000, b"x" * 5000]


class Fed(NamedTuple):
    """What a parser is fed with: bytes, where they are cut, its limits, and how many commands are taken at a time."""

    data: bytes
    cuts: list[int]
    limits: Limits
    most: int


def stream(choices: Choices, fragments: list[bytes]) -> bytes:
    return b"".join([fragment(choices, fragments) for _ in range(choices.below(15))])


def fragment(choices: Choices, fragments: list[bytes]) -> bytes:
    kind = choices.below(3)
    if kind == 0:
        return choices.one_of(fragments)
    if kind == 1:
        return choices.some(12)
    # Of every length, from -3 up to more than any limit.
    return b"$%d\r\n" % (choices.below(10 ** choices.below(12) + 4) - 3)


def cuts_of(choices: Choices) -> list[int]:
    return [choices.below(1 << 20) for _ in range(choices.below(7))]


def argument(choices: Choices) -> bytes:
    if choices.below(2):
        return choices.one_of([b"", b"\r\n", b"$1\r\n", b"v" * 1500, b"v" * 33_000])
    return choices.some(20)


def any_feed(choices: Choices) -> Fed:
    data = stream(choices, FRAGMENTS + LARGE)
    return Fed(data, cuts_of(choices), choices.one_of(LIMITS), choices.below(5))


def noise(choices: Choices) -> tuple[bytes, list[int]]:
    cuts = cuts_of(choices)
    return choices.some(200), cuts


def command_list(choices: Choices) -> tuple[list[list[bytes]], list[int], int]:
    commands = [[argument(choices) for _ in range(1 + choices.below(4))] for _ in range(choices.below(6))]
    return commands, cuts_of(choices), choices.below(4)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def parse(pieces: list[bytes], limits: Limits, most: int = 0) -> tuple[list[list[bytes]], str | None, int]:
    parser = RequestParser(limits)
    commands: list[list[bytes]] = []
    fed = 0
    for piece in pieces:
        # Every other read in one step, as a connection does it.
        if fed % 2:
            parser.feed(piece)
        else:
            commands += parser.receive(piece, most)
        fed += len(piece)
        while taken := parser.take(most):
            commands += taken
            if not most:
                break
        assert parser.buffered() <= fed
    error = parser.error
    assert error is None or isinstance(error, ProtocolError)
    return commands, None if error is None else f"{error.message} {error.silent}", parser.buffered()


@settings(max_examples=6000, deadline=None)
@given(feed=chosen(any_feed, 120))
@example(feed=Fed(b"*1\r\n$4\r\nPING\r\r\n", [15], DEFAULT, 0))
def test_any_bytes_give_the_same_in_any_pieces(feed: Fed) -> None:
    data, cuts, limits, most = feed
    whole = parse([data], limits)
    assert parse(pieces_of(data, cuts), limits, most) == whole
    if len(data) < 100:
        assert parse([data[at : at + 1] for at in range(len(data))], limits) == whole


@settings(max_examples=6000, deadline=None)
@given(feed=chosen(noise, 220))
def test_noise_gives_the_same_in_any_pieces(feed: tuple[bytes, list[int]]) -> None:
    data, cuts = feed
    assert parse(pieces_of(data, cuts), DEFAULT) == parse([data], DEFAULT)


@settings(max_examples=4000, deadline=None)
@given(feed=chosen(command_list, 160))
def test_valid_commands_round_trip_in_any_pieces(feed: tuple[list[list[bytes]], list[int], int]) -> None:
    commands, cuts, most = feed
    data = b"".join(pack_command(*argv) for argv in commands)
    assert parse(pieces_of(data, cuts), DEFAULT, most) == (commands, None, 0)


def small_feed(choices: Choices) -> tuple[bytes, int]:
    return stream(choices, FRAGMENTS), choices.below(4)


def careful(data: bytes, limits: Limits) -> list[list[bytes]]:
    """What the careful road alone reads: fed in single bytes, no command is ever found complete by a quick one."""
    return parse([data[at : at + 1] for at in range(len(data))], limits)[0]


@settings(max_examples=3000, deadline=None)
@given(feed=chosen(small_feed, 100))
def test_both_quick_roads_take_only_what_the_careful_one_would(feed: tuple[bytes, int]) -> None:
    data, most = feed
    expected = careful(data, DEFAULT)
    for road in (by_split, by_bytes):
        out: list[list[bytes]] = []
        pos = road(data, 0, most, 1000, out)
        assert 0 <= pos <= len(data)
        assert most == 0 or len(out) <= most
        assert out == expected[: len(out)]
        assert b"".join(pack_command(*argv) for argv in out) == data[:pos]
        # From the middle too: what is left after them must parse to the rest.
        assert out + careful(data[pos:], DEFAULT) == expected


def plain_commands(choices: Choices) -> tuple[list[list[bytes]], int]:
    # Without line breaks inside: at those, and at commands longer than a quarter of a window, by_split may stop early.
    skip = choices.below(21)
    commands = [[choices.some(100) for _ in range(1 + choices.below(5))] for _ in range(choices.below(26))]
    return [[value.replace(b"\r", b"r") for value in argv] for argv in commands], skip


@settings(max_examples=1000, deadline=None)
@given(feed=chosen(plain_commands, 1000))
def test_both_quick_roads_take_small_commands_to_the_end(feed: tuple[list[list[bytes]], int]) -> None:
    commands, skip = feed
    data = b"\r" * skip + b"".join(pack_command(*argv) for argv in commands)
    for road in (by_split, by_bytes):
        out: list[list[bytes]] = []
        assert road(data, skip, 0, 1000, out) == len(data)
        assert out == commands


def test_an_announced_number_reserves_nothing() -> None:
    for header in (b"*1048576\r\n", b"*1\r\n$536870912\r\n", b"*1048576\r\n$536870912\r\n"):
        parser = RequestParser()
        parser.feed(header)
        assert parser.take() == []
        held = [getattr(parser, name) for name in ("_data", "_tail", "_argv", "_large")]
        assert sum(sys.getsizeof(each) for each in held) < 1000
        assert parser.buffered() <= len(header)
