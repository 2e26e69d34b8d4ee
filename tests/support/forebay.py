"""A real Forebay in a process of its own, for tests and benches; its ready line tells the port."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"\bready (.*)$")


def default_root() -> Path:
    """The tree whose server is started when nobody says otherwise: the checkout, or what FOREBAY_ROOT names."""
    return Path(os.environ.get("FOREBAY_ROOT") or ROOT)


class ForebayProcess:
    """One server process. `with ForebayProcess(toml) as server:` starts it and stops it by SIGTERM."""

    def __init__(
        self,
        config: str = "",
        *,
        arguments: list[str] | None = None,
        start_timeout_s: float = 30.0,
        root: Path | None = None,
    ) -> None:
        # The tree that it runs from: the checkout, or another build of it.
        self.root = root or default_root()
        self.config = config
        self.arguments = arguments
        self.start_timeout_s = start_timeout_s
        self.process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.addresses: list[str] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._directory = tempfile.TemporaryDirectory(prefix="forebay-test-")
        self.path = Path(self._directory.name) / "forebay.toml"

    def start(self) -> ForebayProcess:
        """Start and wait for the ready line; RuntimeError with the log when it does not come."""
        self.path.write_text(self.config)
        arguments = self.arguments
        if arguments is None:
            arguments = ["serve", "-c", str(self.path), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from server.cli import main; sys.exit(main())", *arguments],
            cwd=self.root,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.root)},
        )
        threading.Thread(target=self._read_log, daemon=True).start()
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise RuntimeError("no ready line:\n" + "\n".join(self.log)) from None
            if line is None:
                raise RuntimeError(f"ended with {self.process.wait()}:\n" + "\n".join(self.log))
            found = _READY.search(line)
            if found:
                self.addresses = found.group(1).split()
                self.port = int(self.addresses[0].rpartition(":")[2])
                return self

    def _read_log(self) -> None:
        assert self.process is not None and self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM, then the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    @property
    def resident_bytes(self) -> int:
        """The process's resident set."""
        assert self.process is not None
        statm = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> ForebayProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._directory.cleanup()
