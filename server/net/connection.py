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
import time
from typing import Any, Final, Protocol, cast

from persistence.parked import Parked
from protocol.encoder import BULK_HEADERS, encode_into
from protocol.limits import (
    DEFAULT,
    OUTPUT_HARD_NORMAL,
    OUTPUT_HARD_PUBSUB,
    OUTPUT_HIGH_WATER,
    OUTPUT_SOFT_NORMAL,
    OUTPUT_SOFT_PUBSUB,
    OUTPUT_SOFT_SECONDS,
    OUTPUT_UNAUTHENTICATED,
    UNAUTHENTICATED,
    Limits,
)
from protocol.parser import RequestParser
from protocol.quick import ALONE, alone
from protocol.replies import Error, Status
from server.commands.spec import CommandSpec
from server.dispatch import Dispatch
from server.keyspace.keyspace import Keyspace
from server.session import Session

log = logging.getLogger("forebay.net")

# Constants, because compiled code looks a module's function up by its name at each call.
_write_to: Final = os.write
_monotonic: Final = time.monotonic
# Commands parsed at once for a client that has not authenticated: its limits end with the AUTH that may come next.
_ONE_BY_ONE: Final = 1
# What one client's long read may take before others get their turn: a read of so many bytes is run in portions of so
# many words, and after so many seconds the rest waits for the event loop's next round. (A read brings 250 KB at most,
# which are thousands of commands or members.) Where each write may have to make room, portions are small.
_LONG: Final = 32 << 10
_PORTION: Final = 256
_PORTION_LIMITED: Final = 32
_TURN_S: Final = 0.001
# No commands left over; shared and never changed.
_NOTHING: Final[list[list[bytes]]] = []
# No replies held back; likewise.
_NONE_HELD: Final[list[bytes]] = []
# Longer replies up to this many bytes are copied into one write with their neighbours: cheaper than a vector of writes.
_COPIED: Final = 64 << 10
# Bytes that a client may send ahead while its command waits.
_AHEAD: Final = 256 << 10


class Milliseconds(Protocol):
    """A clock that tells when what it says ends: `next_s` is the monotonic second of the next millisecond."""

    next_s: float

    def now_ms(self) -> int: ...


