"""A client that sends at a fixed rate whatever the server does, run in a process of its own by bench/latency.py.

    python -m bench.open_loop '{"port": …, "rate": 10000, …}'        prints one line of JSON

Each request has a moment at which it is due, decided before anything is sent: gaps are exponential, as between arrivals
of many independent users, and the same for every server. The latency of a request is counted from that moment to its
reply, not from when it was really sent. So a server that stands still for 10 ms is charged for every request that was
due meanwhile; a client that waits for each reply before it sends the next request would hide all but one of them
("coordinated omission").

One thread looks at the clock and at its sockets without ever sleeping, because waking up would take longer than what is
measured. How late requests were sent is reported too: it is the measuring error.
"""

from __future__ import annotations

import itertools
import json
import random
import select
import socket
import sys
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Final

# Of the run's beginning, while caches, allocators and the scheduler settle; not counted.
_WARM_UP: Final = 0.1
# After the last request was due; what has no reply by then is an error.
_PATIENCE_S: Final = 10.0
# Requests that are prepared; they are sent over and over.
_PREPARED: Final = 4096
PERCENTILES: Final = (50.0, 99.0, 99.9)


@dataclass(slots=True)
class Task:
    """What one run does."""

    port: int
    rate: float  # requests per second
    seconds: float
    connections: int
    keys: int  # key:000000000000 and so on; all of them exist
    size: int  # bytes of every value
    reads: float  # share of GETs, the others are SETs
    seed: int


@dataclass(slots=True)
class Outcome:
    """What came of it; times in milliseconds."""

    sent: int
    rate: float  # that was reached
    latency: dict[str, float]  # by percentile, and "max"
    late: dict[str, float]  # how late requests were sent, the same way


def run(task: Task) -> Outcome:
    """Send everything when it is due, and wait for the last reply."""
    rng = random.Random(task.seed)
    due = _moments(task, rng)
    requests = [_request(task, rng) for _ in range(_PREPARED)]
    sockets = [_connected(task.port) for _ in range(task.connections)]
    try:
        done, sent_at = _exchange(due, requests, sockets)
    finally:
        for each in sockets:
            each.close()
    first = int(len(due) * _WARM_UP)
    latency = sorted(done[at] - due[at] for at in range(first, len(due)))
    late = sorted(sent_at[at] - due[at] for at in range(first, len(due)))
    reached = len(due) / (max(done) - due[0])
    return Outcome(len(due), reached, _percentiles(latency), _percentiles(late))


def _moments(task: Task, rng: random.Random) -> array[float]:
    gaps = (rng.expovariate(task.rate) for _ in range(max(1, int(task.rate * task.seconds))))
    return array("d", itertools.accumulate(gaps))


def _request(task: Task, rng: random.Random) -> tuple[bytes, int]:
    """A request and the length of its reply."""
    key = b"key:%012d" % rng.randrange(task.keys)
    if rng.random() < task.reads:
        return b"*2\r\n$3\r\nGET\r\n$16\r\n%b\r\n" % key, len(b"$%d\r\n\r\n" % task.size) + task.size
    value = b"x" * task.size
    return b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$%d\r\n%b\r\n" % (key, task.size, value), len(b"+OK\r\n")


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


# One function: this loop is the measuring instrument. Returns when each reply came and when each request was sent, both
# on the scale of `due`.
def _exchange(
    due: array[float], requests: list[tuple[bytes, int]], sockets: list[socket.socket]
) -> tuple[array[float], array[float]]:
    count = len(due)
    done = array("d", bytes(8 * count))
    sent_at = array("d", bytes(8 * count))
    poll = select.epoll()
    by_descriptor = {each.fileno(): at for at, each in enumerate(sockets)}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    # By connection: the requests that wait for a reply with its length, and the bytes that came of the first one's.
    waiting: list[deque[tuple[int, int]]] = [deque() for _ in sockets]
    received = [0] * len(sockets)
    upcoming = answered = 0
    began = perf_counter()
    end = due[-1] + _PATIENCE_S
    while answered < count:
        now = perf_counter() - began
        while upcoming < count and due[upcoming] <= now:
            request, length = requests[upcoming % _PREPARED]
            at = upcoming % len(sockets)
            # A request is far smaller than the socket's buffer; a server that lets it fill ends the run.
            sockets[at].send(request)
            waiting[at].append((upcoming, length))
            sent_at[upcoming] = perf_counter() - began
            upcoming += 1
        for descriptor, _ in poll.poll(0):
            at = by_descriptor[descriptor]
            data = sockets[at].recv(1 << 16)
            now = perf_counter() - began
            if not data or data[0] == ord("-"):
                raise ConnectionError(f"instead of a reply: {data[:200]!r}")
            got = received[at] + len(data)
            line = waiting[at]
            while line and got >= line[0][1]:
                request_at, length = line.popleft()
                got -= length
                done[request_at] = now
                answered += 1
            received[at] = got
        if now > end:
            raise TimeoutError(f"{upcoming - answered} replies missing {_PATIENCE_S:.0f} s after the last request")
    poll.close()
    return done, sent_at


def _percentiles(ordered: list[float]) -> dict[str, float]:
    found = {f"{each:g}": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * each / 100))] for each in PERCENTILES}
    return {**found, "max": 1000 * ordered[-1]}


def main() -> None:
    print(json.dumps(asdict(run(Task(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
