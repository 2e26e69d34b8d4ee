"""bench/open_loop.py: latency counts from when a request was due, whatever the server does meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.open_loop import Task, run


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as client:
                talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def task(port: int, reads: float = 0.0) -> Task:
    return Task(port, rate=1000.0, seconds=0.1, connections=1, keys=10, size=3, reads=reads, seed=1)


def receive(client: socket.socket, count: int) -> None:
    while count:
        count -= len(client.recv(count))


def test_every_request_that_is_due_during_a_pause_is_charged_for_it() -> None:
    # Nothing is answered before the last request has come, 0.1 s after the first one.
    length = len(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$3\r\nxxx\r\n")

    def stall(client: socket.socket) -> None:
        receive(client, 100 * length)
        client.sendall(b"+OK\r\n" * 100)

    with server(stall) as port:
        outcome = run(task(port))
    assert outcome.sent == 100
    # A client that waits for each reply would have seen one request of 100 ms; here the average one has waited 50.
    assert outcome.latency["50"] > 25
    assert outcome.latency["max"] > 75


def test_replies_that_come_in_pieces_belong_to_their_requests() -> None:
    def dribble(client: socket.socket) -> None:
        receive(client, 100 * len(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n"))
        whole = b"$3\r\nxxx\r\n" * 100
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), 7):
            client.sendall(whole[at : at + 7])

    with server(dribble) as port:
        outcome = run(task(port, reads=1.0))
    assert outcome.sent == 100
    assert outcome.latency["50"] <= outcome.latency["99"] <= outcome.latency["99.9"] <= outcome.latency["max"]


@pytest.mark.parametrize("answer", [b"-ERR no\r\n", b""])
def test_an_error_or_a_closed_connection_ends_the_run(answer: bytes) -> None:
    def refuse(client: socket.socket) -> None:
        receive(client, 10)
        client.sendall(answer)

    with server(refuse) as port, pytest.raises(OSError):
        run(task(port))