class Peers:
    """What connections share: the dispatch, the keyspace and its clock, and the open connections by client id."""

    __slots__ = (
        "by_id",
        "bytes_in",
        "bytes_out",
        "clock",
        "dispatch",
        "draining",
        "keyspace",
        "limits",
        "next_s",
        "rejected",
        "stopped",
        "total",
    )

    def __init__(self, dispatch: Dispatch, keyspace: Keyspace, clock: Milliseconds) -> None:
        self.dispatch = dispatch
        self.keyspace = keyspace
        self.clock = clock
        # The monotonic second at which the millisecond ends that the keyspace was told last. To compare it is cheaper
        # than to ask the clock.
        self.next_s = 0.0
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

    def tick(self) -> None:
        """Another millisecond has begun: let the keyspace see it."""
        now_ms = self.clock.now_ms()
        self.next_s = self.clock.next_s
        if now_ms != self.keyspace.now_ms:
            self.keyspace.tick(now_ms)


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_commands",
        "_dispatch",
        "_eof",
        "_fd",
        "_held",
        "_held_bytes",
        "_idle",
        "_in_turns",
        "_keyspace",
        "_last",
        "_paused",
        "_position",
        "_queued",
        "_soft_since_ms",
        "_task",
        "_transport",
        "_trusted",
        "_waits",
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
        self._dispatch = peers.dispatch
        self._keyspace = peers.keyspace
        # The parser has the limits of an authenticated client.
        self._trusted = session.authenticated
        self.parser = RequestParser(peers.limits if self._trusted else UNAUTHENTICATED)
        self._transport: asyncio.Transport | None = None
        # The socket's descriptor; -1 when there is none to write to.
        self._fd = -1
        # The transport may hold output that the socket has not taken yet.
        self._queued = False
        # Authenticated, and nothing is parsed, buffered, awaited, blocked or closing: a read may take the short road.
        self._idle = False
        # Parsed commands that had to be left for later, and the position of the next one to run.
        self._commands: list[list[bytes]] = _NOTHING
        self._position = 0
        # They, or what is buffered, may be many: others get their turn in between.
        self._in_turns = False
        # The first word of the command that ran last, for CLIENT LIST.
        self._last = b""
        # Reading is paused; the peer has sent everything; the peer does not take what we write.
        self._paused = False
        self._eof = False
        self._write_blocked = False
        # A command waits for a store, or its replies for the journal; the task that sees to the former is kept alive.
        self._waits = False
        self._task: asyncio.Task[None] | None = None
        self._held: list[bytes] = _NONE_HELD
        self._held_bytes = 0
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
        self._idle = False
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
        size = len(data)
        self.bytes_in += size
        if self._idle and size <= ALONE:
            # Nothing is left from before, and a short read is nearly always one command.
            argv = alone(data)
            if argv is not None:
                # What `_serve` does, for one command and in one frame: of a short command half the time is calls.
                if _monotonic() >= self.peers.next_s:
                    self.peers.tick()
                self.last_ms = self._keyspace.now_ms
                session = self.session
                wire = self._dispatch.run_one(session, argv)
                if not wire or self._queued or session.hold_seq:
                    self._serve_one(argv, wire)
                    return
                self._last = argv[0]
                try:
                    sent = _write_to(self._fd, wire)
                except OSError:
                    # Full, or gone: the transport waits, or finds out.
                    sent = 0
                self.bytes_out += sent
                if sent != len(wire):
                    self._send(wire[sent:])
                return
        if self.closing:
            return
        if not self._waits and not self._write_blocked and self._position >= len(self._commands):
            if size > _LONG:
                self._in_turns = True
            self._serve(self.parser.receive(data, 0 if self._trusted else _ONE_BY_ONE), 0)
            return
        self.parser.feed(data)
        if self.parser.buffered() > _LONG:
            self._in_turns = True
        if self.parser.buffered() > _AHEAD:
            self._pause()

    def eof_received(self) -> bool:
        # What was sent before the end is still answered: the transport stays open until that is done.
        self._eof = True
        self._idle = False
        return not self.closing and (self._waits or self._write_blocked)

    def pause_writing(self) -> None:
        self._write_blocked = True
        self._idle = False

    def resume_writing(self) -> None:
        self._write_blocked = False
        self._soft_since_ms = 0
        if not self._waits and not self.closing:
            self._serve(self._commands, self._position)

    # -- serving ------------------------------------------------------------------------------------------------------

    def _serve_one(self, argv: list[bytes], wire: bytes | None) -> None:
        # What becomes of a read that was one command, when it is not simply answered.
        session = self.session
        if session.hold_seq:
            self._last = argv[0]
            self._hold([wire] if wire else self._dispatch.long_reply, 0)
        elif wire is None:
            self._serve([argv], 0)
        elif session.waiting is not None:
            self._wait(argv)
        elif wire:
            self._last = argv[0]
            self._send(wire)
        else:
            self._last = argv[0]
            self._write(self._dispatch.long_reply, self._dispatch.long_bytes)

    def _wait(self, argv: list[bytes]) -> None:
        # The command waits for a store; the connection stays as it is until then.
        self._last = argv[0]
        waiting, self.session.waiting = self.session.waiting, None
        self._idle = False
        self._waits = True
        if isinstance(waiting, Parked):
            waiting.answer_to(self._finished)
        elif waiting is not None:
            self._task = asyncio.get_running_loop().create_task(self._finish(waiting))

    def _hold(self, out: list[bytes], long_bytes: int) -> None:
        # These replies tell of changes that the journal has not made durable yet. Until it has, the connection waits as
        # if for a store.
        self._idle = False
        self._waits = True
        self._held = out
        self._held_bytes = long_bytes
        seq, self.session.hold_seq = self.session.hold_seq, 0
        journal = self._dispatch.journal
        assert journal is not None
        journal.when_durable(seq, self._release)

    def _release(self, error: Exception | None) -> None:
        # What is held may leave, or never will: then the client must not take silence, or an error, for an outcome.
        out, self._held = self._held, _NONE_HELD
        self._waits = False
        session = self.session
        if self.closing:
            if session.waiting is not None:
                session.waiting.close()
                session.waiting = None
            return
        if error is not None:
            self.abort(str(error))
            return
        if out:
            self._write(out, self._held_bytes)
        if session.waiting is not None:
            # A command behind those that are answered now waits for a store.
            self._wait([self._last])
        else:
            self._go_on()

    def _go_on(self) -> None:
        # What was waited for is over: whatever came behind it, or rest.
        if self.session.close_after_reply:
            self.close_when_written()
        elif self._write_blocked:
            return
        elif (
            self._position >= len(self._commands)
            and self.parser.drained
            and self._trusted
            and self.session.authenticated
            and not (self._eof or self._paused or self.closing or self.peers.draining)
        ):
            # Nothing but the next read is to be waited for.
            self._commands = _NOTHING
            self._position = 0
            self._idle = True
        else:
            self._weigh_trust()
            self._serve(self._commands, self._position)

    def _serve(self, commands: list[list[bytes]], position: int) -> None:
        # Run what is parsed, parse what is buffered, until something has to be waited for.
        peers = self.peers
        dispatch = self._dispatch
        session = self.session
        parser = self.parser
        if _monotonic() >= peers.next_s:
            peers.tick()
        self.last_ms = self._keyspace.now_ms
        self._idle = False
        until_s = _monotonic() + _TURN_S if self._in_turns else 0.0
        while not self.closing and not peers.stopped:
            if position >= len(commands):
                commands = parser.take(0 if self._trusted else _ONE_BY_ONE)
                position = 0
                if not commands:
                    self._end_of_input()
                    break
            out: list[bytes] = []
            if until_s:
                if _monotonic() > until_s:
                    self._end_turn(commands, position)
                    return
                words = _PORTION_LIMITED if self._keyspace.limited else _PORTION
                position = dispatch.run_batch(session, commands, position, out, _portion(commands, position, words))
            else:
                position = dispatch.run_batch(session, commands, position, out)
            self._last = commands[position - 1][0]
            if session.hold_seq:
                # (What has been run is given back while it is in the processor's cache.)
                is_over = position >= len(commands)
                self._commands = _NOTHING if is_over else commands
                self._position = 0 if is_over else position
                self._hold(out, dispatch.long_bytes)
                return
            if out:
                self._write(out, dispatch.long_bytes)
            if session.close_after_reply:
                self.close_when_written()
                return
            if session.waiting is not None:
                self._commands = commands
                self._position = position
                self._wait(commands[position - 1])
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
        self._in_turns = False
        if self.closing:
            return
        if self._eof:
            self.close_when_written()
            return
        self._idle = parser.drained and self._trusted and not peers.draining
        if self._paused and not peers.draining:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()

    def _end_turn(self, commands: list[list[bytes]], position: int) -> None:
        # The rest waits, as if for a store, until the others have been served.
        self._commands = commands
        self._position = position
        self._waits = True
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._waits = False
        if not self.closing:
            self._go_on()

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
        reply = await waiting
        self._task = None
        self._finished(reply)

    def _finished(self, reply: object) -> None:
        # The command that waited; then whatever came behind it.
        self._waits = False
        waiting = self.session.waiting
        if self.closing:
            if waiting is not None:
                waiting.close()
                self.session.waiting = None
            return
        if waiting is not None:
            # What looked like a miss has to be planned.
            self._wait([self._last])
            return
        if type(reply) is bytes and len(reply) < len(BULK_HEADERS) and not self.session.hold_seq:
            self._send(BULK_HEADERS[len(reply)] + reply + b"\r\n")
        elif type(reply) is Status and not self.session.hold_seq:
            self._send(reply.wire)
        elif self._tell(reply):
            return
        self._go_on()

    def _tell(self, reply: object) -> bool:
        # True: the reply is held back.
        out: list[bytes] = []
        if isinstance(reply, Error):
            self._dispatch.count_error(reply)
        size = encode_into(out, reply, self.session.protocol)
        if self.session.hold_seq:
            self._hold(out, size)
            return True
        if out:
            self._write(out, size)
        return False

    def _write(self, out: list[bytes], long_bytes: int) -> None:
        # Small batches leave as one piece; large values are handed over as they are, without another copy.
        assert self._transport is not None
        if long_bytes > _COPIED:
            self.bytes_out += sum(map(len, out))
            self._queued = True
            self._transport.writelines(out)
            return
        self._send(b"".join(out))

    def _send(self, data: bytes) -> None:
        # Straight to the socket when nothing is queued before it: the event loop would send only after it has served
        # everybody who is ready, and fifty clients and the server would take turns instead of working side by side.
        size = len(data)
        self.bytes_out += size
        transport = self._transport
        if self._queued:
            assert transport is not None
            self._queued = transport.get_write_buffer_size() > 0
        if self._fd >= 0 and not self._queued:
            try:
                sent = _write_to(self._fd, data)
            except OSError:
                # Full, or gone: the transport waits, or finds out.
                sent = 0
            if sent == size:
                return
            data = data[sent:]
        assert transport is not None
        self._queued = True
        transport.write(data)

    def push(self, wire: bytes) -> None:
        """Send what is no reply (a message, an invalidation), between two replies. Never called within a batch.

        It goes through the transport, which gathers what is written until the loop has served everybody who is ready.
        """
        if self.closing:
            return
        if self._held:
            # Not before what the client was told first.
            self._held.append(wire)
            return
        assert self._transport is not None
        self.bytes_out += len(wire)
        self._queued = True
        self._transport.write(wire)
        if self._transport.get_write_buffer_size() > OUTPUT_HARD_PUBSUB and self._output_size() > self._hard_limit():
            # Now, and not when it is looked at next: one batch of a fast publisher can queue gigabytes.
            self.abort("output buffer over the hard limit")

    def _pause(self) -> None:
        self._idle = False
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
        self._idle = False
        self._fd = -1
        if self._transport is not None:
            self._transport.close()

    def close_soon(self) -> None:
        """Close after the command that waits now, or at once when none does; a peer that does not read is cut."""
        if not self._waits:
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
        self._idle = False
        self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    def _output_size(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def check_output(self, now_ms: int) -> None:
        """Called once a second: a peer that does not read is cut at the hard limit, or after too long at the soft."""
        size = self._output_size()
        if size > self._hard_limit():
            self.abort("output buffer over the hard limit")
        elif size > (OUTPUT_SOFT_PUBSUB if self.session.is_subscribed() else OUTPUT_SOFT_NORMAL):
            self._soft_since_ms = self._soft_since_ms or now_ms
            if now_ms - self._soft_since_ms > OUTPUT_SOFT_SECONDS * 1000:
                self.abort("output buffer over the soft limit for too long")
        else:
            self._soft_since_ms = 0

    def _hard_limit(self) -> int:
        return OUTPUT_HARD_PUBSUB if self.session.is_subscribed() else OUTPUT_HARD_NORMAL

    @property
    def waits(self) -> bool:
        """Does a command of this client wait for a store or the journal?"""
        return self._waits

    @property
    def busy(self) -> bool:
        """Does a command of this client wait for a store or the journal, or output for its reader?"""
        return self._waits or self._output_size() > 0

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


def _portion(commands: list[list[bytes]], position: int, words: int) -> int:
    # How many commands from there on have so many words: one at least.
    end = position
    while end < len(commands) and words > 0:
        words -= len(commands[end])
        end += 1
    return end - position


def _address(name: Any) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return f"{name}:0" if name else "unix:0"
