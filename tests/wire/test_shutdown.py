"""The process from outside: what it says when it is ready, signals, exit codes, reload, and the HTTP port."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.decoder import ReplyError
from tests.support.forebay import ForebayProcess
from tests.support.wire import DEADLINE_S, RawClient, client_list, info_field, wait_until

LARGE = os.urandom(1 << 20)
LARGE_REPLY = b"$%d\r\n" % len(LARGE) + LARGE + b"\r\n"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def _signal(server: ForebayProcess, number: int) -> None:
    assert server.process is not None
    server.process.send_signal(number)


def _exit_code(server: ForebayProcess) -> int:
    assert server.process is not None
    return server.process.wait(DEADLINE_S)


def _runs(server: ForebayProcess) -> bool:
    assert server.process is not None
    return server.process.poll() is None


def _wait_logged(server: ForebayProcess, text: str) -> None:
    wait_until(lambda: any(text in line for line in server.log), f"{text!r} in the log")


def _refuses(server: ForebayProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def _slow_reader(server: ForebayProcess, commands: int) -> RawClient:
    """A client who is owed large values and does not read them."""
    slow = RawClient(server.port, receive_buffer=4096)
    number = slow.call("CLIENT", "ID")
    assert slow.call("SET", "large", LARGE) == b"OK"
    slow.send(b"GET large\r\n" * commands)
    with RawClient(server.port) as witness:
        wait_until(
            lambda: any(line["id"] == str(number) and int(line["omem"]) > 0 for line in client_list(witness)),
            "output that nobody reads",
        )
    return slow


def test_ready_line_names_every_address(tmp_path: Path) -> None:
    config = f'[server]\nunix_socket = "{tmp_path}/s"\n[http]\nbind = "127.0.0.1:0"\n'
    with ForebayProcess(config) as server:
        (line,) = [line for line in server.log if "ready" in line]
        assert re.fullmatch(
            rf"{TIME} INFO    forebay: ready 127\.0\.0\.1:\d+ unix:{tmp_path}/s http://127\.0\.0\.1:\d+", line
        )
        assert len(set(server.addresses)) == 3


def test_line_before_it_says_what_is_served() -> None:
    config = '[stores.main]\nurl = "memory:"\n[prefix."a:"]\nstore = "main"\nread = "read-through"\n'
    with ForebayProcess(config) as server:
        assert server.process is not None
        (line,) = [line for line in server.log if "process" in line]
        what = f"process {server.process.pid}: {re.escape(str(server.path))}; rules: 1; stores: main"
        assert re.fullmatch(rf"{TIME} INFO    forebay: version \S+, (interpreted|compiled), {what}", line)


@pytest.mark.parametrize("bind", ['"127.0.0.1"', '"127.0.0.1", "::1"'])
def test_plain_cache_has_one_thread(bind: str) -> None:
    # With more of them a write costs more.
    with ForebayProcess(f"[server]\nbind = [{bind}]\n") as server, RawClient(server.port) as client:
        assert client.call("PING") == b"PONG"
        assert len(server.addresses) == bind.count(",") + 1
        assert server.process is not None
        assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) == 1


def test_name_is_looked_up_and_listened_on() -> None:
    with ForebayProcess('[server]\nbind = ["localhost"]\n') as server, RawClient(server.port) as client:
        assert client.call("PING") == b"PONG"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly(number: signal.Signals) -> None:
    with ForebayProcess() as server, RawClient(server.port) as client:
        assert client.call("PING") == b"PONG"
        _signal(server, number)
        assert client.receive_all() == b""
        assert _exit_code(server) == 0
        _wait_logged(server, f"{number.name}: draining")
        _wait_logged(server, "stopped cleanly")
        assert _refuses(server)


def test_sigterm_lets_a_slow_reader_have_its_answers() -> None:
    with ForebayProcess('[server]\nshutdown_timeout = "10m"\n') as server, _slow_reader(server, 30) as slow:
        _signal(server, signal.SIGTERM)
        # No newcomers, while the slow one is still served.
        wait_until(lambda: _refuses(server), "the listener to be closed")
        assert _runs(server)
        assert slow.receive_all() == LARGE_REPLY * 30
        assert _exit_code(server) == 0


def test_reader_who_never_reads_does_not_hold_the_shutdown_longer_than_allowed() -> None:
    with ForebayProcess('[server]\nshutdown_timeout = "300ms"\n') as server, _slow_reader(server, 30):
        _signal(server, signal.SIGTERM)
        assert _exit_code(server) == 0


def test_second_signal_exits_at_once() -> None:
    with ForebayProcess('[server]\nshutdown_timeout = "10m"\n') as server, _slow_reader(server, 30):
        _signal(server, signal.SIGTERM)
        _wait_logged(server, "SIGTERM: draining")
        assert _runs(server)
        _signal(server, signal.SIGTERM)
        assert _exit_code(server) == 0
        _wait_logged(server, "second signal: exiting now with 0 unsaved writes")
        assert not any("stopped cleanly" in line for line in server.log)


def test_shutdown_command() -> None:
    with ForebayProcess() as server, RawClient(server.port) as client, RawClient(server.port) as other:
        for words in (("SHUTDOWN", "MAYBE"), ("SHUTDOWN", "SAVE", "NOSAVE"), ("SHUTDOWN", "ABORT")):
            assert isinstance(client.call(*words), ReplyError)
        assert other.call("PING") == b"PONG"
        # What was sent before is answered, the command itself is not.
        client.send(b"SET k 1\r\nSHUTDOWN\r\n")
        assert client.receive_all() == b"+OK\r\n"
        assert other.receive_all() == b""
        assert _exit_code(server) == 0
        _wait_logged(server, "stopped cleanly")


WRITE_BEHIND = """
    [server]
    shutdown_timeout = "2s"
    [stores.main]
    url = "sqlite:///{path}"
    [prefix."u:{{id}}"]
    store = "main"
    read = "read-through"
    write = "write-behind"
    ttl = "1h"
    write_delay = "10m"
