"""The clients of Node.js: each is a program in `node/`, whose assertions are its own; here it runs and must end well.

The packages are those of `node/package-lock.json`, installed once into pytest's cache: the checkout
stays clean.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests.support.forebay import ForebayProcess

NODE = Path(__file__).parent / "node"
# Far beyond what they take.
INSTALL_S, RUN_S = 100, 60


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest) -> Path:
    """A directory with the programs and the packages that they import."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian packages nodejs and npm)")
    assert request.config.cache is not None
    directory = request.config.cache.mkdir("clients-of-node")
    for source in NODE.glob("*.mjs"):
        shutil.copy(source, directory)
    lock, installed = NODE / "package-lock.json", directory / "installed-lock.json"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        install(directory)
        shutil.copy(lock, installed)
    return directory


def install(directory: Path) -> None:
    """Install the packages of the lock file; the module is skipped, with the reason, where that cannot be done."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE / name, directory)
    try:
        done = subprocess.run(
            # Not `npm ci`: it refuses a lock file that lacks the builds for other systems of packages we do not need.
            ["npm", "install", "--no-save", "--omit=optional", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not end within {INSTALL_S} s")
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if line.startswith("npm error")), done.stderr)
        pytest.skip(f"the packages cannot be installed: {first}")


def run(program: str, directory: Path, server: ForebayProcess) -> None:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    done = subprocess.run(
        ["node", f"{program}.mjs"],
        cwd=directory,
        env={**os.environ, "FOREBAY_PORT": str(server.port)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stdout + done.stderr


@pytest.mark.parametrize("program", ["ioredis", "node_redis", "bullmq"])
def test_client(program: str, programs: Path, server: ForebayProcess) -> None:
    run(program, programs, server)
