"""The road of a command inside one process, timed stage by stage; run by bench/stages.py in the build to measure.

    PYTHONPATH=… python -P bench/stage_timing.py '{"commands": …}'        prints one line of JSON

A Node as in production, without clients. Stages are called as the connection calls them, again and again with the same
read; nothing waits, so processor time is all there is. A connection's output goes to /dev/null: what a real socket
costs is the kernel's.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import uvloop

from protocol.parser import RequestParser
from protocol.quick import alone
from server.app import Node
from server.config import parse_config
from server.net.connection import Connection

# Reads that are prepared for one command, so that not always the same keys are asked for.
_READS: Final = 64
_TIMES: Final = 7
STAGES: Final = ("parse", "run", "join", "whole")


@dataclass(slots=True)
class Task:
    """What is timed."""

    commands: dict[str, list[str]]  # name → words, in which KEY is replaced
    pipelines: list[int]
    keys: int
    # Commands of one timing.
    repeat: int


@dataclass(slots=True)
class Timing:
    """µs per command, by stage."""

    command: str
    pipeline: int
    us: dict[str, float]


class _Null:
    # What a connection needs of a transport and of its socket.

    # Sockets of this family are not tuned.
    family = socket.AF_UNIX

    def __init__(self) -> None:
        self._fd = os.open(os.devnull, os.O_WRONLY)

    def fileno(self) -> int:
        return self._fd

    def get_extra_info(self, name: str) -> object:
        return self if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        pass


def reads(words: list[str], pipeline: int, keys: int, rng: random.Random) -> list[bytes]:
    """What a client would send at once, several times, with different keys."""
    return [b"".join(_command(words, keys, rng) for _ in range(pipeline)) for _ in range(_READS)]


def _command(words: list[str], keys: int, rng: random.Random) -> bytes:
    argv = [word.replace("KEY", f"{rng.randrange(keys):012}").encode() for word in words]
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


def best_us(work: Callable[[], object], commands: int) -> float:
    """µs per command of the fastest of several timings: whatever disturbs makes slower, never faster."""
    took = []
    for _ in range(_TIMES):
        began = time.thread_time()
        work()
        took.append(time.thread_time() - began)
    return min(took) / commands * 1e6


def time_stages(node: Node, connection: Connection, data: list[bytes], pipeline: int, repeat: int) -> dict[str, float]:
    """Each stage by itself, and all together."""
    session = connection.session
    dispatch = node.dispatch
    parser = RequestParser(connection.parser.limits)
    rounds = max(1, repeat // (pipeline * len(data)))
    parsed = [parser.receive(each) for each in data]
    replies: list[list[bytes]] = []
    # A read that is one command goes a road of its own, where it is a command that has keys.
    is_single = pipeline == 1 and all(map(alone, data))

    def parse_one() -> None:
        for _ in range(rounds):
            for each in data:
                alone(each)

    def run_one() -> None:
        for _ in range(rounds):
            replies.clear()
            for ((argv,),) in zip(parsed, strict=True):
                wire = dispatch.run_one(session, argv)
                replies.append([wire] if wire else [])

    def parse() -> None:
        for _ in range(rounds):
            for each in data:
                parser.receive(each)

    def run() -> None:
        for _ in range(rounds):
            replies.clear()
            for commands in parsed:
                out: list[bytes] = []
                dispatch.run_batch(session, commands, 0, out)
                replies.append(out)

    def join() -> None:
        for _ in range(rounds):
            for out in replies:
                b"".join(out)

    def whole() -> None:
        receive: Callable[[bytes], Any] = connection.data_received
        for _ in range(rounds):
            for each in data:
                receive(each)

    count = rounds * len(data) * pipeline
    stages = (parse_one if is_single else parse, run_one if is_single else run, join, whole)
    return {name: best_us(stage, count) for name, stage in zip(STAGES, stages, strict=True)}


async def measure(task: Task) -> list[Timing]:
    """Every command at every length of pipeline."""
    node = Node(parse_config("[server]\nport = 0\n", {}, "stages"), None, None)
    await node.start()
    transport: Any = _Null()
    connection = node.listener.admit(transport)
    assert isinstance(connection, Connection)
    connection.connection_made(transport)
    try:
        rng = random.Random(1)
        # The first thousands of commands fill what is asked for, and whatever is made at first use.
        # (By reads short enough for one turn: here nobody gives a connection another.)
        for _ in range(10):
            for each in reads(["SET", "key:KEY", "x" * 64], 100, task.keys, rng):
                connection.data_received(each)
        found = []
        for name, words in task.commands.items():
            for pipeline in task.pipelines:
                data = reads(words, pipeline, task.keys, rng)
                for each in data:
                    connection.data_received(each)
                found.append(Timing(name, pipeline, time_stages(node, connection, data, pipeline, task.repeat)))
        return found
    finally:
        connection.connection_lost(None)
        await node.stop()


def main() -> None:
    found = uvloop.run(measure(Task(**json.loads(sys.argv[1]))))
    print(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()
