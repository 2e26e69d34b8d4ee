"""The service manager: told when we are ready and when we stop, if it asks for that (systemd with `Type=notify`)."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

log = logging.getLogger("forebay.net")

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def tell(state: str, status: str) -> None:
    """Tell the state, with a line for people; nothing when nobody asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # The leading @ of an abstract socket stands for a zero byte.
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(f"{state}\nSTATUS={status}\n".encode(), path)
        except OSError as error:
            log.warning("the service manager at NOTIFY_SOCKET cannot be told: %s", error.strerror)
