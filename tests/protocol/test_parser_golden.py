"""The whole table of hostile and odd input, each case under every way it may arrive."""

import pytest

from protocol.limits import DEFAULT, UNAUTHENTICATED, Limits
from protocol.parser import LARGE_BULK, RequestParser, split_inline

COUNT = "Protocol error: invalid multibulk length"
LENGTH = "Protocol error: invalid bulk length"
TRAILER = "Protocol error: expected CRLF after bulk"
QUOTES = "Protocol error: unbalanced quotes in request"
TOO_LONG_COUNT = "Protocol error: too big mbulk count string"
TOO_LONG_LENGTH = "Protocol error: too big bulk count string"
INLINE = "Protocol error: too big inline request"

GET = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
GETS = [[b"GET", b"k"]]

# name: (bytes, commands, error)
CASES: dict[str, tuple[bytes, list[list[bytes]], str | None]] = {
    "get": (GET, GETS, None),
    "pipeline": (GET * 3, GETS * 3, None),
    "one argument": (b"*1\r\n$4\r\nPING\r\n", [[b"PING"]], None),
    "empty argument": (b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [[b"ECHO", b""]], None),
    "twelve arguments": (b"*12\r\n" + b"$1\r\nx\r\n" * 12, [[b"x"] * 12], None),
    "crlf inside an argument": (b"*2\r\n$4\r\nECHO\r\n$6\r\na\r\n$1\r\r\n", [[b"ECHO", b"a\r\n$1\r"]], None),
    "a command inside an argument": (b"*2\r\n$4\r\nECHO\r\n$21\r\n" + GET + b"\n\r\n", [[b"ECHO", GET + b"\n"]], None),
    "all byte values": (b"*1\r\n$256\r\n" + bytes(range(256)) + b"\r\n", [[bytes(range(256))]], None),
    "four digits": (b"*1\r\n$1024\r\n" + b"v" * 1024 + b"\r\n", [[b"v" * 1024]], None),
    "count beyond int": (b"*2147483648\r\n", [], COUNT),
    "count beyond the limit": (b"*1048577\r\n", [], COUNT),
    "count with plus": (b"*+3\r\n", [], COUNT),
    "count with leading zero": (b"*01\r\n", [], COUNT),
    "count 00": (b"*00\r\n", [], COUNT),
    "count missing": (b"*\r\n", [], COUNT),
    "count with underscore": (b"*1_0\r\n", [], COUNT),
    "count with leading blank": (b"* 1\r\n", [], COUNT),
    "count with trailing blank": (b"*1 \r\n", [], COUNT),
    "count in arabic digits": ("*١\r\n".encode(), [], COUNT),
    "count in superscript latin-1": (b"*\xb2\r\n", [], COUNT),
    "count with a fraction": (b"*1.0\r\n", [], COUNT),
    "count minus only": (b"*-\r\n", [], COUNT),
    "count minus zero": (b"*-0\r\n", [], COUNT),
    "count minus with leading zero": (b"*-01\r\n", [], COUNT),
    "count minus twice": (b"*--1\r\n", [], COUNT),
    "count -2**63": (b"*-9223372036854775808\r\n" + GET, GETS, None),
    "count below -2**63": (b"*-9223372036854775809\r\n", [], COUNT),
    "count -5": (b"*-5\r\n" + GET, GETS, None),
    "count -1": (b"*-1\r\n" + GET, GETS, None),
    "count 0": (b"*0\r\n" + GET, GETS, None),
    "many empty requests": (b"*0\r\n*-1\r\n\r\n\n" * 20 + GET, GETS, None),
    "count ended by newline only": (b"*1\n$4\r\nPING\r\n", [], COUNT),
    "count ended by return only": (b"*1\r$4\r\nPING\r\n", [], COUNT),
    "count line longest": (b"*" + b"1" * 31 + b"\r\n", [], COUNT),
    "count line too long": (b"*" + b"1" * 32 + b"\r\n", [], TOO_LONG_COUNT),
    "count line without end": (b"*" + b"1" * 1000, [], TOO_LONG_COUNT),
    "length beyond the limit": (b"*1\r\n$9999999999\r\n", [], LENGTH),
    "length one beyond the limit": (b"*1\r\n$536870913\r\n", [], LENGTH),
    "length -1": (b"*1\r\n$-1\r\n", [], LENGTH),
    "length is a word": (b"*1\r\n$blabla\r\n", [], LENGTH),
    "length with plus": (b"*1\r\n$+4\r\nPING\r\n", [], LENGTH),
    "length with leading zero": (b"*1\r\n$04\r\nPING\r\n", [], LENGTH),
    "length missing": (b"*1\r\n$\r\n\r\n", [], LENGTH),
    "length ended by return only": (b"*1\r\n$4\rXPING\r\n", [], LENGTH),
    "length line too long": (b"*1\r\n$" + b"4" * 40 + b"\r\n", [], TOO_LONG_LENGTH),
    "integer as argument": (b"*1\r\n:1\r\n", [], "Protocol error: expected '$', got ':'"),
    "status as argument": (b"*1\r\n+OK\r\n", [], "Protocol error: expected '$', got '+'"),
    "array as argument": (b"*1\r\n*1\r\n", [], "Protocol error: expected '$', got '*'"),
    "return as argument": (b"*1\r\n\r\n", [], "Protocol error: expected '$', got ' '"),
    "newline as argument": (b"*1\r\n\n", [], "Protocol error: expected '$', got ' '"),
    "escape as argument": (b"*1\r\n\x1b[2J", [], "Protocol error: expected '$', got ' '"),
    "high byte as argument": (b"*1\r\n\xff", [], "Protocol error: expected '$', got ' '"),
    "second argument wrong": (b"*2\r\n$3\r\nGET\r\n:1\r\n", [], "Protocol error: expected '$', got ':'"),
    "trailer wrong": (b"*1\r\n$4\r\nPINGxx", [], TRAILER),
    "trailer newline only": (b"*1\r\n$4\r\nPING\n\n", [], TRAILER),
    "trailer return only": (b"*1\r\n$4\r\nPING\r\r", [], TRAILER),
    "argument longer than announced": (b"*2\r\n$3\r\nGET\r\n$1\r\nkk\r\n", [], TRAILER),
    "commands before an error": (GET * 2 + b"*x\r\n" + GET, GETS * 2, COUNT),
    "error in the second argument of a pipeline": (GET + b"*2\r\n$3\r\nGET\r\n$x\r\n", GETS, LENGTH),
    "state is reset after an empty request": (b"*0\r\n:1\r\n" + GET, [[b":1"], *GETS], None),
    "incomplete count": (b"*2", [], None),
    "incomplete argument": (b"*2\r\n$3\r\nGET\r\n$5\r\nk", [], None),
    "inline": (b"PING\r\n", [[b"PING"]], None),
    "inline ended by newline only": (b"PING\nPING\n", [[b"PING"], [b"PING"]], None),
    "inline with blanks": (b"  SET \t k   v \r\n", [[b"SET", b"k", b"v"]], None),
    "inline then array": (b"PING\r\n" + GET, [[b"PING"], *GETS], None),
    "array then inline": (GET + b"PING\r\n" + GET, [*GETS, [b"PING"], *GETS], None),
    "blank lines": (b"\r\n\n   \r\n\r\r\n" + GET, GETS, None),
    "inline double quotes": (rb'SET k "a\n\r\t\b\a\x41\"\\\q"' + b"\r\n", [[b"SET", b"k", b'a\n\r\t\b\aA"\\q']], None),
    "inline bad hex is plain": (rb'ECHO "\xg1\x4"' + b"\n", [[b"ECHO", b"xg1x4"]], None),
    "inline single quotes": (rb"ECHO 'a\'b\n'" + b"\n", [[b"ECHO", rb"a'b\n"]], None),
    "inline empty argument": (b"ECHO \"\" ''\n", [[b"ECHO", b"", b""]], None),
    "inline quote opens inside a word": (b'ECHO a"b c"\n', [[b"ECHO", b"ab c"]], None),
    "inline vertical tab in a word": (b"ECHO a\vb\n", [[b"ECHO", b"a\vb"]], None),
    "inline with a nul byte": (b"ECHO a\0b\n", [[b"ECHO", b"a\0b"]], None),
    "inline quote not closed": (b'ECHO "abc\r\n', [], QUOTES),
    "inline single quote not closed": (b"ECHO 'abc\r\n", [], QUOTES),
    "inline backslash last": (b'ECHO "abc\\\r\n', [], QUOTES),
    "inline quote closed inside a word": (b'ECHO "a"b\r\n', [], QUOTES),
    "inline lone quote": (GET + b'"\n' + GET, GETS, QUOTES),
    "inline without end, incomplete": (b"PING" * 100, [], None),
}

