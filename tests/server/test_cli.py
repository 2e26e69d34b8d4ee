"""The command line: what each command does, says and returns; and the scripts that start it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from persistence.dead_letters import DeadLetter
from persistence.disk import RealDisk
from server import cli
from server.config import Config
from server.errors import ConfigError
from tests.support.journals import opened, text

ROOT = Path(__file__).parents[2]
RULES = """
[stores.main]
url = "sqlite:///{path}"
[stores.idle]
url = "postgresql://app:hunter2@db/x"
[prefix."user:{{id:int}}"]
store = "main"
read = "read-through"
table = "users"
value = "hash"
[prefix."page:"]
store = "main"
write = "write-behind"
[prefix."session:"]
ttl = "0"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "forebay.toml"
    path.write_text(RULES.format(path=tmp_path / "shop.db"))
    return path


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)


class Served:
    """Stands in for server.app.serve: what it was called with, and what it answers."""

    def __init__(self) -> None:
        self.config = Config()
        self.source: Path | None = None
        self.banner: Callable[[str, int], list[str]] | None = None
        self.code = 0

    def __call__(self, config: Config, source: Path | None, banner: Callable[[str, int], list[str]] | None) -> int:
        self.config, self.source, self.banner = config, source, banner
        if source is not None:
            assert source.exists()
        return self.code


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    fake = Served()
    monkeypatch.setattr(cli.app, "serve", fake)
    return fake


# serve


def test_serve_without_a_file_is_a_plain_cache(served: Served) -> None:
    assert cli.main(["serve"]) == 0
    assert served.config == Config()
    assert (served.source, served.banner) == (None, None)


def test_serve_reads_the_file(served: Served, file: Path) -> None:
    assert cli.main(["serve", "-c", str(file)]) == 0
    assert {rule.name for rule in served.config.rules} == {"user:{id:int}", "page:", "session:"}
    assert served.source == file


