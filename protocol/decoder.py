"""Replies from bytes, and requests to bytes, where we are the client: tools, tests, links to other servers.

hiredis does the parsing. It reserves what a header announces, so this is for peers that are trusted; requests from the
network go through `parser`.
"""

from typing import Final

import hiredis

from protocol.errors import ProtocolError
from protocol.replies import Sentinel

PENDING: Final = Sentinel("PENDING")


class ReplyError(Exception):
    """An error reply, returned rather than raised: in a pipeline it is one answer among others."""


class ReplyDecoder:
    """The replies of one server, from bytes in any pieces.

    Bulk and simple strings are ``bytes``, null is None, a map is a dict, a set is a list, and a push is a
    ``hiredis.PushNotification``, which is a list too.
    """

    def __init__(self) -> None:
        self._reader: Final = hiredis.Reader(protocolError=ProtocolError, replyError=ReplyError, notEnoughData=PENDING)

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._reader.feed(data)

    def get(self) -> object:
        """The next reply, a `ReplyError` for an error reply, or `PENDING`. Raises ProtocolError when it is none."""
        reply: object = self._reader.gets()
        return reply


def pack_command(*args: str | bytes | int | float) -> bytes:
    """A request: an array of bulk strings, text in UTF-8, numbers in decimal. O(size). TypeError for other types."""
    pieces = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, bytes):
            raw = arg
        elif isinstance(arg, str):
            raw = arg.encode()
        elif isinstance(arg, bool) or not isinstance(arg, (int, float)):
            raise TypeError(f"not an argument: {type(arg).__name__}")
        else:
            raw = repr(arg).encode()
        pieces.append(b"$%d\r\n" % len(raw))
        pieces.append(raw)
        pieces.append(b"\r\n")
    return b"".join(pieces)
