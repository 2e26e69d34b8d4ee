"""The quick roads for reads of a known shape read what the careful road reads, whatever shapes they have learnt."""

from __future__ import annotations

import random

from protocol.parser import RequestParser
from protocol.quick import _RUNS, alike, alone, by_split, learn_alike

ALPHABET = b"ab\r\n$*3"


def packed(arguments: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])


def careful(data: bytes) -> list[list[bytes]]:
    """Byte by byte, which no quick road takes."""
    parser = RequestParser()
    commands: list[list[bytes]] = []
    for place in range(len(data)):
        parser.feed(data[place : place + 1])
        commands += parser.take()
    return commands if parser.error is None and not parser.buffered() else []


def damaged(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    kind = draw.random()
    if kind < 0.3:
        return data[:place] + bytes([draw.choice(b"\r\n$*0123a")]) + data[place + 1 :]
    return data[:place] if kind < 0.4 else data


def test_read_of_a_learnt_shape_is_what_the_careful_road_reads() -> None:
    draw = random.Random(7)
    taken = 0
    for _ in range(20_000):
        arguments = [
            bytes(draw.choices(ALPHABET, k=draw.randrange(9))) for _ in range(draw.choice((1, 2, 2, 3, 3, 4, 5)))
        ]
        data = damaged(packed(arguments), draw)
        argv = alone(data) if data else None
        if argv is not None:
            taken += 1
            assert careful(data) == [argv], data
    assert taken > 5_000


def test_line_ends_within_arguments_are_no_obstacle_once_the_shape_is_known() -> None:
    for _ in range(200):
        alone(packed([b"GET", b"sixteen bytes ok"]))
    assert alone(packed([b"GET", b"sixteen\r\nytes ok"])) == [b"GET", b"sixteen\r\nytes ok"]
    assert alone(packed([b"SET", b"sixteen bytes"])) == [b"SET", b"sixteen bytes"]
    for _ in range(200):
        alone(packed([b"ZADD", b"board", b"1.5", b"ann"]))
    assert alone(packed([b"ZADD", b"board", b"1\r\n", b"a\rn"])) == [b"ZADD", b"board", b"1\r\n", b"a\rn"]
    assert alone(packed([b"ZADD", b"board", b"15", b"anna"])) == [b"ZADD", b"board", b"15", b"anna"]
    # As long as the known one, with another header.
    assert alone(b"*2\r\n$3\r\nGET\r\n$17\r\nsixteen bytes ok\r\n") is None
    assert alone(b"*2\r\n$3\r\nGET\r\n$16\r\nsixteen bytes ok\n\n") is None


def test_pipeline_of_a_learnt_shape_is_what_the_careful_road_reads() -> None:
    draw = random.Random(11)
    taken = 0
    for _ in range(3_000):
        # Few lengths, so that reads of another shape have the length of a known one.
        lengths = [draw.choice((1, 2)) for _ in range(draw.choice((2, 2, 3, 4, 5)))]
        commands = [[bytes(draw.choices(ALPHABET, k=length)) for length in lengths] for _ in range(draw.choice((2, 3)))]
        if draw.random() < 0.8:
            for argv in commands:
                argv[0] = b"G" * lengths[0]
        if draw.random() < 0.1:
            commands[-1] = [argv + b"x" for argv in commands[-1]]
        whole = b"".join(map(packed, commands))
        data = damaged(whole, draw)
        out: list[list[bytes]] = []
        if data and alike(data, out):
            taken += 1
            assert careful(data) == out, data
        else:
            assert out == []
            if data == whole:
                learn_alike(data, commands)
    assert taken > 100


def test_pipeline_whose_last_command_is_another_is_left_alone() -> None:
    known = [[b"GET", b"key:%03d" % n] for n in range(16)]
    learn_alike(b"".join(map(packed, known)), known)
    out: list[list[bytes]] = []
    assert alike(b"".join(map(packed, known)), out)
    assert out == known
    for place in (0, 7, 15):
        others = [list(argv) for argv in known]
        others[place][0] = b"DEL"
        assert not alike(b"".join(map(packed, others)), out)
    assert out == known


def test_shapes_of_pipelines_are_remembered_within_bounds() -> None:
    for size in range(1, 2_000):
        commands = [[b"GET", b"k" * size]] * 2
        learn_alike(b"".join(map(packed, commands)), commands)
    assert len(_RUNS) <= 512


def test_command_of_many_arguments_is_longer_than_the_first_window_and_taken_whole() -> None:
    many = [b"MSET", *[b"argument %d" % number for number in range(150)]]
    out: list[list[bytes]] = []
    data = packed(many) + packed([b"GET", b"a"])
    assert by_split(data, 0, 0, 1000, out) == len(data)
    assert out == [many, [b"GET", b"a"]]
    # One that a window of any size is too small for is left to the careful road.
    assert by_split(packed([b"SET", b"a", b"x" * 8000]), 0, 0, 1000, out) == 0