def test_overrides_win_over_the_file(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[server]\nbind = ["10.0.0.1"]\nport = 1\ndatabases = 3')
    assert cli.main(["serve", "-c", str(path), "--bind", "127.0.0.1", "--bind", "::1", "--port", "0"]) == 0
    assert served.config.server.bind == ("127.0.0.1", "::1")
    assert served.config.server.port == 0
    assert served.config.server.databases == 3


def test_log_options_are_taken(served: Served) -> None:
    assert cli.main(["serve", "--log-level", "warning", "--log-format", "json"]) == 0
    assert logging.getLogger().level == logging.WARNING
    assert cli.main(["serve"]) == 0
    assert logging.getLogger().level == logging.INFO


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_exit_code_is_the_servers(served: Served, code: int) -> None:
    served.code = code
    assert cli.main(["serve"]) == code


def test_demo_is_removed_after_a_clean_exit(served: Served) -> None:
    assert cli.main(["serve", "--demo", "--port", "0"]) == 0
    assert served.source is not None
    assert served.config.server.port == 0
    assert {rule.write for rule in served.config.rules} >= {"write-through", "write-behind", "write-around"}
    assert served.banner is not None
    assert "redis-cli -h 127.0.0.1 -p 5" in "\n".join(served.banner("127.0.0.1", 5))
    assert not served.source.parent.exists()


def test_demo_stays_after_any_other_exit(served: Served) -> None:
    served.code = 4
    assert cli.main(["serve", "--demo"]) == 4
    assert served.source is not None
    assert served.source.exists()
    shutil.rmtree(served.source.parent)


def test_refusal_while_starting_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise ConfigError("f.toml: server.port: taken")

    monkeypatch.setattr(cli.app, "serve", refuse)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "forebay: f.toml: server.port: taken\n"


def test_crash_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> int:
        raise RuntimeError("bug")

    monkeypatch.setattr(cli.app, "serve", crash)
    with pytest.raises(RuntimeError):
        cli.main(["serve"])


def test_bad_file_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.toml"
    path.write_text("[server]\nprot = 1")
    for command in (["serve", "-c", str(path)], ["check", str(path)], ["sql", str(path)]):
        assert cli.main(command) == 2
        assert capsys.readouterr().err == f'forebay: {path}: server.prot: unknown key; did you mean "port"?\n'


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sreve"], "invalid choice: 'sreve'"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot"),
        (["serve", "--po", "1"], "unrecognized arguments: --po"),
        (["serve", "--port", "x"], "argument --port: must be a whole number from 0 to 65535, not a string"),
        (["serve", "--port", "65536"], "argument --port: must be from 0 to 65535, not 65536"),
        (["serve", "--bind", "a:1"], "argument --bind: must be an IP address or a host name without a port"),
        (["serve", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["serve", "--log-format", "xml"], "argument --log-format: invalid choice: 'xml'"),
        (["serve", "-c", "x", "--demo"], "not allowed with argument"),
        (["check"], "the following arguments are required: FILE"),
        (["journal", "look", "d"], "invalid choice: 'look'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    argv: list[str], expected: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert error.startswith("forebay")


def test_help_is_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("serve", "check", "sql", "journal", "version"):
        assert command in text


# check


def test_check_summarises_each_rule(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{file}: 2 stores, 3 rules",
        "  session:, read cache-aside, write cache-aside, no ttl",
        "  page:, read cache-aside, write write-behind, main: generic table, ttl 5m, saved within 1s",
        "  user:{id:int}, read read-through, write cache-aside, main: users as hash, ttl 5m",
    ]
    assert err.startswith(f"forebay: {file}: warning: write-behind without a journal")


def test_check_connect_tells_every_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The second store is not there at all.
    file.write_text(file.read_text().replace('url = "postgresql://app:hunter2@db/x"', 'url = "memory:"'))
    assert cli.main(["check", "--connect", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "user:{id:int}" in out
    assert "prefix user:{id:int}: no such table: users" in err
    with closing(sqlite3.connect(file.parent / "shop.db")) as connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    assert cli.main(["check", "--connect", str(file)]) == 0


@pytest.mark.parametrize(("path", "reason"), [("data/shop.db", "there is no directory"), ("", "is a directory")])
def test_sqlite_file_without_a_place_is_one_line_and_exit_2(
    path: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "f.toml"
    config.write_text(f'[server]\nport = 0\n[stores.main]\nurl = "sqlite:///{tmp_path}/{path}"\n')
    for command in (["check", "--connect", str(config)], ["serve", "-c", str(config)]):
        assert cli.main(command) == 2
        err = capsys.readouterr().err
        assert err.startswith("forebay: stores.main.url: ")
        assert f"{reason} {tmp_path}/data\n" in err or f"{tmp_path} {reason}\n" in err


def test_check_without_connect_opens_nothing(file: Path) -> None:
    assert cli.main(["check", str(file)]) == 0
    assert not (file.parent / "shop.db").exists()


# sql, journal, version


def test_sql_prints_what_sqlite_accepts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sql", str(file)]) == 0
    text = capsys.readouterr().out
    assert "[stores.main]" in text
    assert "idle" not in text
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(text)
        connection.executescript(text)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(forebay_kv)")]
    assert columns == ["key", "kind", "value", "expires_at", "updated_at"]


def test_sql_speaks_the_dialect_of_the_store_and_shows_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.toml"
    path.write_text(
        '[stores.pg]\nurl = "postgresql://app:hunter2@db/x"\n[prefix."a:"]\nstore = "pg"\nread = "read-through"'
    )
    assert cli.main(["sql", str(path)]) == 0
    text = capsys.readouterr().out
    assert "CREATE TABLE IF NOT EXISTS forebay_kv" in text
    assert "timestamptz" in text
    assert "hunter2" not in text
    assert "forebay_applied" not in text


@pytest.mark.parametrize("url", ["postgresql://app:hunter2@db/x", "sqlite:///shop.db"])
def test_sql_has_the_table_that_the_journal_wants(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.toml"
    rule = '[prefix."a:{id:int}"]\nstore = "s"\nwrite = "write-behind"\ntable = "t"'
    path.write_text(f'[journal]\ndir = "{tmp_path}/journal"\n[stores.s]\nurl = "{url}"\n{rule}')
    assert cli.main(["sql", str(path)]) == 0
    text = capsys.readouterr().out
    assert "CREATE TABLE IF NOT EXISTS forebay_applied" in text
    assert "forebay_kv" not in text
    assert not (tmp_path / "journal").exists()


def test_sql_says_when_nothing_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[stores.m]\nurl = "memory:"\n[prefix."a:"]\nstore = "m"\nread = "read-through"\n[prefix."b:"]')
    assert cli.main(["sql", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("-- ")
    assert "CREATE" not in text


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A directory with a journal of five unsaved keys and one dead letter, in two segments."""
    directory = tmp_path / "journal"
    opened_journal, _, runner = opened(RealDisk(), segment_bytes=1024, directory=str(directory))
    for number in range(5):
        opened_journal.append("user:{id:int}", text(b"user:%d" % number, b"x" * 200))
        runner.turn()
    seq = opened_journal.append("page:", text(b"page:1", b"bad"))
    opened_journal.bury(DeadLetter("page:", b"page:1", seq, "23514", "check violated", 5, 0, text(b"page:1", b"bad")))
    opened_journal.begin_batch("main", [("user:{id:int}", b"user:1", 2)])
    runner.turn()
    opened_journal.close_nowait()
    return directory


@pytest.mark.parametrize("words", [("sql", "FILE"), ("check", "FILE"), ("journal", "inspect", "DIR"), ("version",)])
def test_output_whose_reader_has_gone_is_no_crash(
    file: Path, journal: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"FILE": str(file), "DIR": str(journal)}
    # Line by line, as a long output would be; and all of it at the end.
    for buffering, code in ((1, cli.READER_GONE), (1 << 16, cli.CLEAN)):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w", buffering, encoding="utf-8") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert cli.main([places.get(word, word) for word in words]) == code


def damage(journal: Path) -> Path:
    segment = min(journal.glob("journal-n1-0*.log"))
    content = bytearray(segment.read_bytes())
    content[300] ^= 1
    segment.write_bytes(content)
    return segment


def test_journal_inspect_tells_what_is_unsaved(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["journal", "inspect", str(journal)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node n1, 2 segments from 1 on"
    assert lines[1].startswith("  journal-n1-0000000001.log: ")
    assert lines[1].endswith("of 1024 bytes used, 3 frames, 3 records, sequences 1 to 3")
    assert lines[3].startswith("  journal-n1-dead.log: ")
    assert "unsaved: 5 keys" in lines
    assert any(line.startswith("  user:{id:int}: 5 keys, the oldest since 1970-01-01T00:16:40Z") for line in lines)
    assert "  8: 1 key to main" in lines
    assert any(line.startswith("  1: b'page:1' of page:, 1970-01-01") for line in lines)


def test_journal_verify_of_a_sound_one_is_exit_0(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["journal", "verify", str(journal)]) == 0
    assert capsys.readouterr().out == "sound: 3 files, 7 frames, 9 records\n"


def test_journal_repair_keeps_what_is_valid_and_moves_the_rest(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = damage(journal)
    for action in ("verify", "inspect"):
        assert cli.main(["journal", action, str(journal)]) == 3
        out = capsys.readouterr().out
        assert f"damaged: {segment.name}: offset" in out
        assert "the checksum of a frame" in out
        assert "lost: 1 record(s) from sequence 1" in out
    assert cli.main(["journal", "repair", str(journal)]) == 0
    assert f"the damaged bytes are in {segment}.damaged" in capsys.readouterr().out
    assert (journal / f"{segment.name}.damaged").stat().st_size > 200
    assert cli.main(["journal", "verify", str(journal)]) == 0
    assert cli.main(["journal", "repair", str(journal)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to repair"
    _, recovery, _ = opened(RealDisk(), segment_bytes=1024, directory=str(journal))
    for batch in recovery.batches:
        recovery.decide(batch.number, False)
    assert len(recovery.take_unsaved(0)) == 4


@pytest.mark.parametrize("action", ["inspect", "verify", "repair"])
def test_journal_that_is_not_there_or_in_use_is_exit_2(
    action: str, journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["journal", action, str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"forebay: {tmp_path / 'nowhere'}: No such file or directory\n"
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    assert cli.main(["journal", action, str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err == f"forebay: there is no journal in {tmp_path / 'empty'}\n"
    server, _, _ = opened(RealDisk(), segment_bytes=1024, directory=str(journal))
    assert cli.main(["journal", action, str(journal)]) == 2
    assert capsys.readouterr().err == f"forebay: another server has the journal in {journal}\n"
    server.close_nowait()


def test_version_as_an_option_is_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{first}\n"


def test_version_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("forebay ")
    assert lines[1] == f"python {'.'.join(str(part) for part in sys.version_info[:3])} (CPython)"
    assert lines[2] in ("interpreted", "compiled")
    assert lines[3].startswith("uvloop ")


# The process


def _start(argv: list[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(cwd), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as errors:
        return subprocess.Popen(argv, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=errors)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        ready = [line for line in log.read_text().splitlines() if " ready 127.0.0.1:" in line]
        if ready:
            return int(ready[0].rsplit(":", 1)[1])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def test_demo_serves_and_obeys_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; from server.cli import main; sys.exit(main())"]
    process = _start([*command, "serve", "--demo", "--port", "0"], tmp_path, log)
    try:
        with socket.create_connection(("127.0.0.1", _wait_ready(process, log)), 5) as client:
            client.sendall(b"HGET user:1 name\r\n")
            assert client.recv(100) == b"$3\r\nAda\r\n"
        assert list(tmp_path.glob("forebay-demo-*/shop.db"))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log.read_text()
    assert b"CACHE.EXPLAIN" in out
    assert not list(tmp_path.glob("forebay-demo-*"))


def test_address_in_use_is_exit_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-c", "import sys; from server.cli import main; sys.exit(main())", "serve"]
        log = tmp_path / "log"
        process = _start([*command, "--port", str(port)], tmp_path, log)
        process.communicate(timeout=30)
    assert process.returncode == 2, log.read_text()
    assert "Traceback" not in log.read_text()


# The scripts


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that looks installed, with a `forebay` that says how it was called."""
    root = tmp_path / "check out"
    (root / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "script", root / "script")
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, body in (("forebay", 'echo "$$ $*"'), ("python", f'exec {sys.executable} "$@"')):
        tool = root / ".venv" / "bin" / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    (root / ".venv" / "forebay-run.stamp").write_text(f"{root.resolve()}\n{(root / 'pyproject.toml').read_text()}")
    return root


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "serve --demo"),
        (["-c", "x y.toml"], "serve -c x y.toml"),
        (["--port", "0"], "serve --port 0"),
        (["serve", "--demo"], "serve --demo"),
        (["check", "f"], "check f"),
        (["sql", "f"], "sql f"),
        (["journal", "inspect", "d"], "journal inspect d"),
        (["version"], "version"),
    ],
)
def test_script_serve_runs_forebay_in_its_own_process(checkout: Path, argv: list[str], expected: str) -> None:
    process = subprocess.Popen([checkout / "script" / "serve", *argv], cwd="/", stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    # exec: the same process, so that signals reach the server.
    assert out == f"{process.pid} {expected}\n"


def test_script_setup_does_nothing_while_pyproject_is_the_same(checkout: Path) -> None:
    done = subprocess.run([checkout / "script" / "setup"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_script_setup_says_which_python_it_needs(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.2' && exit 0\nexit 1\n")
    old.chmod(0o755)
    # The path has a space in it, and $PYTHON is one path.
    done = subprocess.run(
        [checkout / "script" / "serve"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(old)},
    )
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert not (checkout / ".venv").exists()


def _script_test(checkout: Path, failing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (checkout / ".venv" / "forebay-run.stamp").rename(checkout / ".venv" / "forebay-test.stamp")
    for name in ("ruff", "mypy", "pytest"):
        tool = checkout / ".venv" / "bin" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*"\nexit {1 if name == failing else 0}\n')
        tool.chmod(0o755)
    # A redis-server that is found, so that nothing is installed.
    (checkout / "redis-server").symlink_to("/bin/true")
    environment = {**os.environ, "PATH": f"{checkout}:{os.environ['PATH']}"}
    return subprocess.run(
        [checkout / "script" / "test", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment,
    )


def test_script_test_runs_every_stage_and_ends_with_pytests_line(checkout: Path) -> None:
    done = _script_test(checkout, "", "-k", "a b")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("script/test")] == [
        "ruff format --check .",
        "ruff check .",
        "mypy ",
        "pytest -k a b",
    ]
    assert lines[-1] == "pytest -k a b"


@pytest.mark.parametrize(("failing", "named"), [("ruff", "format lint"), ("mypy", "types"), ("pytest", "tests")])
def test_script_test_fails_at_the_end_and_names_what_failed(checkout: Path, failing: str, named: str) -> None:
    done = _script_test(checkout, failing, "-k", "a b")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "pytest -k a b"
    assert done.stderr == f"script/test: FAILED: {named}\n"


def test_script_test_runs_what_measures_time_last_and_by_itself(checkout: Path) -> None:
    for name, line in (
        ("test_a", "@pytest.mark.serial"),
        ("test_b", "@pytest.mark.slow"),
        ("c", "@pytest.mark.serial"),
    ):
        (checkout / "tests" / "wire").mkdir(parents=True, exist_ok=True)
        (checkout / "tests" / "wire" / f"{name}.py").write_text(line)
    done = _script_test(checkout, "pytest")
    assert done.returncode == 1
    beside, alone = [line for line in done.stdout.splitlines() if line.startswith("pytest ")]
    assert re.fullmatch(r"pytest -m not serial -n \d+ --dist loadfile --no-loadscope-reorder tests", beside)
    assert alone == "pytest -m serial tests/wire/test_a.py"
    # The second stage runs although the first has failed.
    assert done.stderr == "script/test: FAILED: tests side by side tests one by one\n"


@pytest.mark.parametrize("script", ["serve", "test", "setup"])
def test_scripts_are_bash_that_parses_and_executable(script: str) -> None:
    path = ROOT / "script" / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
