"""The packages: a wheel of exactly the four rooms, made from a source distribution, whose console script works where
nothing else of the checkout is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).parents[2]
ROOMS = ("protocol", "eviction", "persistence", "server")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    # What is in the wheel is what runs, whatever is under test otherwise; and it is not compiled, which takes minutes.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HATCH_BUILD_HOOKS_ENABLE")}
    return {**kept, "HATCH_BUILD_NO_HOOKS": "true"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a source distribution, and the wheel that was made from it."""
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (made,) = built.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel."""
    target = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(target, with_pip=False)
    python = target / "bin" / "python"
    # --no-deps and --no-index: nothing is downloaded. The dependencies are lent by the environment that runs the tests,
    # through a path file, which does not process the path files over there (an editable install of the checkout).
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=target)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=target).strip())
    (site / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return target


def test_source_distribution_is_the_checkout_without_what_is_made(built: Path) -> None:
    (made,) = built.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # What the compiled wheel, the tests and the image are made of.
    wanted = {
        "hatch_build.py",
        "LICENSE",
        "config.example.toml",
        "Dockerfile",
        ".dockerignore",
        "container/forebay.toml",
    }
    wanted |= {f"script/{name}" for name in ("compile", "serve", "setup", "test")} | {"tests/__init__.py"}
    wanted |= {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert wanted <= names
    assert [name for name in names if "__pycache__" in name or name.endswith((".so", ".pyc")) or ".venv" in name] == []


def test_wheel_holds_the_four_rooms_and_metadata_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(ROOMS)
    assert {Path(name).suffix for name in names if ".dist-info/" not in name} == {".py"}
    metadata = {name.split(".dist-info/")[1] for name in names if ".dist-info/" in name}
    assert metadata == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_wheel_has_one_console_script_and_its_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        assert archive.read(entry_points).decode().split("\n") == ["[console_scripts]", "forebay = server.cli:main", ""]
        lines = archive.read(metadata).decode().splitlines()
    assert "License-Expression: Apache-2.0" in lines
    assert "Requires-Python: >=3.11" in lines


def test_installed_wheel_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    python = installed / "bin" / "python"
    where = run(python, "-c", "import server.cli; print(server.cli.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed)
    assert run(installed / "bin" / "forebay", "version", cwd=tmp_path).startswith("forebay ")


def test_installed_wheel_serves_what_a_file_says(installed: Path, tmp_path: Path) -> None:
    rule = '[prefix."page:"]\nstore = "main"\nread = "read-through"\nwrite = "write-through"'
    (tmp_path / "f.toml").write_text(f'[server]\nport = 0\n[stores.main]\nurl = "sqlite:///pages.db"\n{rule}\n')
    server = subprocess.Popen(
        [installed / "bin" / "forebay", "serve", "-c", "f.toml"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    with server, server.stderr as log:
        try:
            ready = next((line for line in log if " ready " in line), "")
            with redis.Redis(port=int(ready.rpartition(":")[2])) as client:
                assert client.incr("page:1") == 1
                assert client.info("server")["forebay_build"] == "interpreted"
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
    assert (tmp_path / "pages.db").exists()
