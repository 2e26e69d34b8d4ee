"""What the benches of memory and of pauses share: a client that fills a server fast, and a look at its process."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import hiredis

# Commands sent before their replies are awaited: long enough to keep a server busy, short enough for any buffer.
BATCH: Final = 500

Word = bytes | str | int | float


class CommandFailed(Exception):
    """A server answered a command of the bench with an error."""


def encoded(words: Sequence[Word]) -> bytes:
    """One command on the wire."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Filler:
    """A blocking connection that sends commands in batches."""

    def __init__(self, port: int, timeout_s: float = 300.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Filler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, *words: Word) -> object:
        """One command; its reply."""
        self._socket.sendall(encoded(words))
        return self._reply()

    def fill(self, commands: Iterable[Sequence[Word]], batch_size: int = BATCH) -> int:
        """Many commands; how many there were. An error among the replies is raised."""
        sent = 0
        waiting = iter(commands)
        while batch := [encoded(words) for words in islice(waiting, batch_size)]:
            self._socket.sendall(b"".join(batch))
            for _ in batch:
                self._reply()
            sent += len(batch)
        return sent

    def exchange(self, commands: Sequence[Sequence[Word]]) -> list[object]:
        """A batch; its replies, errors among them."""
        self._socket.sendall(b"".join([encoded(words) for words in commands]))
        return [self._read() for _ in commands]

    def _reply(self) -> object:
        reply = self._read()
        if isinstance(reply, hiredis.HiredisError):
            raise CommandFailed(str(reply))
        return reply

    def _read(self) -> object:
        while True:
            reply: object = self._reader.gets()
            if reply is not False:
                return reply
            received = self._socket.recv(1 << 16)
            if not received:
                raise CommandFailed("the server closed the connection")
            self._reader.feed(received)

    def info(self, section: str) -> dict[str, str]:
        """The fields of a section of INFO."""
        text = self.ask("INFO", section)
        assert isinstance(text, bytes)
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    def used_memory(self) -> int:
        """What the server says that its data takes."""
        return int(self.info("memory")["used_memory"])


def proportional_bytes(pid: int) -> int:
    """What a process really takes of the machine: its own pages, and its share of those that several have."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024


def keys(prefix: str, count: int) -> Iterator[bytes]:
    """So many different keys of 16 bytes."""
    digits = 16 - len(prefix)
    for number in range(count):
        yield f"{prefix}{number:0{digits}d}".encode()
