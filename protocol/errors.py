"""What can be wrong with bytes from the network.

One family of the five in the architecture: their fault, noticed by the parser, answered by the connection, which then
closes. The stream cannot be trusted any further, because where the next command begins is no longer known.
"""

from typing import Final

_PRINTABLE: Final = range(0x20, 0x7F)


class ProtocolError(Exception):
    """The peer does not speak the protocol; the connection ends after this.

    ``message`` is printable ASCII without line ends ("Protocol error: invalid bulk length"); the connection puts
    ``-ERR `` before it. ``silent`` means: close without any answer. That is for what a browser was tricked into
    sending (``POST``, ``Host:``), where an answer would only help the attacker.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.silent = silent


def printable(byte: int) -> str:
    """The character of one byte from the network, or a space when it must not be echoed (control, CR, LF, ≥ 0x7F)."""
    return chr(byte) if byte in _PRINTABLE else " "
