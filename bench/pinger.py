"""A client that asks every millisecond and notes how long the answers take, in a process of its own (bench/pauses.py).

    python -m bench.pinger PORT PID        until its standard input ends

Each line on standard input is a name; the pings from then on are counted under it. At the end it prints one line of
JSON: for every name the number of pings, and their longest waits in milliseconds.

On a machine that others use, too, a wait is mostly the scheduler's: somebody else had the core. So beside the wait each
ping notes the *work* that the server's process did meanwhile, by its own clock, which stands still while it does not
run. A wait of 20 ms with 1 ms of work is the machine's; what the server is to blame for is work.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from array import array
from dataclasses import dataclass, field
from typing import Final

EVERY_S: Final = 0.001
_PING: Final = b"*2\r\n$3\r\nGET\r\n$4\r\nping\r\n"
_NOTHING: Final = b"$-1\r\n"


@dataclass(slots=True)
class Phase:
    """What was found under one name, in seconds for each ping."""

    waits: array[float] = field(default_factory=lambda: array("d"))
    work: array[float] = field(default_factory=lambda: array("d"))

    def summary(self) -> dict[str, float]:
        """For people, in milliseconds."""
        waits, work = sorted(self.waits), sorted(self.work)
        near_all = int(len(waits) * 0.999)
        return {
            "pings": len(waits),
            "longest_ms": 1000 * waits[-1],
            "p999_ms": 1000 * waits[near_all],
            "work_ms": 1000 * work[-1],
            "work_p999_ms": 1000 * work[near_all],
        }


def processor_clock(pid: int) -> int:
    """The number of the clock that counts a process's processor time; see clock_getcpuclockid(3)."""
    return ~pid << 3 | 2


def ping(port: int, pid: int) -> dict[str, Phase]:
    """Ping until the standard input ends."""
    connection = socket.create_connection(("127.0.0.1", port), 120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    clock = processor_clock(pid)
    found: dict[str, Phase] = {}
    phase = Phase()
    rest = b""
    while True:
        if select.select([0], [], [], EVERY_S)[0]:
            # Past Python's buffers, of which select knows nothing.
            read = os.read(0, 4096)
            if not read:
                return found
            *names, rest = (rest + read).split(b"\n")
            if names:
                phase = found.setdefault(names[-1].decode(), Phase())
        began, worked = time.perf_counter(), time.clock_gettime(clock)
        connection.sendall(_PING)
        left = len(_NOTHING)
        while left:
            got = len(connection.recv(left))
            if not got:
                raise ConnectionError("the server closed the connection")
            left -= got
        phase.work.append(time.clock_gettime(clock) - worked)
        phase.waits.append(time.perf_counter() - began)


def main() -> int:
    found = ping(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({name: phase.summary() for name, phase in found.items() if phase.waits}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
