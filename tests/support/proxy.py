"""A TCP proxy that misbehaves on demand: between a client and its server it delays, stalls, resets and cuts.

Faults are set on the whole proxy (connections to come included) or on one link, and by direction: `UP` is what the
client sends, `DOWN` what the server answers. A black hole behaves like a network that drops packets: nothing passes and
nobody is told; what was sent is delivered after healing, as TCP would send it again, unless the link died meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

UP: Final = "up"
DOWN: Final = "down"
BOTH: Final = (UP, DOWN)
_CHUNK: Final = 65_536


class Faults:
    """What happens to bytes, by direction."""

    def __init__(self) -> None:
        self.delay_s = {UP: 0.0, DOWN: 0.0}
        # Set: bytes may pass.
        self.open = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        # Cut the link when these bytes have passed; None: never.
        self.cut_after: dict[str, bytes | None] = {UP: None, DOWN: None}
        self.heal()

    def delay(self, seconds: float, *directions: str) -> None:
        """Every chunk waits that long."""
        for direction in directions or BOTH:
            self.delay_s[direction] = seconds

    def black_hole(self, *directions: str) -> None:
        """Nothing passes any more, and nobody is told."""
        for direction in directions or BOTH:
            self.open[direction].clear()

    def cut_when(self, pattern: bytes, direction: str) -> None:
        """Let the first occurrence of these bytes pass, then reset the link: a COMMIT arrives, its answer does not."""
        self.cut_after[direction] = pattern

    def heal(self) -> None:
        """Everything passes at once."""
        for direction in BOTH:
            self.delay_s[direction] = 0.0
            self.cut_after[direction] = None
            self.open[direction].set()


class Link(Faults):
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        super().__init__()
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        # What has been received from each side, the last kilobytes of it: which connection is this?
        self.seen = {UP: bytearray(), DOWN: bytearray()}
        self.passed = {UP: 0, DOWN: 0}
        self.closed = False

    def reset(self) -> None:
        """Both sides get a reset (RST), unless they have parted already."""
        if self.closed:
            return
        self.closed = True
        for writer in (self._client, self._server):
            if writer is None:
                continue
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run(self, client: asyncio.StreamReader, host: str, port: int) -> None:
        """Connect to the server and forward until one side closes."""
        # A black hole swallows the first packet, too.
        await self._passable(UP)
        server, self._server = await asyncio.open_connection(host, port)
        pumps = [
            asyncio.create_task(self._pump(UP, client, self._server)),
            asyncio.create_task(self._pump(DOWN, server, self._client)),
        ]
        try:
            # One side may end before the other; an error on one side ends both.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
            if not self.closed and not any(pump.done() and pump.exception() for pump in pumps):
                self.closed = True
                self._client.close()
                self._server.close()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _passable(self, direction: str) -> None:
        while not (self.open[direction].is_set() and self._proxy.faults.open[direction].is_set()):
            await self.open[direction].wait()
            await self._proxy.faults.open[direction].wait()

    async def _pump(self, direction: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        seen = self.seen[direction]
        while chunk := await source.read(_CHUNK):
            seen += chunk
            del seen[:-_CHUNK]
            pause_s = max(self.delay_s[direction], self._proxy.faults.delay_s[direction])
            if pause_s:
                await asyncio.sleep(pause_s)
            await self._passable(direction)
            end = self._cut_position(direction, len(chunk))
            sink.write(chunk if end is None else chunk[:end])
            await sink.drain()
            self.passed[direction] += len(chunk) if end is None else end
            if end is not None:
                self.reset()
                return
        if sink.can_write_eof() and not self.closed:
            sink.write_eof()

    # Where in the newest chunk the pattern ends; None when it does not occur. It may begin in an earlier chunk.
    def _cut_position(self, direction: str, length: int) -> int | None:
        for faults in (self, self._proxy.faults):
            pattern = faults.cut_after[direction]
            if pattern is None:
                continue
            tail = bytes(self.seen[direction][-(length + len(pattern) - 1) :])
            found = tail.find(pattern)
            if found >= 0:
                faults.cut_after[direction] = None
                return found + len(pattern) - (len(tail) - length)
        return None


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to a server; an async context manager."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # For all links, those to come included.
        self.faults = Faults()
        self.links: list[Link] = []
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def refuse(self) -> None:
        """From now on whoever connects is refused, as by a machine where nothing listens. Open links live on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Listen again, on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.faults.heal()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self, wanted: Callable[[Link], bool] = lambda link: True) -> int:
        """Reset the open links that are wanted; how many."""
        links = [link for link in self.links if not link.closed and wanted(link)]
        for link in links:
            link.reset()
        return len(links)

    def find(self, pattern: bytes, direction: str = UP) -> list[Link]:
        """The open links on which one side has sent these bytes."""
        return [link for link in self.links if not link.closed and pattern in link.seen[direction]]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        self.links.append(link)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await link.run(reader, *self._target)
        except OSError:
            # The server is not there, or one side is gone: the other learns it by the reset.
            pass
        except asyncio.CancelledError:
            # Only our own end cancels; asyncio would complain about a cancelled handler.
            pass
        finally:
            link.reset()
