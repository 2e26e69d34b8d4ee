"""Is the server in this container alive? Asks it for a PONG; exit code 0 or 1.

NOAUTH is an answer as well: the server is there and wants a password that the health check need not know.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_S = 2.0
ALIVE = (b"+PONG\r\n", b"-NOAUTH ")


def is_alive(host: str, port: int) -> bool:
    """Does somebody there answer PING as a healthy server does?"""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = b""
            while b"\n" not in answer and len(answer) < 1024:
                piece = connection.recv(1024)
                if not piece:
                    break
                answer += piece
    except OSError:
        return False
    return answer.startswith(ALIVE)


if __name__ == "__main__":
    sys.exit(0 if is_alive("127.0.0.1", int(os.environ.get("FOREBAY_PORT") or 6379)) else 1)
