"""Raw sockets for tests: bytes as they are, a deadline on every wait, and what the kernel knows of a process."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from protocol.decoder import PENDING, ReplyDecoder, pack_command
from tests.support.forebay import ForebayProcess

# Two shared cores may stand still for seconds; nothing here waits so long unless it fails.
DEADLINE_S = 30.0
_PIECE = 1 << 18


class RawClient:
    """A blocking connection. `address` is a port of 127.0.0.1 or the path of a unix socket."""

    def __init__(self, address: int | str, receive_buffer: int = 0) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.sock.settimeout(DEADLINE_S)
        if receive_buffer:
            # Before connecting: it decides which window is offered.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        self._decoder = ReplyDecoder()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def finish(self) -> None:
        """No more will be sent; receiving goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self, count: int) -> bytes:
        """Exactly so many bytes, or fewer when the connection ends before."""
        got = bytearray()
        while len(got) < count:
            try:
                piece = self.sock.recv(min(_PIECE, count - len(got)))
            except TimeoutError:
                raise AssertionError(f"{count - len(got)} bytes missing after {bytes(got[-200:])!r}") from None
            except ConnectionResetError:
                break
            if not piece:
                break
            got += piece
        return bytes(got)

    def receive_all(self) -> bytes:
        """What comes until the server closes the connection; it fails when the server does not."""
        got = bytearray()
        while True:
            try:
                piece = self.sock.recv(_PIECE)
            except TimeoutError:
                raise AssertionError(f"not closed after {bytes(got[-200:])!r}") from None
            except ConnectionResetError:
                return bytes(got)
            if not piece:
                return bytes(got)
            got += piece

    def reply(self) -> object:
        """The next reply, decoded."""
        while True:
            reply = self._decoder.get()
            if reply is not PENDING:
                return reply
            piece = self.sock.recv(_PIECE)
            if not piece:
                raise AssertionError("closed instead of a reply")
            self._decoder.feed(piece)

    def call(self, *words: str | bytes | int) -> object:
        """One command and its reply; error replies are returned."""
        self.send(pack_command(*words))
        return self.reply()

    def close(self) -> None:
        """Close it."""
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Look again and again until the condition holds; AssertionError that names it when it does not."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {deadline_s} s in vain for: {what}")
        time.sleep(0.002)


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """`wait_until` for a test that shares its loop with the server."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {deadline_s} s in vain for: {what}")
        await asyncio.sleep(0.001)


def info_field(client: RawClient, section: str, field: str) -> int:
    """A number from INFO."""
    text = client.call("INFO", section)
    assert isinstance(text, bytes)
    for line in text.decode().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value)
    raise AssertionError(f"INFO {section} has no {field}")


def client_list(client: RawClient) -> list[dict[str, str]]:
    """CLIENT LIST, one dict per client."""
    text = client.call("CLIENT", "LIST")
    assert isinstance(text, bytes)
    return [
        dict(pair.partition("=")[::2] for pair in line.split(" "))
        for line in text.decode().splitlines()
        if line.strip()
    ]


def open_files(pid: int | None = None) -> int:
    """The descriptors that a process (default: this one) has open."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))


class PeakMemory:
    """The highest resident set of a server within the block, above that at its beginning: `growth`, in bytes."""

    def __init__(self, server: ForebayProcess) -> None:
        assert server.process is not None
        self._process = Path(f"/proc/{server.process.pid}")
        self._before = 0

    def __enter__(self) -> PeakMemory:
        # 5: reset the mark of the highest resident set to the present one.
        (self._process / "clear_refs").write_text("5")
        self._before = self._mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def growth(self) -> int:
        """Bytes by which the peak since the beginning exceeds the beginning."""
        return self._mark() - self._before

    def _mark(self) -> int:
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel does not tell VmHWM")
