"""Processor time of other processes, as the kernel counts it: in nanoseconds, all of their threads together."""

from __future__ import annotations

from pathlib import Path


def seconds_of(pid: int) -> float:
    """What a process and the children that it has now have used. What has ended is not counted any more: take the
    difference between two moments while they all live."""
    return sum(_of_threads(each) for each in (pid, *_children(pid)))


def _of_threads(pid: int) -> float:
    # (The fields of `stat` count hundredths of a second.)
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(thread.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total_ns / 1e9


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before it may have spaces and parentheses in it.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(status.parent.name))
    return found
