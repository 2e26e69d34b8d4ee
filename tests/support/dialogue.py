"""Dialogues: the same lines sent to two servers, and the bytes that came back."""

from __future__ import annotations

from tests.support.wire import RawClient

_END = b"$3\r\nend\r\n"


class Talker:
    """A client whose words are lines of text, and which reads raw bytes up to the echo of a mark."""

    def __init__(self, port: int, protocol: int = 2) -> None:
        self.port = port
        self.raw = RawClient(port)
        self._rest = b""
        self.id = self.ask("CLIENT ID")
        if protocol == 3:
            self.ask("HELLO 3")

    def ask(self, line: str) -> object:
        """One command and its reply, decoded."""
        return self.raw.call(*line.split(" "))

    def say(self, *lines: str) -> bytes:
        """Send commands in one write; what came back, messages included, until the mark that is sent behind them."""
        self.raw.send(b"".join(pack(line) for line in lines) + pack("PING end"))
        return self.hear()

    def hear(self) -> bytes:
        """What comes until the echo of the mark; what comes behind it is heard the next time."""
        while _END not in self._rest:
            piece = self.raw.sock.recv(1 << 16)
            if not piece:
                return self._rest + b"<closed>"
            self._rest += piece
        got, _, self._rest = self._rest.partition(_END)
        # A RESP2 subscriber's mark comes as *2 pong end.
        return got.removesuffix(b"*2\r\n$4\r\npong\r\n")

    def news(self) -> bytes:
        """What came without being asked for."""
        return self.say()

    def close(self) -> None:
        """Hang up."""
        self.raw.close()


def pack(line: str) -> bytes:
    """A line's words as a command."""
    words = [word.encode() for word in line.split(" ")]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
