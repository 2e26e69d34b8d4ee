"""Clients that connect, say PING once and then nothing, held by a process of its own for bench/connections.py.

    python -m bench.idle_clients PORT        reads how many there are to be, a number per line, and answers each

A process may have a limited number of open files, so the clients of each server get one of their own.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.servers import Server, ServerFailed

ROOT: Final = Path(__file__).resolve().parent.parent
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_PONG: Final = b"+PONG\r\n"
# Files that a process needs besides its connections.
SPARE_FILES: Final = 100


class IdleClients:
    """A process with connections to one server that do nothing."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.idle_clients", str(server.port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def grow_to(self, count: int) -> None:
        """Open as many as are missing; returns when the server has answered each."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if answer != "ok":
            raise ServerFailed(f"{count} connections to {self._server.name}: {answer or 'the client ended'}")

    def __enter__(self) -> IdleClients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Its end of input ends it, and with it the connections.
        self._process.communicate()


def raise_limit() -> int:
    """Let this process and its children open as many files as the system allows; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(_PING)
    answer = client.recv(len(_PONG))
    if answer != _PONG:
        raise ConnectionError(f"PING was answered with {answer!r}")
    return client


def main() -> None:
    raise_limit()
    port = int(sys.argv[1])
    clients: list[socket.socket] = []
    for line in sys.stdin:
        try:
            clients.extend(_connect(port) for _ in range(int(line) - len(clients)))
        except OSError as error:
            print(f"{error} after {len(clients)} connections", flush=True)
            return
        print("ok", flush=True)


if __name__ == "__main__":
    main()