"""


def _saved(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("select count(*) from forebay_kv").fetchone()[0])
    finally:
        connection.close()


def test_sigterm_saves_what_is_unsaved(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with ForebayProcess(WRITE_BEHIND.format(path=path)) as server, RawClient(server.port) as client:
        for number in range(100):
            assert client.call("SET", f"u:{number}", "v") == b"OK"
        assert info_field(client, "persistence", "unsaved_writes") == 100
        assert server.stop() == 0
    assert _saved(path) == 100


def test_sigterm_saves_what_is_unsaved_although_somebody_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with (
        ForebayProcess(WRITE_BEHIND.format(path=path)) as server,
        RawClient(server.port) as client,
        _slow_reader(server, 30),
    ):
        for number in range(100):
            assert client.call("SET", f"u:{number}", "v") == b"OK"
        assert server.stop() == 0
        assert _saved(path) == 100


# -- configurations that cannot be used -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[server]\nprot = 1\n", "server.prot"),
        ("[server]\nport = 70000\n", "server.port"),
        ("[server\n", "forebay.toml"),
        ('[prefix."a:{id}"]\nstore = "nowhere"\n', "nowhere"),
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_2(config: str, said: str) -> None:
    server = ForebayProcess(config)
    try:
        with pytest.raises(RuntimeError, match="ended with 2"):
            server.start()
        assert len(server.log) == 1, server.log
        assert server.log[0].startswith("forebay: ")
        assert said in server.log[0]
    finally:
        server.path.unlink(missing_ok=True)


def test_address_in_use_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = ForebayProcess(arguments=["serve", "--port", str(port)])
        with pytest.raises(RuntimeError, match="ended with 2"):
            server.start()
        assert len(server.log) == 1, server.log
        assert f"cannot listen on 127.0.0.1:{port}" in server.log[0]
        assert "in use" in server.log[0]


# -- reload -----------------------------------------------------------------------------------------------------------


def test_sighup_with_a_good_file_changes_and_with_a_bad_one_changes_nothing() -> None:
    with ForebayProcess("[server]\nmax_clients = 100\n") as server, RawClient(server.port) as client:

        def limit() -> object:
            reply = client.call("CONFIG", "GET", "maxclients", "timeout", "maxmemory")
            assert isinstance(reply, list)
            return dict(zip(reply[::2], reply[1::2], strict=True))

        before = limit()
        assert before == {b"maxclients": b"100", b"maxmemory": b"0", b"timeout": b"0"}
        bad_files = [
            "[server]\nmax_clients = 50\nnosuch = 1\n",
            "[server]\nmax_clients = 50\n[",
            '[server]\nmax_clients = 50\n[prefix."a:{id}"]\nstore = "nowhere"\n',
        ]
        for number, text in enumerate(bad_files, 1):
            server.path.write_text(text)
            _signal(server, signal.SIGHUP)
            wait_until(
                lambda: sum("reload refused, nothing changed" in line for line in server.log) == number,  # noqa: B023
                f"refusal {number} in the log",
            )
            assert limit() == before
        server.path.unlink()
        _signal(server, signal.SIGHUP)
        wait_until(lambda: sum("reload refused" in line for line in server.log) == len(bad_files) + 1, "a refusal")
        assert limit() == before

        server.path.write_text('[server]\nmax_clients = 2\ntimeout = "90s"\n[memory]\nmaxmemory = "1mb"\n')
        _signal(server, signal.SIGHUP)
        _wait_logged(server, "configuration reloaded: 0 rules")
        assert limit() == {b"maxclients": b"2", b"maxmemory": b"1048576", b"timeout": b"90"}
        with RawClient(server.port) as second, RawClient(server.port) as third:
            assert second.call("PING") == b"PONG"
            assert third.receive_all() == b"-ERR max number of clients reached\r\n"

        # A password that comes with a reload is asked of newcomers; who is in stays in.
        server.path.write_text('[server]\npassword = "sesame"\n')
        _signal(server, signal.SIGHUP)
        wait_until(lambda: sum("configuration reloaded" in line for line in server.log) == 2, "the second reload")
        assert limit() == {b"maxclients": b"10000", b"maxmemory": b"0", b"timeout": b"0"}
        with RawClient(server.port) as newcomer:
            assert str(newcomer.call("PING")) == "NOAUTH Authentication required."
        assert "sesame" not in "\n".join(server.log)


def test_sighup_brings_and_takes_prefix_rules(tmp_path: Path) -> None:
    rules = WRITE_BEHIND.format(path=tmp_path / "kv.db")
    without = rules[: rules.index("[prefix")]
    with ForebayProcess(without) as server, RawClient(server.port) as client:
        assert client.call("CACHE.RULES") == []
        server.path.write_text(rules)
        _signal(server, signal.SIGHUP)
        _wait_logged(server, "configuration reloaded: 1 rules")
        shown = client.call("CACHE.RULES")
        assert isinstance(shown, list)
        assert len(shown) == 1
        assert client.call("SET", "u:1", "v") == b"OK"
        # Taking the rule away saves what was written under it.
        server.path.write_text(without)
        _signal(server, signal.SIGHUP)
        _wait_logged(server, "configuration reloaded: 0 rules")
        assert client.call("CACHE.RULES") == []
        assert _saved(tmp_path / "kv.db") == 1


def test_sighup_without_a_file_is_logged_and_harmless() -> None:
    with ForebayProcess(arguments=["serve", "--port", "0"]) as server, RawClient(server.port) as client:
        _signal(server, signal.SIGHUP)
        _wait_logged(server, "SIGHUP: there is no configuration file to reload")
        assert client.call("PING") == b"PONG"


# -- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def observed() -> Iterator[ForebayProcess]:
    with ForebayProcess('[server]\nshutdown_timeout = "10m"\n[http]\nbind = "127.0.0.1:0"\n') as running:
        yield running


def _get(server: ForebayProcess, path: str) -> tuple[int, str]:
    (address,) = [each for each in server.addresses if each.startswith("http://")]
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=DEADLINE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_http_says_healthy_ready_and_what_was_done_and_not_ready_while_it_drains(observed: ForebayProcess) -> None:
    assert _get(observed, "/health") == (200, "ok\n")
    assert _get(observed, "/ready") == (200, "ready\n")
    with RawClient(observed.port) as client:
        for _ in range(3):
            client.call("GET", "nope")
        status, text = _get(observed, "/metrics")
        assert status == 200
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        connected = [name for name in samples if "clients" in name]
        assert connected, text
        assert any(float(samples[name]) == 1 for name in connected)
    assert _get(observed, "/nothing")[0] == 404
    with _slow_reader(observed, 30) as slow:
        _signal(observed, signal.SIGTERM)
        wait_until(lambda: _get(observed, "/ready") == (503, "not ready\n"), "not ready")
        assert _get(observed, "/health") == (200, "ok\n")
        assert len(slow.receive_all()) == 30 * len(LARGE_REPLY)
    assert _exit_code(observed) == 0
