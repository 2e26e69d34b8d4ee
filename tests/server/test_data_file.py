"""A file of the data directory: replaced as a whole, for its owner only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.data_file import DataFile


async def test_content_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    file = DataFile(path)
    assert await file.read(100) is None
    await file.write(b"one")
    await file.write(b"twice")
    assert await file.read(100) == b"twice"
    assert await file.read(2) == b"tw"
    assert os.listdir(tmp_path) == ["keys"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "keys")
    await file.write(b"one")
    (tmp_path / "keys.new").mkdir()
    with pytest.raises(OSError, match=r"keys\.new"):
        await file.write(b"two")
    assert await file.read(100) == b"one"