# Too long to be split at every byte; split around the places that matter.
LONG_CASES: dict[str, tuple[bytes, list[list[bytes]], str | None]] = {
    "inline longest": (b"x" * 65536 + b"\n", [[b"x" * 65536]], None),
    "inline too long": (b"x" * 65537 + b"\n", [], INLINE),
    "inline without newline": (b"x" * 65537, [], INLINE),
    "inline not yet too long": (b"x" * 65536, [], None),
    "inline too long after a command": (GET + b"x" * 70000 + b"\n" + GET, GETS, INLINE),
    "large argument": (
        b"*2\r\n$40000\r\n" + b"v" * 40000 + b"\r\n$1\r\nk\r\n" + GET,
        [[b"v" * 40000, b"k"], *GETS],
        None,
    ),
    "large argument last": (b"*1\r\n$40000\r\n" + b"\r\n" * 20000 + b"\r\n" + GET, [[b"\r\n" * 20000], *GETS], None),
    "large argument smallest": (
        b"*1\r\n$%d\r\n" % LARGE_BULK + b"v" * LARGE_BULK + b"\r\n",
        [[b"v" * LARGE_BULK]],
        None,
    ),
    "large argument with a wrong trailer": (b"*1\r\n$40000\r\n" + b"v" * 40001 + b"\r\n" + GET, [], TRAILER),
    "two large arguments": (
        b"*2\r\n" + b"$40000\r\n" % () + b"a" * 40000 + b"\r\n$50000\r\n" + b"b" * 50000 + b"\r\n",
        [[b"a" * 40000, b"b" * 50000]],
        None,
    ),
    "pipeline of several windows": (GET * 1000 + b"PING\n" + GET * 1000, GETS * 1000 + [[b"PING"]] + GETS * 1000, None),
}


