"""Work is linear in the bytes, however they arrive: counted in bytes copied and looks taken, not in seconds."""

import tracemalloc
from typing import Any

import pytest

from protocol.decoder import pack_command
from protocol.parser import RequestParser
from protocol.quick import COMPILED

interpreted = pytest.mark.skipif(COMPILED, reason="the compiled parser's methods cannot be counted from outside")


class Counting(RequestParser):
    """Counts how often the careful road is entered and how many bytes are copied where pieces are joined."""

    __slots__ = ("joined", "looks")

    def __init__(self) -> None:
        self.looks = 0
        self.joined = 0
        super().__init__()

    def _next(self) -> list[bytes] | None:
        self.looks += 1
        return super()._next()

    def _refill(self) -> bool:
        self.joined += len(self._data) - self._pos + len(self._tail)
        return super()._refill()


def feed_in_pieces(parser: RequestParser, data: bytes, size: int) -> list[list[bytes]]:
    commands: list[list[bytes]] = []
    for at in range(0, len(data), size):
        parser.feed(data[at : at + size])
        commands += parser.take()
    return commands


@interpreted
def test_a_million_arguments_in_64_kb_pieces_are_read_once() -> None:
    argv = [b"MSET"] + [b"%06d" % n for n in range(1_000_000)]
    data = pack_command(*argv)
    parser = Counting()
    assert feed_in_pieces(parser, data, 65536) == [argv]
    pieces = len(data) // 65536 + 1
    assert parser.looks <= 3 * pieces
    assert parser.joined <= 2 * len(data)


@interpreted
def test_arguments_byte_by_byte_are_looked_at_a_bounded_number_of_times_each() -> None:
    argv = [b"MSET"] + [b"v" * 500] * 400
    data = pack_command(*argv)
    parser = Counting()
    assert feed_in_pieces(parser, data, 1) == [argv]
    # Six bytes of header are looked at one by one, the 502 others at most twice.
    assert parser.looks <= 20 * len(argv)
    assert parser.joined <= 4 * len(data)


@interpreted
def test_an_inline_request_byte_by_byte_is_looked_at_twice() -> None:
    parser = Counting()
    assert feed_in_pieces(parser, b"x" * 60_000 + b"\n", 1) == [[b"x" * 60_000]]
    assert parser.looks <= 6
    assert parser.joined <= 4 * 60_000


@interpreted
@pytest.mark.parametrize("most", [1, 16])
def test_a_backlog_taken_in_portions_is_not_copied_again_and_again(most: int) -> None:
    parser = Counting()
    command = pack_command("GET", "key")
    taken = 0
    for _ in range(100):
        parser.feed(command * 50)
        taken += len(parser.take(most))
    while portion := parser.take(most):
        taken += len(portion)
    assert taken == 5000
    assert parser.joined <= 3 * 5000 * len(command)


@interpreted
def test_a_large_bulk_is_looked_at_at_its_ends_only() -> None:
    value = bytes(64 * 1024 * 1024)
    data = pack_command("SET", "k", value)
    parser = Counting()
    assert feed_in_pieces(parser, data, 16384) == [[b"SET", b"k", value]]
    assert parser.looks <= 5
    assert parser.joined <= 5 * 16384


def test_a_large_bulk_in_progress_holds_little_more_than_what_has_arrived() -> None:
    parser = RequestParser()
    parser.feed(b"*1\r\n$%d\r\n" % (64 * 1024 * 1024))
    parser.take()
    piece = bytes(16384)
    tracemalloc.start()
    for _ in range(1024):
        parser.feed(piece)
        assert parser.take() == []
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parser.buffered() >= 16 * 1024 * 1024
    assert held < 1.3 * 16 * 1024 * 1024


@interpreted
def test_a_road_that_finds_nothing_is_not_tried_at_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from protocol import parser as module  # noqa: PLC0415 - the module object, to watch what it calls

    calls = 0
    road = module.by_split

    def counted(*args: Any) -> int:
        nonlocal calls
        calls += 1
        return road(*args)

    monkeypatch.setattr(module, "by_split", counted)
    parser = RequestParser()
    parser.feed(b"PING\r\n" * 10_000)
    assert len(parser.take()) == 10_000
    assert calls <= 10_000 // 16 + 2


def test_an_idle_parser_does_not_keep_a_whole_read_for_the_first_bytes_of_a_command() -> None:
    parser = RequestParser()
    read = pack_command("GET", "key") * 5000 + b"*2\r\n$3\r\nGE"
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    parser.feed(read[:-1] + b"E")
    parser.take()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held - before < 20_000
