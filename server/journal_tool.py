"""`forebay journal inspect|verify|repair DIR`: look at a journal's files while no server uses them.

Exit codes: 0 sound (a torn tail is: nobody was told that it was safe), 2 there is no journal or it cannot be used now,
3 damaged.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from persistence.disk import RealDisk
from persistence.errors import JournalCorrupt, JournalError
from persistence.journal_recovery import lock_directory, repair_directory
from persistence.journal_scan import Scan, SegmentScan, scan_directory

SOUND: Final = 0
UNUSABLE: Final = 2
DAMAGED: Final = 3


def run(action: str, directory: Path) -> int:
    """Do what `action` says with the journal in a directory; the exit code."""
    disk = RealDisk()
    path = str(directory)
    try:
        # Looking must not create what is not there.
        disk.names(path)
        lock = lock_directory(disk, path)
    except JournalError as error:
        print(f"forebay: {error}", file=sys.stderr)
        return UNUSABLE
    except OSError as failure:
        print(f"forebay: {path}: {failure.strerror or failure}", file=sys.stderr)
        return UNUSABLE
    try:
        return _ACTIONS[action](disk, path)
    except JournalCorrupt as error:
        print(f"forebay: {error}", file=sys.stderr)
        return DAMAGED
    except BrokenPipeError:
        # That is whoever reads what is printed, not the journal.
        raise
    except OSError as error:
        print(f"forebay: {error}", file=sys.stderr)
        return UNUSABLE
    finally:
        lock.close()


def _scan(disk: RealDisk, directory: str) -> Scan | None:
    scan = scan_directory(disk, directory, _show_progress if sys.stderr.isatty() else None)
    if not scan.node:
        print(f"forebay: there is no journal in {directory}", file=sys.stderr)
        return None
    return scan


def _show_progress(seen: int, total: int) -> None:
    end = "\n" if seen >= total else ""
    print(f"\r{seen * 100 // max(1, total):3d} %  {_size(seen)} of {_size(total)} read", end=end, file=sys.stderr)


def _verify(disk: RealDisk, directory: str) -> int:
    scan = _scan(disk, directory)
    if scan is None:
        return UNUSABLE
    frames = sum(file.frames for file in scan.files())
    records = sum(file.records for file in scan.files())
    damages = _tell_damages(scan)
    if damages:
        print(f"damaged in {_count(damages, 'place')}; `forebay journal repair` keeps what is valid")
        return DAMAGED
    print(f"sound: {_count(len(scan.files()), 'file')}, {_count(frames, 'frame')}, {_count(records, 'record')}")
    return SOUND


def _inspect(disk: RealDisk, directory: str) -> int:
    scan = _scan(disk, directory)
    if scan is None:
        return UNUSABLE
    print(f"node {scan.node}, {_count(len(scan.segments), 'segment')} from {scan.floor} on")
    for file in scan.files():
        print(f"  {_file(file)}")
    replay = scan.replay
    print(f"unsaved: {_count(sum(map(len, replay.chains.values())), 'key')}")
    for prefix, keys in sorted(replay.chains.items()):
        if keys:
            oldest = min(chain[0].first_ms for chain in keys.values())
            print(f"  {prefix}: {_count(len(keys), 'key')}, the oldest since {_time(oldest)}")
    print(f"batches whose outcome only the database knows: {len(replay.batches)}")
    for number, batch in sorted(replay.batches.items()):
        print(f"  {number}: {_count(len(batch.items), 'key')} to {batch.store}")
    print(f"dead letters: {len(replay.letters)}")
    for id, letter in sorted(replay.letters.items()):
        what = f"{letter.key!r} of {letter.prefix}, {_time(letter.unix_ms)}"
        print(f"  {id}: {what}: {letter.sqlstate} {letter.message!r}")
    return DAMAGED if _tell_damages(scan) else SOUND


def _file(file: SegmentScan) -> str:
    held = f"{_count(file.frames, 'frame')}, {_count(file.records, 'record')}"
    sequences = f", sequences {file.first} to {file.next - 1}" if file.number and file.next > file.first else ""
    return f"{file.name}: {_size(file.end)} of {_size(file.size)} used, {held}{sequences}"


def _tell_damages(scan: Scan) -> int:
    for torn in scan.torn():
        print(f"torn: {torn}; it is cut off when a server starts")
    damages = scan.damages()
    for damage in damages:
        print(f"damaged: {damage}")
    return len(damages)


def _repair(disk: RealDisk, directory: str) -> int:
    if _scan(disk, directory) is None:
        return UNUSABLE
    repair = repair_directory(disk, directory)
    for damage in repair.damages:
        print(f"repaired: {damage}")
    for name in repair.side_files:
        print(f"the damaged bytes are in {directory}/{name}")
    if not repair.damages:
        print("nothing to repair")
    else:
        print("changes whose outcome was lost may be written to the database again; lost changes are gone")
    return SOUND


_ACTIONS: Final = {"inspect": _inspect, "verify": _verify, "repair": _repair}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size} bytes"


def _time(unix_ms: int) -> str:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{unix_ms} ms"
