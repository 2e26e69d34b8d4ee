"""Any bytes in any pieces: same commands, same error, nothing but ProtocolError, bounded memory."""

import sys

from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.decoder import pack_command
from protocol.errors import ProtocolError
from protocol.limits import DEFAULT, UNAUTHENTICATED, Limits
from protocol.parser import RequestParser
from protocol.quick import by_bytes, by_split

SMALL = Limits(max_bulk=50, max_args=5, max_inline=40, max_command=100)
TIGHT = Limits(max_bulk=5000, max_args=4, max_inline=40, max_command=6000)
LIMITS = st.sampled_from([DEFAULT, DEFAULT, UNAUTHENTICATED, SMALL, TIGHT])

# Fragments that lead deep into the parser, mixed with noise.
FRAGMENTS = st.one_of(
    st.sampled_from(
        [
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
            *[
                b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
                b"*1\r\n$4\r\nPING\r\n",
                b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n",
            ],
            *[
                b"$40000\r\n" + b"v" * 40000,
                b"x" * 5000,
                b"$5000\r\n",
                b"*1048576\r\n",
                b"*1048577\r\n",
                b"POST ",
                b" ",
            ],
        ]
    ),
    st.binary(max_size=12),
    st.integers(-3, 10**11).map(lambda n: b"$%d\r\n" % n),
)
STREAMS = st.lists(FRAGMENTS, max_size=14).map(b"".join)
ARGUMENTS = st.one_of(st.binary(max_size=20), st.sampled_from([b"", b"\r\n", b"$1\r\n", b"v" * 1500, b"v" * 33_000]))
COMMANDS = st.lists(st.lists(ARGUMENTS, min_size=1, max_size=4), max_size=5)
CUTS = st.lists(st.integers(0, 10**6), max_size=6)


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
@given(data=STREAMS, cuts=CUTS, limits=LIMITS, most=st.integers(0, 4))
@example(data=b"*1\r\n$4\r\nPING\r\r\n", cuts=[15], limits=DEFAULT, most=0)
def test_any_bytes_give_the_same_in_any_pieces(data: bytes, cuts: list[int], limits: Limits, most: int) -> None:
    whole = parse([data], limits)
    assert parse(pieces_of(data, cuts), limits, most) == whole
    if len(data) < 100:
        assert parse([data[at : at + 1] for at in range(len(data))], limits) == whole


@settings(max_examples=6000, deadline=None)
@given(data=st.binary(max_size=200), cuts=CUTS)
def test_noise_gives_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    assert parse(pieces_of(data, cuts), DEFAULT) == parse([data], DEFAULT)


@settings(max_examples=4000, deadline=None)
@given(commands=COMMANDS, cuts=CUTS, most=st.integers(0, 3))
def test_valid_commands_round_trip_in_any_pieces(commands: list[list[bytes]], cuts: list[int], most: int) -> None:
    data = b"".join(pack_command(*argv) for argv in commands)
    assert parse(pieces_of(data, cuts), DEFAULT, most) == (commands, None, 0)


def careful(data: bytes, limits: Limits) -> list[list[bytes]]:
    """What the careful road alone reads: fed in single bytes, no command is ever found complete by a quick one."""
    return parse([data[at : at + 1] for at in range(len(data))], limits)[0]


@settings(max_examples=3000, deadline=None)
@given(data=st.lists(FRAGMENTS.filter(lambda part: len(part) < 100), max_size=14).map(b"".join), most=st.integers(0, 3))
def test_both_quick_roads_take_only_what_the_careful_one_would(data: bytes, most: int) -> None:
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


# Without line breaks inside: at those, and at commands longer than a quarter of a window, by_split may stop early.
PLAIN = st.binary(max_size=100).map(lambda value: value.replace(b"\r", b"r"))


@settings(max_examples=1000, deadline=None)
@given(commands=st.lists(st.lists(PLAIN, min_size=1, max_size=5), max_size=25), skip=st.integers(0, 20))
def test_both_quick_roads_take_small_commands_to_the_end(commands: list[list[bytes]], skip: int) -> None:
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
