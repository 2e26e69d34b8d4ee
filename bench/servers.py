"""The servers that benches compare: redis-server, and Forebay in each build that there is, all on free ports."""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from protocol.decoder import PENDING, ReplyDecoder, pack_command
from tests.support.forebay import ForebayProcess

T = TypeVar("T")
ROOT: Final = Path(__file__).resolve().parent.parent
REDIS: Final = "redis"
# A thousand prefix rules, on a machine that has other things to do.
_PATIENCE_S: Final = 60.0
# Where script/compile puts the other build.
_COMPILED_ROOT: Final = ROOT / "build" / "compiled"


class ServerFailed(Exception):
    """A server did not start, or a program that loads it failed."""


def exit_code_of(main: Callable[[], int]) -> int:
    """A bench's main program, run: what failed under it is one line on standard error, and exit code 1."""
    try:
        return main()
    except ServerFailed as error:
        print(f"bench/{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1


@dataclass(frozen=True)
class Build:
    """One form of Forebay: the same sources, run from the directory `root`."""

    name: str
    root: Path


INTERPRETED: Final = Build("interpreted", ROOT)
COMPILED: Final = Build("compiled", _COMPILED_ROOT)
BUILDS: Final = {build.name: build for build in (INTERPRETED, COMPILED)}


def is_built(build: Build) -> bool:
    """Can it be started?"""
    return build is INTERPRETED or any(build.root.glob("protocol/parser.*.so"))


def available() -> list[Build]:
    """The builds that there are; the interpreted one always is."""
    return [build for build in BUILDS.values() if is_built(build)]


def read_builds(text: str) -> list[Build]:
    """An option's value, names with commas, for argparse."""
    found = []
    for name in text.split(","):
        if name not in BUILDS:
            raise argparse.ArgumentTypeError(f"unknown {name}; known are {', '.join(BUILDS)}")
        if not is_built(BUILDS[name]):
            raise argparse.ArgumentTypeError(f"there is no {name} build; script/compile makes it")
        found.append(BUILDS[name])
    return found


def add_builds_option(parser: argparse.ArgumentParser) -> None:
    """`--builds`, the same for every bench; `options.builds` is a list of Build."""
    parser.add_argument(
        "--builds", type=read_builds, default=available(), metavar="NAMES", help="interpreted, compiled; default: both"
    )


def positive(text: str) -> int:
    """An option's value, a number of things of which there is at least one, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def add_rounds_options(parser: argparse.ArgumentParser, default: int = 5) -> None:
    """`--rounds` and `--seconds`, the same for every bench; `rounds` reads them."""
    parser.add_argument("--rounds", type=positive, default=default, metavar="N", help="an odd number is best")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="begin no other round after so long"
    )


def rounds(options: argparse.Namespace) -> Iterator[int]:
    """The rounds of a measurement by number: at least one, and none that begins when the time is over."""
    end = time.monotonic() + options.seconds
    for at in range(options.rounds):
        if at and time.monotonic() > end:
            return
        yield at


# -- running servers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running server. `name` is REDIS or a build's."""

    name: str
    port: int
    pid: int

    @property
    def cpu_s(self) -> float:
        """Processor seconds that its main thread, the one that serves clients, has used."""
        # Nanoseconds, where the fields of `stat` count hundredths of a second.
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    @property
    def resident_bytes(self) -> int:
        """Its resident set."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def call(self, *words: str | bytes | int) -> object:
        """One command on a connection of its own; error replies are returned."""
        decoder = ReplyDecoder()
        with socket.create_connection(("127.0.0.1", self.port), 120) as sock:
            sock.sendall(pack_command(*words))
            while (reply := decoder.get()) is PENDING:
                received = sock.recv(1 << 16)
                if not received:
                    raise ServerFailed(f"{self.name} closed the connection")
                decoder.feed(received)
        return reply


def server_at(name: str, port: int) -> Server:
    """The server behind a port, which tells its process itself."""
    told = Server(name, port, 0).call("INFO", "server")
    found = re.search(rb"process_id:(\d+)", told) if isinstance(told, bytes) else None
    if found is None:
        raise ServerFailed(f"{name} does not tell its process: {told!r}")
    return Server(name, port, int(found[1]))


@contextmanager
def redis_server(*arguments: str) -> Iterator[int]:
    """A redis-server without persistence, unless `arguments` say otherwise; its port."""
    path = shutil.which("redis-server")
    if path is None:
        raise ServerFailed("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*command, "--dir", directory, *arguments], stdout=subprocess.DEVNULL)
        try:
            _wait_until_open(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise ServerFailed("redis-server did not start")


@contextmanager
def forebay(build: Build, config: str = "", *, unsaved_is_fine: bool = False) -> Iterator[Server]:
    """A Forebay of a build. It is stopped in order, or killed, where nobody needs what it has not saved."""
    with ExitStack() as stack:
        process = ForebayProcess(config, root=build.root, start_timeout_s=_PATIENCE_S)
        try:
            stack.enter_context(process)
        except RuntimeError as error:
            raise ServerFailed(f"Forebay, {build.name}: {error}") from None
        if unsaved_is_fine:
            stack.callback(process.kill)
        yield server_at(build.name, process.port)


@contextmanager
def servers(builds: Sequence[Build], config: str = "", redis_arguments: Sequence[str] = ()) -> Iterator[list[Server]]:
    """redis-server first, then Forebay in each of these builds, all running at once."""
    with ExitStack() as stack:
        running = [server_at(REDIS, stack.enter_context(redis_server(*redis_arguments)))]
        running += [stack.enter_context(forebay(build, config)) for build in builds]
        yield running


def turn(running: Sequence[T], at: int) -> Sequence[T]:
    """The order of a round: A B C, then C B A, so that a drift of the machine meets all of them alike."""
    return running if at % 2 == 0 else running[::-1]
