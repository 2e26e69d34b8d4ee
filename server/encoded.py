"""Encoded: a reply that is bytes already.

Some commands have more than one reply (SUBSCRIBE confirms each channel), and behind the reply of a subscriber may stand
the messages that its own command caused. The batch takes one reply for each command; this is how it takes several.
"""

from __future__ import annotations

from protocol.replies import Status


class Encoded(Status):
    """Whole replies and messages in wire form, in order. The encoder copies a status's wire, so it copies this one."""

    __slots__ = ()

    def __init__(self, wire: bytes) -> None:
        self.wire = wire  # type: ignore[misc]
