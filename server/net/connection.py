"""Connection: a transport, a parser and a session. It moves bytes and decides nothing about commands.

While a command waits for a store, or the peer does not read its replies, the commands already parsed stay where they
are and what comes in is only kept; above a limit reading is paused, so that nobody can make us hold more. (Reading goes
on below it, because a peer that has gone is noticed by reading alone.) The output is looked at after every command, not
after every read, because 64 KB of pipelined GETs can ask for gigabytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final, cast

from protocol.encoder import encode_into
from protocol.limits import (
    DEFAULT,
    OUTPUT_HARD_NORMAL,
    OUTPUT_HIGH_WATER,
    OUTPUT_SOFT_NORMAL,
    OUTPUT_SOFT_SECONDS,
    OUTPUT_UNAUTHENTICATED,
    UNAUTHENTICATED,
    Limits,
)
from protocol.parser import RequestParser
from protocol.replies import Error
from server.commands.spec import CommandSpec
from server.dispatch import Dispatch
from server.keyspace.keyspace import Keyspace
from server.session import Session

log = logging.getLogger("forebay.net")

# Commands parsed at once for a client that has not authenticated: its limits end with the AUTH that may come next.
_ONE_BY_ONE: Final = 1
# No commands left over; shared and never changed.
_NOTHING: Final[list[list[bytes]]] = []
# Longer replies up to this many bytes are copied into one write with their neighbours: cheaper than a vector of writes.
_COPIED: Final = 64 << 10
# Bytes that a client may send ahead while its command waits.
_AHEAD: Final = 256 << 10


class Peers:
    """What connections share: the dispatch, the clock's keyspace, and the open connections by client id."""

    __slots__ = (
        "by_id",
        "bytes_in",
        "bytes_out",
        "dispatch",
        "draining",
        "keyspace",
        "limits",
        "rejected",
        "stopped",
        "total",
    )

    def __init__(self, dispatch: Dispatch, keyspace: Keyspace) -> None:
        self.dispatch = dispatch
        self.keyspace = keyspace
        self.by_id: dict[int, Connection] = {}
        # Limits of authenticated clients (CONFIG SET proto-max-bulk-len).
        self.limits: Limits = DEFAULT
        # The server stops: nothing more is read, what has been received is still run …
        self.draining = False
        # … until nothing new may begin.
        self.stopped = False
        # Connections accepted and refused since start.
        self.total = 0
        self.rejected = 0
        # Traffic of connections that are gone.
        self.bytes_in = 0
        self.bytes_out = 0


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_commands",
        "_eof",
        "_fd",
        "_last",
        "_paused",
        "_position",
        "_soft_since_ms",
        "_task",
        "_transport",
        "_trusted",
        "_write_blocked",
        "bytes_in",
        "bytes_out",
        "closing",
        "connected_ms",
        "last_ms",
        "local",
        "parser",
        "peer",
        "peers",
        "session",
    )

    def __init__(self, peers: Peers, session: Session, now_ms: int) -> None:
        self.peers = peers
        self.session = session
        # The parser has the limits of an authenticated client.
        self._trusted = session.authenticated
        self.parser = RequestParser(peers.limits if self._trusted else UNAUTHENTICATED)
        self._transport: asyncio.Transport | None = None
        # The socket's descriptor; -1 when there is none to write to.
        self._fd = -1
        # Parsed commands that had to be left for later, and the position of the next one to run.
        self._commands: list[list[bytes]] = _NOTHING
        self._position = 0
        # The first word of the command that ran last, for CLIENT LIST.
        self._last = b""
        # Reading is paused; the peer has sent everything; the peer does not take what we write.
        self._paused = False
        self._eof = False
        self._write_blocked = False
        self._task: asyncio.Task[None] | None = None
        self._soft_since_ms = 0
        self.closing = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.connected_ms = now_ms
        self.last_ms = now_ms
        self.peer = ""
        self.local = ""

    # -- transport events ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit asyncio.Transport.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=OUTPUT_HIGH_WATER)
        sock = transport.get_extra_info("socket")
        self._fd = sock.fileno() if sock is not None else -1
        self.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        self.peers.by_id[self.session.client_id] = self
        self.peers.total += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        # The number may belong to another socket from now on.
        self._fd = -1
        if self.peers.by_id.pop(self.session.client_id, None) is not None:
            self.peers.bytes_in += self.bytes_in
            self.peers.bytes_out += self.bytes_out
        # What waits for a store goes on: a started write is finished, a shared load belongs to its key.
        self._commands = _NOTHING
        self._position = 0
        self.session.close()

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        if self.closing:
            return
        if self._task is None and not self._write_blocked and self._position >= len(self._commands):
            self._serve(self.parser.receive(data, 0 if self._trusted else _ONE_BY_ONE), 0)
            return
        self.parser.feed(data)
        if self.parser.buffered() > _AHEAD:
            self._pause()

    def eof_received(self) -> bool:
        # What was sent before the end is still answered: the transport stays open until that is done.
        self._eof = True
        return not self.closing and (self._task is not None or self._write_blocked)

    def pause_writing(self) -> None:
        self._write_blocked = True

    def resume_writing(self) -> None:
        self._write_blocked = False
        self._soft_since_ms = 0
        if self._task is None and not self.closing:
            self._serve(self._commands, self._position)

    # -- serving ------------------------------------------------------------------------------------------------------

    def _serve(self, commands: list[list[bytes]], position: int) -> None:
        # Run what is parsed, parse what is buffered, until something has to be waited for.
        peers = self.peers
        keyspace = peers.keyspace
        dispatch = peers.dispatch
        session = self.session
        parser = self.parser
        now_ms = dispatch.clock.now_ms()
        if now_ms != keyspace.now_ms:
            keyspace.tick(now_ms)
        self.last_ms = now_ms
        while not self.closing and not peers.stopped:
            if position >= len(commands):
                commands = parser.take(0 if self._trusted else _ONE_BY_ONE)
                position = 0
                if not commands:
                    self._end_of_input()
                    break
            out: list[bytes] = []
            position = dispatch.run_batch(session, commands, position, out)
            self._last = commands[position - 1][0]
            if out:
                self._write(out, dispatch.long_bytes)
            if session.close_after_reply:
                self.close_when_written()
                return
            if session.waiting is not None:
                waiting, session.waiting = session.waiting, None
                self._commands = commands
                self._position = position
                self._task = asyncio.get_running_loop().create_task(self._finish(waiting))
                return
            if not (self._trusted and session.authenticated):
                self._weigh_trust()
            if self._write_blocked:
                self._commands = commands
                self._position = position
                return
            if parser.drained and position >= len(commands):
                break
        self._commands = _NOTHING
        self._position = 0
        if self.closing:
            return
        if self._eof:
            self.close_when_written()
        elif self._paused and not peers.draining:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()

    def _weigh_trust(self) -> None:
        # AUTH lifts the limits of a stranger; RESET takes the login away, and with it what it allowed.
        trusted = self.session.authenticated
        if trusted != self._trusted:
            self._trusted = trusted
            self.parser.limits = self.peers.limits if trusted else UNAUTHENTICATED
        if not trusted and self._output_size() > OUTPUT_UNAUTHENTICATED:
            self.abort("output before authentication")

    def _end_of_input(self) -> None:
        error = self.parser.error
        if error is None:
            if self.parser.buffered() > self.parser.limits.max_query:
                self.abort("query buffer over its limit")
            return
        if not error.silent:
            self._write([Error(f"ERR {error.message}").wire], 0)
        self.close_when_written()

    async def _finish(self, waiting: Any) -> None:
        # The command that waited; then whatever came behind it.
        reply = await waiting
        self._task = None
        if self.closing:
            return
        out: list[bytes] = []
        if isinstance(reply, Error):
            self.peers.dispatch.count_error(reply)
        size = encode_into(out, reply, self.session.protocol)
        if out:
            self._write(out, size)
        if self.session.close_after_reply:
            self.close_when_written()
        elif not self._write_blocked:
            self._serve(self._commands, self._position)

    def _write(self, out: list[bytes], long_bytes: int) -> None:
        # Small batches leave as one piece; large values are handed over as they are, without another copy.
        assert self._transport is not None
        if long_bytes > _COPIED:
            self.bytes_out += sum(map(len, out))
            self._transport.writelines(out)
            return
        data = b"".join(out)
        size = len(data)
        self.bytes_out += size
        # Straight to the socket when nothing is queued before it: the event loop would send only after it has served
        # everybody who is ready, and fifty clients and the server would take turns instead of working side by side.
        if self._fd >= 0 and not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)
            except OSError:
                # Full, or gone: the transport waits, or finds out.
                sent = 0
            if sent == size:
                return
            data = data[sent:]
        self._transport.write(data)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()

    # -- closing ------------------------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Take no more input; what has been received is still answered."""
        if not self.closing:
            self._pause()

    def close_when_written(self) -> None:
        """Close the connection after what is written has left."""
        self.closing = True
        self._fd = -1
        if self._transport is not None:
            self._transport.close()

    def close_soon(self) -> None:
        """Close after the command that waits now, or at once when none does; a peer that does not read is cut."""
        if self._task is None:
            asyncio.get_running_loop().call_soon(self._kill)

    def _kill(self) -> None:
        # Waiting for the output to leave would spare exactly the client that an operator most wants to be rid of.
        if self._output_size():
            self.abort("killed")
        else:
            self.close_when_written()

    def abort(self, reason: str) -> None:
        """Cut the connection now; what was not sent is lost."""
        log.info("client %d at %s cut: %s", self.session.client_id, self.peer, reason)
        self.closing = True
        self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    def _output_size(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def check_output(self, now_ms: int) -> None:
        """Called once a second: a peer that does not read is cut at the hard limit, or after too long at the soft."""
        size = self._output_size()
        if size > OUTPUT_HARD_NORMAL:
            self.abort("output buffer over the hard limit")
        elif size > OUTPUT_SOFT_NORMAL:
            self._soft_since_ms = self._soft_since_ms or now_ms
            if now_ms - self._soft_since_ms > OUTPUT_SOFT_SECONDS * 1000:
                self.abort("output buffer over the soft limit for too long")
        else:
            self._soft_since_ms = 0

    @property
    def waits(self) -> bool:
        """Does a command of this client wait for a store?"""
        return self._task is not None

    @property
    def busy(self) -> bool:
        """Does a command of this client wait for a store, or output for its reader?"""
        return self._task is not None or self._output_size() > 0

    def describe(self, now_ms: int) -> dict[str, str]:
        """The fields of a CLIENT LIST line, in Redis's order."""
        session = self.session
        queue = session.queue
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        output = self._output_size()
        buffered = self.parser.buffered()
        # A client that describes itself is still in its first batch. Only names from the table are shown: any other
        # word could be a password typed at the wrong prompt, or a line end that forges a client.
        name = self._commands[0][0] if len(self._commands) == 1 else self._last
        spec = self.peers.dispatch.find([name]) if name else None
        command = spec.name if isinstance(spec, CommandSpec) else "NULL"
        return {
            "id": str(session.client_id),
            "addr": self.peer,
            "laddr": self.local,
            "fd": str(sock.fileno() if sock is not None else -1),
            "name": session.name.decode("utf-8", "replace"),
            "age": str((now_ms - self.connected_ms) // 1000),
            "idle": str((now_ms - self.last_ms) // 1000),
            "flags": "x" if queue is not None else "N",
            "db": str(session.db.index),
            "sub": "0",
            "psub": "0",
            "ssub": "0",
            "multi": str(len(queue) if queue is not None else -1),
            "watch": str(len(session.watching)),
            "qbuf": str(buffered),
            "qbuf-free": "0",
            "argv-mem": "0",
            "multi-mem": str(session.queued_bytes),
            "rbs": "0",
            "rbp": "0",
            "obl": str(output),
            "oll": "0",
            "omem": str(output),
            "tot-mem": str(buffered + output + session.queued_bytes + 4096),
            "events": "r",
            "cmd": command,
            "user": session.user.decode("utf-8", "replace"),
            "redir": "-1",
            "resp": str(session.protocol),
            "lib-name": session.lib_name.decode("utf-8", "replace"),
            "lib-ver": session.lib_ver.decode("utf-8", "replace"),
        }


def _address(name: Any) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return f"{name}:0" if name else "unix:0"