def parse(pieces: list[bytes], limits: Limits = DEFAULT) -> tuple[list[list[bytes]], str | None]:
    parser = RequestParser(limits)
    commands: list[list[bytes]] = []
    for piece in pieces:
        parser.feed(piece)
        commands += parser.take()
    if parser.error is not None:
        assert parser.buffered() == 0
    # In one step it is the same.
    other = RequestParser(limits)
    received: list[list[bytes]] = []
    for piece in pieces:
        received += other.receive(piece)
        if other.drained:
            assert other.buffered() == 0
            assert other.take() == []
    assert received == commands
    assert (other.error is None) == (parser.error is None)
    assert other.buffered() == parser.buffered()
    return commands, None if parser.error is None else parser.error.message


@pytest.mark.parametrize("name", [*CASES, *LONG_CASES])
def test_golden_when_whole(name: str) -> None:
    data, commands, error = CASES.get(name) or LONG_CASES[name]
    assert parse([data]) == (commands, error)


@pytest.mark.parametrize("name", CASES)
def test_golden_at_every_two_way_split(name: str) -> None:
    data, commands, error = CASES[name]
    for at in range(len(data) + 1):
        assert parse([data[:at], data[at:]]) == (commands, error), f"split at {at}"


@pytest.mark.parametrize("name", [*CASES, *LONG_CASES])
def test_golden_byte_by_byte(name: str) -> None:
    data, commands, error = CASES.get(name) or LONG_CASES[name]
    assert parse([data[at : at + 1] for at in range(len(data))]) == (commands, error)


@pytest.mark.parametrize("name", LONG_CASES)
@pytest.mark.parametrize("size", [2, 7, 1000, 4096, 39_999, 40_000, 40_011, 40_012, 40_013, 40_014, 65_536])
def test_golden_in_pieces(name: str, size: int) -> None:
    data, commands, error = LONG_CASES[name]
    assert parse([data[at : at + size] for at in range(0, len(data), size)]) == (commands, error)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not name.startswith(("incomplete", "inline wi"))]
)
@pytest.mark.parametrize("trailing", [GET, b"PING\r\n", b"*", b"*1\r\n$40000\r\nabc", b"\xff\x00"])
def test_golden_with_trailing_bytes(name: str, trailing: bytes) -> None:
    data, commands, error = CASES[name]
    after, _ = parse([trailing])
    expected = (commands, error) if error is not None else (commands + after, None)
    whole = data + trailing
    assert parse([whole]) == expected
    assert parse([data, trailing]) == expected
    assert parse([whole[at : at + 3] for at in range(0, len(whole), 3)]) == expected


@pytest.mark.parametrize("fed_first", [True, False])
@pytest.mark.parametrize("most", [1, 2, 3, 16])
@pytest.mark.parametrize("name", [*CASES, *LONG_CASES])
def test_golden_in_portions(name: str, most: int, fed_first: bool) -> None:
    data, commands, error = CASES.get(name) or LONG_CASES[name]
    parser = RequestParser()
    taken: list[list[bytes]] = []
    middle = len(data) // 2
    parser.feed(data[:middle])
    if not fed_first:
        taken += parser.take(most)
    parser.feed(data[middle:])
    while portion := parser.take(most):
        assert len(portion) <= most
        taken += portion
    assert taken == commands
    assert (None if parser.error is None else parser.error.message) == error


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"Host: localhost\r\n", b"post x\n", b"HOST: x\n"])
def test_a_browser_gets_no_answer(line: bytes) -> None:
    for pieces in ([line], [line[:3], line[3:]], [GET + line + GET]):
        parser = RequestParser()
        for piece in pieces:
            parser.feed(piece)
            parser.take()
        assert parser.error is not None
        assert parser.error.silent


