"""One contract suite for every Disk, and what only the fake one shows: what a power loss leaves."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from persistence.disk import Disk, RealDisk
from tests.support.fake_disk import KEEP, LOSE, TEAR, FakeDisk, PowerLoss


@pytest.fixture(params=["real", "fake"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return RealDisk() if request.param == "real" else FakeDisk()


@pytest.fixture
def directory(disk: Disk, tmp_path: Path) -> str:
    path = str(tmp_path / "a" / "b")
    disk.make_directory(path)
    return path


def test_directory_is_made_with_its_parents_and_only_once(disk: Disk, directory: str) -> None:
    disk.make_directory(directory)
    assert disk.names(directory) == []


def test_names_of_a_directory_that_is_not_there_are_an_error(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.names(str(tmp_path / "nowhere"))


def test_what_is_written_at_an_offset_is_read_there(disk: Disk, directory: str) -> None:
    path = f"{directory}/f"
    file = disk.create(path)
    file.write_at(0, b"abcdef")
    file.write_at(2, b"XY")
    file.write_at(8, b"end")
    file.sync_data()
    file.sync()
    file.close()
    assert disk.read(path, 0, 100) == b"abXYef\0\0end"
    assert disk.read(path, 2, 2) == b"XY"
    assert disk.read(path, 50, 2) == b""
    assert disk.size(path) == 11


def test_file_that_exists_is_not_created_again(disk: Disk, directory: str) -> None:
    disk.create(f"{directory}/f").close()
    with pytest.raises(FileExistsError):
        disk.create(f"{directory}/f")


def test_file_that_does_not_exist_is_not_opened(disk: Disk, directory: str) -> None:
    for call in (disk.open, disk.size, disk.unlink):
        with pytest.raises(FileNotFoundError):
            call(f"{directory}/f")
    with pytest.raises(FileNotFoundError):
        disk.read(f"{directory}/f", 0, 1)


def test_preallocated_bytes_are_zeros_and_nothing_shrinks(disk: Disk, directory: str) -> None:
    path = f"{directory}/f"
    file = disk.create(path)
    file.write_at(0, b"abc")
    file.preallocate(10)
    assert disk.read(path, 0, 100) == b"abc" + bytes(7)
    file.preallocate(5)
    assert disk.size(path) == 10
    file.truncate(2)
    assert disk.read(path, 0, 100) == b"ab"
    file.close()


def test_rename_replaces_and_unlink_removes(disk: Disk, directory: str) -> None:
    for name, content in (("old", b"1"), ("new", b"2")):
        file = disk.create(f"{directory}/{name}")
        file.write_at(0, content)
        file.close()
    disk.rename(f"{directory}/old", f"{directory}/new")
    disk.sync_directory(directory)
    assert disk.names(directory) == ["new"]
    assert disk.read(f"{directory}/new", 0, 9) == b"1"
    file = disk.open(f"{directory}/new")
    file.write_at(1, b"3")
    file.close()
    assert disk.read(f"{directory}/new", 0, 9) == b"13"
    disk.unlink(f"{directory}/new")
    assert disk.names(directory) == []


def test_lock_is_held_until_it_is_closed(disk: Disk, directory: str) -> None:
    held = disk.lock(f"{directory}/lock")
    with pytest.raises(BlockingIOError):
        disk.lock(f"{directory}/lock")
    held.close()
    disk.lock(f"{directory}/lock").close()


# -- the real one -----------------------------------------------------------------------------------------------------


def test_files_and_directories_are_the_owners_alone(tmp_path: Path) -> None:
    disk = RealDisk()
    directory = tmp_path / "new" / "journal"
    mask = os.umask(0)
    try:
        disk.make_directory(str(directory))
        disk.create(str(directory / "f")).close()
        disk.lock(str(directory / "lock")).close()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "f").stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "lock").stat().st_mode) == 0o600


def test_lock_of_another_process_is_respected_and_ends_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    program = (
        "import sys\n"
        "from persistence.disk import RealDisk\n"
        "held = RealDisk().lock(sys.argv[1])\n"
        "print('held', flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            RealDisk().lock(path)
        other.kill()
    RealDisk().lock(path).close()


def test_disk_that_is_full_says_so() -> None:
    # The kernel's own full disk.
    file = RealDisk().open("/dev/full")
    with pytest.raises(OSError) as caught:
        file.write_at(0, b"x")
    assert caught.value.errno == errno.ENOSPC
    file.close()


# -- the fake one -----------------------------------------------------------------------------------------------------


def _written(disk: FakeDisk) -> None:
    disk.make_directory("/d")
    file = disk.create("/d/f")
    file.write_at(0, b"safe")
    file.sync_data()
    disk.sync_directory("/d")
    file.write_at(4, b"rest")
    disk.create("/d/g").sync()


def test_power_loss_takes_what_was_not_synced() -> None:
    disk = FakeDisk()
    _written(disk)
    lost = disk.after_power_loss(LOSE, Random(0))
    assert lost.names("/d") == ["f"]
    assert lost.read("/d/f", 0, 99) == b"safe"
    kept = disk.after_power_loss(KEEP, Random(0))
    assert kept.names("/d") == ["f", "g"]
    assert kept.read("/d/f", 0, 99) == b"saferest"
    torn = {disk.after_power_loss(TEAR, Random(seed)).read("/d/f", 0, 99) for seed in range(100)}
    assert torn == {b"saferest"[:length] for length in range(4, 9)}


def test_later_write_may_survive_an_earlier_one() -> None:
    disk = FakeDisk()
    disk.make_directory("/d")
    file = disk.create("/d/f")
    file.preallocate(8)
    file.sync()
    disk.sync_directory("/d")
    file.write_at(0, b"aaaa")
    file.write_at(4, b"bbbb")
    found = {disk.after_power_loss(TEAR, Random(seed)).read("/d/f", 0, 99) for seed in range(200)}
    assert b"\0\0\0\0bbbb" in found
    assert b"aaaa\0\0\0\0" in found


def test_killed_process_loses_nothing_but_its_locks() -> None:
    disk = FakeDisk()
    _written(disk)
    disk.lock("/d/lock")
    found = disk.after_kill()
    assert found.read("/d/f", 0, 99) == b"saferest"
    found.lock("/d/lock")


def test_operation_that_is_to_fail_fails_and_the_dead_disk_does_nothing_more() -> None:
    disk = FakeDisk()
    disk.failures[2] = errno.EIO
    disk.make_directory("/d")
    file = disk.create("/d/f")
    with pytest.raises(OSError) as caught:
        file.write_at(0, b"x")
    assert caught.value.errno == errno.EIO
    disk.crash_at = 4
    file.write_at(0, b"y")
    for _ in range(2):
        with pytest.raises(PowerLoss):
            file.write_at(0, b"z")
    assert disk.read("/d/f", 0, 9) == b"y"


def test_full_fake_disk_writes_what_fits() -> None:
    disk = FakeDisk(capacity=10)
    disk.make_directory("/d")
    file = disk.create("/d/f")
    file.write_at(0, b"12345678")
    with pytest.raises(OSError) as caught:
        file.write_at(6, b"abcdefgh")
    assert caught.value.errno == errno.ENOSPC
    assert disk.read("/d/f", 0, 99) == b"123456abcd"
    with pytest.raises(OSError):
        file.preallocate(11)
    disk.unlink("/d/f")
    assert disk.room() == 10
