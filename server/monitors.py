"""Monitors: the clients that see every command (MONITOR).

    +1700000000.123456 [0 127.0.0.1:50123] "SET" "key" "value\\x00"

While there is one, all commands of all clients take the long road through dispatch, which shows them; while there is
none, nobody looks whether there is. Administrative commands are not shown, and of others no passwords.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.commands.spec import ADMIN, CommandSpec
from server.redaction import without_secrets
from server.session import Session

_ESCAPES: Final = {0x07: b"\\a", 0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}
_QUOTED: Final = [_ESCAPES.get(byte, b"%c" % byte if 0x20 <= byte < 0x7F else b"\\x%02x" % byte) for byte in range(256)]
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in _ESCAPES)


def quoted(word: bytes) -> bytes:
    """A word in double quotes, printable."""
    if not word.translate(None, _PLAIN):
        return b'"' + word + b'"'
    return b'"' + b"".join([_QUOTED[byte] for byte in word]) + b'"'


class Monitors:
    """Who sees every command."""

    __slots__ = ("_unix_us", "changed", "sessions")

    def __init__(self, unix_us: Callable[[], int]) -> None:
        self._unix_us = unix_us
        self.sessions: list[Session] = []
        # Called when the first one has come or the last one gone.
        self.changed: Callable[[], None] | None = None

    def enter(self, session: Session) -> None:
        """A client begins to watch."""
        session.monitoring = True
        session.refresh_state()
        self.sessions.append(session)
        if len(self.sessions) == 1 and self.changed is not None:
            self.changed()

    def leave(self, session: Session) -> None:
        """A client has gone, or been reset."""
        session.monitoring = False
        session.refresh_state()
        if session in self.sessions:
            self.sessions.remove(session)
            if not self.sessions and self.changed is not None:
                self.changed()

    def show(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> None:
        """A client's command is about to run; with EXEC, what it had queued runs before it."""
        calls = [(spec, argv)]
        if spec.name == "exec" and session.queue is not None:
            calls = [*session.queue, (spec, argv)]
        client = session.server.clients.describe(session.client_id) or {}
        address = client.get("addr", "").encode()
        for shown, words in calls:
            if shown.flags & ADMIN:
                continue
            seconds, microseconds = divmod(self._unix_us(), 1_000_000)
            text = b" ".join(map(quoted, without_secrets(shown, words)))
            wire = b"+%d.%06d [%d %s] %s\r\n" % (seconds, microseconds, session.db.index, address, text)
            for monitor in self.sessions:
                monitor.deliver(wire)