def test_other_errors_are_answered() -> None:
    parser = RequestParser()
    parser.feed(b"*x\r\n")
    assert parser.take() == []
    assert parser.error is not None
    assert not parser.error.silent


def test_nothing_is_kept_after_an_error() -> None:
    parser = RequestParser()
    parser.feed(GET + b"*x\r\n")
    assert parser.take() == GETS
    error = parser.error
    for _ in range(3):
        parser.feed(GET)
        assert parser.take() == []
        assert parser.buffered() == 0
    assert parser.error is error


def test_error_is_set_only_when_taking_reaches_it() -> None:
    parser = RequestParser()
    parser.feed(GET + b"*x\r\n")
    assert parser.take(1) == GETS
    assert parser.error is None
    assert parser.take(1) == []
    assert parser.error is not None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*11\r\n", "Protocol error: unauthenticated multibulk length"),
        (b"*2147483648\r\n", COUNT),
        (b"*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"),
        (b"*1\r\n$9999999999\r\n", LENGTH),
        (b"*10\r\n" + b"$1\r\nx\r\n" * 10, None),
        (b"*1\r\n$16384\r\n" + b"x" * 16384 + b"\r\n", None),
    ],
)
def test_limits_before_authentication(data: bytes, error: str | None) -> None:
    assert parse([data], UNAUTHENTICATED)[1] == error
    assert parse([data[at : at + 1] for at in range(len(data))], UNAUTHENTICATED)[1] == error


@pytest.mark.parametrize("size", [1, 7, 4096, 10**6])
def test_arguments_of_one_command_together_are_limited(size: int) -> None:
    data = GET + b"*5\r\n" + (b"$16384\r\n" + b"x" * 16384 + b"\r\n") * 5
    commands, error = parse([data[at : at + size] for at in range(0, len(data), size)], UNAUTHENTICATED)
    assert commands == GETS
    assert error == "Protocol error: command exceeds the query buffer limit"


@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_small_arguments_are_limited_on_the_quick_road_too(size: int) -> None:
    limits = Limits(max_args=3, max_command=8192)
    data = b"*3\r\n" + (b"$4000\r\n" + b"x" * 4000 + b"\r\n") * 3
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert parse(pieces, limits)[1] == "Protocol error: command exceeds the query buffer limit"
    four = b"*4\r\n" + b"$1\r\nx\r\n" * 4
    assert parse([four[at : at + size] for at in range(0, len(four), size)], limits)[1] == COUNT
    tiny = Limits(max_bulk=3)
    assert parse([b"*1\r\n$4\r\nPING\r\n"], tiny)[1] == LENGTH


def test_limits_may_be_replaced_between_two_commands_of_one_read() -> None:
    parser = RequestParser(UNAUTHENTICATED)
    parser.feed(GET + b"*11\r\n" + b"$1\r\nx\r\n" * 11)
    assert parser.take(1) == GETS
    parser.limits = DEFAULT
    assert parser.take(1) == [[b"x"] * 11]


def test_limits_may_be_replaced_while_waiting_for_an_inline_end() -> None:
    parser = RequestParser()
    parser.feed(b"x" * 200)
    assert parser.take() == []
    parser.limits = Limits(max_inline=100)
    assert parser.take() == []
    assert parser.error is not None
    assert parser.error.message == INLINE


def test_buffered_counts_what_is_held() -> None:
    parser = RequestParser()
    assert parser.buffered() == 0
    parser.feed(GET)
    assert parser.buffered() == len(GET)
    assert parser.take() == GETS
    assert parser.buffered() == 0
    parser.feed(b"*3\r\n$3\r\nSET\r\n$100000\r\n")
    parser.feed(b"x" * 50_000)
    assert parser.take() == []
    assert parser.buffered() == 3 + 50_000
    parser.feed(b"x" * 50_000 + b"\r\n$1\r\nk")
    assert parser.take() == []
    assert parser.buffered() == 3 + 100_000 + 1
    parser.feed(b"\r\n")
    assert parser.take() == [[b"SET", b"x" * 100_000, b"k"]]
    assert parser.buffered() == 0


def test_split_inline_counts_a_newline_as_a_blank() -> None:
    assert split_inline(b"a 'b'\nc") == [b"a", b"b", b"c"]
