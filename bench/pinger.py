"""A client that asks every millisecond and notes how long the answers take, in a process of its own (bench/pauses.py).

    python -m bench.pinger PORT PID        until its standard input ends

Each line on standard input is a name; the pings from then on are counted under it. At the end it prints one line of
JSON: for every name the number of pings, and their longest waits in milliseconds.

On a machine that others use, too, a wait is mostly the scheduler's: somebody else had the core. So beside the wait each
ping notes the *work* that the server's thread did meanwhile, by the kernel's account of it, which stands still while
the thread does not run (and may be behind by a tick, 1 to 4 ms, while it does). Its first thread alone is looked at,
which serves: a store's threads work beside it. A wait of 20 ms with 1 ms of work is the machine's; what the serving
thread is to blame for is at most its work, and at most the wait: the *pause*.

But a thread beside it may hold the interpreter, and then the serving one stands still as well. So the work of the whole
process is noted, too: what the server can be to blame for at all is at most that, and at most the wait, and is told as
*held*. It is too much where the other threads really work beside, as a store's do most of the time.

And a hypervisor may take the whole processor away. A kernel without CONFIG_PARAVIRT_TIME_ACCOUNTING counts that time as
work of whoever ran; what it does tell is how much of it there was, of all processors together, in ticks of 10 ms
(`steal` in proc_stat(5)). A pause less the ticks that came while it lasted is what is left for the server: its *own*. A
tick that belongs to the other processor makes one ping's figure too small, but hardly each one's of a server that is
slow by itself, and the longest of all pings is what is told. *Stolen* is the share of a phase's time.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

EVERY_S: Final = 0.001
_PING: Final = b"*2\r\n$3\r\nGET\r\n$4\r\nping\r\n"
_NOTHING: Final = b"$-1\r\n"
# Of a process's clocks, the one to the nanosecond.
_SCHEDULED: Final = 2
# The word of /proc/stat's first line.
_STEAL: Final = 8


@dataclass(slots=True)
class Phase:
    """What was found under one name, in seconds for each ping."""

    waits: array[float] = field(default_factory=lambda: array("d"))
    work: array[float] = field(default_factory=lambda: array("d"))
    pauses: array[float] = field(default_factory=lambda: array("d"))
    held: array[float] = field(default_factory=lambda: array("d"))
    own: array[float] = field(default_factory=lambda: array("d"))
    stolen_s: float = 0.0

    def note(self, wait_s: float, work_s: float, process_s: float, stolen_s: float) -> None:
        """One ping; the work of the serving thread, and of all threads; what the hypervisor took."""
        self.waits.append(wait_s)
        self.work.append(work_s)
        self.pauses.append(min(wait_s, work_s))
        self.own.append(max(0.0, min(wait_s, work_s) - stolen_s))
        self.stolen_s += stolen_s
        self.held.append(min(wait_s, max(work_s, process_s)))

    def summary(self) -> dict[str, float]:
        """For people, in milliseconds."""
        waits, pauses = sorted(self.waits), sorted(self.pauses)
        near_all = int(len(waits) * 0.999)
        return {
            "pings": len(waits),
            "longest_ms": 1000 * waits[-1],
            "p999_ms": 1000 * waits[near_all],
            "work_ms": 1000 * max(self.work),
            "pause_ms": 1000 * pauses[-1],
            "pause_p999_ms": 1000 * pauses[near_all],
            "held_ms": 1000 * max(self.held),
            "own_ms": 1000 * max(self.own),
            "stolen_ms": 1000 * self.stolen_s,
        }


class WorkClock:
    """The processor time of a process's first thread; see proc_pid_schedstat(5)."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/task/{pid}/schedstat", os.O_RDONLY)

    def read_s(self) -> float:
        """Seconds of it so far."""
        return int(os.pread(self._descriptor, 100, 0).split()[0]) / 1e9


class StolenClock:
    """Time that the hypervisor gave to others while somebody here wanted to run; see proc_stat(5)."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/stat", os.O_RDONLY)
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def read_s(self) -> float:
        """Seconds of it so far, of all processors together."""
        return int(os.pread(self._descriptor, 200, 0).split()[_STEAL]) * self._tick_s


def process_clock(pid: int) -> int:
    """The clock of the processor time of all threads of a process: what clock_getcpuclockid(3) makes on Linux."""
    return (~pid << 3) | _SCHEDULED


def ping(port: int, pid: int) -> dict[str, Phase]:
    """Ping until the standard input ends."""
    connection = socket.create_connection(("127.0.0.1", port), 120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    clock, stolen = WorkClock(pid), StolenClock()
    every_thread = process_clock(pid)
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
        stolen_s = stolen.read_s()
        worked, all_worked = clock.read_s(), time.clock_gettime(every_thread)
        began = time.perf_counter()
        connection.sendall(_PING)
        left = len(_NOTHING)
        while left:
            got = len(connection.recv(left))
            if not got:
                raise ConnectionError("the server closed the connection")
            left -= got
        wait_s = time.perf_counter() - began
        work_s, process_s = clock.read_s() - worked, time.clock_gettime(every_thread) - all_worked
        phase.note(wait_s, work_s, process_s, stolen.read_s() - stolen_s)


def hurry() -> None:
    """Run before everybody else, where that is allowed: else a reply waits for a processor, and is taken for late."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> int:
    hurry()
    found = ping(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({name: phase.summary() for name, phase in found.items() if phase.waits}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
