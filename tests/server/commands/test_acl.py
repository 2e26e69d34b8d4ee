"""ACL over the wire: logging in, what takes effect when, what is refused before anything is loaded, files, secrets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.decoder import pack_command
from server.commands.table import COMMANDS
from server.gates import script_permission
from server.session import RESTRICTED
from tests.server.test_acl import redis  # noqa: F401 - a fixture
from tests.support.forebay import ROOT, ForebayProcess
from tests.support.node import running_node
from tests.support.wire import RawClient, client_list, wait_until

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess("[server]\nslowlog_log_slower_than = 0\n") as process:
        yield process


@pytest.fixture
def admin(server: ForebayProcess) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client
        for name in client.call("ACL", "USERS"):  # type: ignore[attr-defined]
            if name != b"default":
                client.call("ACL", "DELUSER", name)
        client.call("ACL", "LOG", "RESET")


def user(server: ForebayProcess, admin: RawClient, *rules: str) -> RawClient:
    """A connection that is logged in as a user with these rules."""
    assert admin.call("ACL", "SETUSER", "ann", "on", f">{SECRET}", *rules) == b"OK"
    client = RawClient(server.port)
    assert client.call("AUTH", "ann", SECRET) == b"OK"
    return client


def entries(admin: RawClient) -> list[dict[bytes, object]]:
    rows = admin.call("ACL", "LOG")
    assert isinstance(rows, list)
    return [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]


# -- logging in -------------------------------------------------------------------------------------------------------


def test_login_by_auth_and_by_hello(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+@connection", "+acl|whoami") as client:
        assert client.call("ACL", "WHOAMI") == b"ann"
        assert [fields["user"] for fields in client_list(admin)] == ["default", "ann"]
        assert client.call("RESET") == b"RESET"
        assert client.call("ACL", "WHOAMI") == b"default"
        assert str(client.call("HELLO", "2", "AUTH", "ann", "wrong")).startswith("WRONGPASS ")
        assert client.call("ACL", "WHOAMI") == b"default"
        assert isinstance(client.call("HELLO", "2", "AUTH", "ann", SECRET), list)
        assert client.call("ACL", "WHOAMI") == b"ann"
        assert str(client.call("AUTH", "nobody", SECRET)).startswith("WRONGPASS ")
    assert [(each[b"reason"], each[b"object"], each[b"username"]) for each in entries(admin)] == [
        (b"auth", b"AUTH", b"nobody"),
        (b"auth", b"HELLO", b"ann"),
    ]


def test_user_that_is_switched_off_cannot_log_in(server: ForebayProcess, admin: RawClient) -> None:
    user(server, admin, "+ping").close()
    assert admin.call("ACL", "SETUSER", "ann", "off") == b"OK"
    with RawClient(server.port) as client:
        assert str(client.call("AUTH", "ann", SECRET)).startswith("WRONGPASS ")


def test_default_user_that_is_off_lets_nobody_in_without_a_name() -> None:
    with ForebayProcess() as server, RawClient(server.port) as first:
        assert first.call("ACL", "SETUSER", "ann", "on", "nopass", "allkeys", "+@all") == b"OK"
        assert first.call("ACL", "SETUSER", "default", "off") == b"OK"
        with RawClient(server.port) as client:
            assert str(client.call("GET", "x")) == "NOAUTH Authentication required."
            assert str(client.call("HELLO", "3")).startswith("NOAUTH HELLO ")
            assert client.call("AUTH", "ann", "anything") == b"OK"
            assert client.call("GET", "x") is None


# -- what takes effect when -------------------------------------------------------------------------------------------


def test_refusals_and_their_log(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+get", "+mget", "+publish", "~own:*", "&news") as client:
        assert client.call("GET", "own:1") is None
        assert str(client.call("GET", "other")) == "NOPERM No permissions to access a key"
        assert str(client.call("MGET", "own:1", "other")) == "NOPERM No permissions to access a key"
        assert str(client.call("SET", "own:1", "v")) == "NOPERM User ann has no permissions to run the 'set' command"
        assert client.call("PUBLISH", "news", "x") == 0
        assert str(client.call("PUBLISH", "gossip", "x")) == "NOPERM No permissions to access a channel"
        assert "config|get" in str(client.call("CONFIG", "GET", "x"))
        # What is no command at all is told so, as to everybody.
        assert str(client.call("NONSENSE")).startswith("ERR unknown command")
        assert str(client.call("CONFIG", "NONSENSE")).startswith("ERR unknown subcommand")
        assert str(client.call("GET")) == "ERR wrong number of arguments for 'get' command"
    told = entries(admin)
    assert [(each[b"reason"], each[b"object"], each[b"count"]) for each in told] == [
        (b"command", b"config|get", 1),
        (b"channel", b"gossip", 1),
        (b"command", b"set", 1),
        (b"key", b"other", 2),
    ]
    assert all(each[b"username"] == b"ann" and each[b"context"] == b"toplevel" for each in told)
    assert all(b"user=ann" in each[b"client-info"] for each in told)  # type: ignore[operator]
    assert len(admin.call("ACL", "LOG", "2")) == 2  # type: ignore[arg-type]
    assert admin.call("ACL", "LOG", "RESET") == b"OK"
    assert entries(admin) == []


def test_changed_rules_are_true_of_the_next_command(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+@all", "allkeys", "allchannels") as client:
        assert client.call("SET", "x", "1") == b"OK"
        assert admin.call("ACL", "SETUSER", "ann", "-set") == b"OK"
        assert "'set'" in str(client.call("SET", "x", "2"))
        # Of one pipeline, too.
        client.send(b"".join(pack_command("GET", "x") for _ in range(3)))
        assert [client.reply() for _ in range(3)] == [b"1"] * 3
        assert admin.call("ACL", "SETUSER", "ann", "+set") == b"OK"
        assert client.call("SET", "x", "3") == b"OK"


def test_queued_commands_are_looked_at_when_queued_and_again_by_exec(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+@transaction", "+get", "+set", "+incr", "~own:*") as client:
        client.call("SET", "own:n", "1")
        assert client.call("MULTI") == b"OK"
        assert client.call("GET", "own:n") == b"QUEUED"
        assert str(client.call("GET", "other")) == "NOPERM No permissions to access a key"
        assert str(client.call("EXEC")).startswith("EXECABORT ")
        assert client.call("MULTI") == b"OK"
        assert client.call("INCR", "own:n") == b"QUEUED"
        assert client.call("GET", "own:n") == b"QUEUED"
        assert admin.call("ACL", "SETUSER", "ann", "-incr") == b"OK"
        replies = client.call("EXEC")
        assert isinstance(replies, list)
        assert str(replies[0]).startswith("NOPERM ACLs rules changed between the moment")
        assert str(replies[0]).endswith("no permission to execute the command or subcommand")
        assert replies[1] == b"1"
    assert [(each[b"context"], each[b"object"]) for each in entries(admin)] == [
        (b"multi", b"incr"),
        (b"multi", b"other"),
    ]


def test_blocked_client_is_refused_what_comes_when_it_may_not_take_it_any_more(
    server: ForebayProcess, admin: RawClient
) -> None:
    with user(server, admin, "+blpop", "allkeys") as client:
        client.send(pack_command("BLPOP", "queue", "0"))
        wait_until(lambda: any("b" in fields["flags"] for fields in client_list(admin)), "the blocked client")
        assert admin.call("ACL", "SETUSER", "ann", "-blpop") == b"OK"
        assert admin.call("RPUSH", "queue", "task") == 1
        assert str(client.reply()) == "NOPERM User ann has no permissions to run the 'blpop' command"
        assert admin.call("LPOP", "queue") == b"task"


def test_removed_user_loses_its_connections_and_its_remover_gets_the_reply(
    server: ForebayProcess, admin: RawClient
) -> None:
    with user(server, admin, "+ping") as client, user(server, admin, "+acl|deluser") as remover:
        assert remover.call("ACL", "DELUSER", "ann", "nobody") == 1
        assert client.receive_all() == b""
        assert remover.receive_all() == b""
    assert str(admin.call("ACL", "DELUSER", "default")) == "ERR The 'default' user cannot be removed"
    assert admin.call("ACL", "USERS") == [b"default"]


def test_listener_is_closed_when_it_may_not_hear_its_channel_any_more(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+subscribe", "+psubscribe", "&news", "&a*") as client:
        assert client.call("SUBSCRIBE", "news", "a1") == [b"subscribe", b"news", 1]
        assert client.reply() == [b"subscribe", b"a1", 2]
        assert client.call("PSUBSCRIBE", "a*") == [b"psubscribe", b"a*", 3]
        # Still allowed: nothing happens.
        assert admin.call("ACL", "SETUSER", "ann", "+ping") == b"OK"
        assert client.call("PING") == [b"pong", b""]
        assert admin.call("ACL", "SETUSER", "ann", "resetchannels", "&a*") == b"OK"
        assert client.receive_all() == b""


def test_client_kill_by_user(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+ping") as client:
        assert admin.call("CLIENT", "KILL", "USER", "ann") == 1
        assert client.receive_all() == b""
    assert admin.call("CLIENT", "KILL", "USER", "ann") == 0
    assert str(admin.call("CLIENT", "KILL", "USER", "nobody")) == "ERR No such user 'nobody'"


def test_sort_by_foreign_keys_needs_leave_to_read_all(server: ForebayProcess, admin: RawClient) -> None:
    with user(server, admin, "+sort", "~list") as client:
        assert client.call("SORT", "list", "ALPHA") == []
        assert client.call("SORT", "list", "BY", "nosort") == []
        denied = "option of SORT denied due to insufficient ACL permissions."
        assert str(client.call("SORT", "list", "BY", "w_*")) == f"ERR BY {denied}"
        assert str(client.call("SORT", "list", "LIMIT", "0", "1", "GET", "w_*")) == f"ERR GET {denied}"
        admin.call("ACL", "SETUSER", "ann", "%R~*")
        assert client.call("SORT", "list", "BY", "w_*", "GET", "w_*") == []


async def test_key_that_is_refused_is_not_loaded(tmp_path: Path) -> None:
    config = f"""
        [stores.main]
        url = "sqlite:///{tmp_path}/kv.db"
        [prefix."u:{{id}}"]
        store = "main"
        read = "read-through"
        write = "write-through"
    """
    async with running_node(config) as node:
        client = await _Wire.connect(node.listener.port)
        await client.call("ACL", "SETUSER", "ann", "on", "nopass", "+@all", "~u:1", "%W~u:2")
        assert await client.call("AUTH", "ann", "x") == b"+OK"
        before = node.engine.stores["main"].stats()
        for words in (("GET", "u:2"), ("MGET", "u:1", "u:3"), ("CACHE.LOAD", "u:3"), ("SET", "u:3", "v")):
            assert await client.call(*words) == b"-NOPERM No permissions to access a key"
        # Those behind a refused command in a pipeline are not looked up ahead, either.
        client.writer.write(pack_command("GET", "u:2") + pack_command("GET", "u:3"))
        assert (await client.line(), await client.line()) == (b"-NOPERM No permissions to access a key",) * 2
        assert node.engine.stores["main"].stats() == before
        assert await client.call("GET", "u:1") == b"$-1"
        assert node.engine.stores["main"].stats() != before
        client.writer.close()


async def test_only_sessions_of_restricted_users_leave_the_short_road() -> None:
    async with running_node("") as node:
        client = await _Wire.connect(node.listener.port)
        assert await client.call("PING") == b"+PONG"
        session = next(iter(node.peers.by_id.values())).session
        assert session.state == 0
        acl = node.access.acl
        acl.set_user(session, b"ann", [b"on", b"nopass", b"+@all", b"~*"])
        assert await client.call("AUTH", "ann", "x") == b"+OK"
        assert session.state == RESTRICTED
        acl.set_user(session, b"ann", [b"allchannels"])
        assert session.state == 0
        acl.set_user(session, b"ann", [b"-flushall"])
        assert session.state == RESTRICTED
        client.writer.close()


async def test_what_a_script_calls_is_checked_for_its_client() -> None:
    async with running_node("") as node:
        client = await _Wire.connect(node.listener.port)
        assert await client.call("PING") == b"+PONG"
        session = next(iter(node.peers.by_id.values())).session
        get, words = COMMANDS["get"], [b"get", b"other"]
        assert script_permission(session, get, words) is None
        node.access.acl.set_user(session, b"default", [b"resetkeys", b"~own:*"])
        assert script_permission(session, get, [b"get", b"own:1"]) is None
        refusal = script_permission(session, get, words)
        assert refusal is not None
        assert refusal.message == "NOPERM ACL failure in script: No permissions to access a key"
        assert [record.place for record in node.access.acl.log] == [b"lua"]
        client.writer.close()


class _Wire:
    """A client in the test's own loop that reads replies of one line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> _Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def line(self) -> bytes:
        return (await self.reader.readuntil(b"\r\n"))[:-2]

    async def call(self, *words: str) -> bytes:
        self.writer.write(pack_command(*words))
        return await self.line()


# -- shapes of replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2", "3"])
def test_replies_have_the_shape_that_redis_gives_them(
    server: ForebayProcess,
    admin: RawClient,
    redis: RawClient,  # noqa: F811
    version: str,
) -> None:
    with RawClient(server.port) as ours, RawClient(redis.sock.getpeername()[1]) as theirs:
        for client in (ours, theirs):
            client.call("ACL", "SETUSER", "shape", "reset", "on", "nopass", "skip-sanitize-payload", "~a", "(+get ~b)")
            client.call("AUTH", "shape", "x")
            client.call("AUTH", "default", "")
            client.call("ACL", "LOG", "RESET")
            client.call("AUTH", "shapeless", "x")
            client.call("HELLO", version)
        for words in (
            ("ACL", "GETUSER", "shape"),
            ("ACL", "GETUSER", "nobody"),
            ("ACL", "WHOAMI"),
            ("ACL", "LOG"),
            ("ACL", "LOG", "x"),
            ("ACL", "GENPASS", "0"),
            ("ACL", "GENPASS", "4097"),
            ("ACL", "GENPASS", "x"),
            ("ACL", "GENPASS", "1", "2"),
            ("ACL", "CAT", "nonsense"),
            ("ACL", "CAT", "a", "b"),
            ("ACL", "SETUSER", "a b"),
            ("ACL", "SETUSER", "ann", "(~x"),
            ("ACL", "DELUSER", "default"),
            ("ACL", "DELUSER", "nobody"),
            ("ACL", "DRYRUN", "nobody", "get"),
            ("ACL", "DRYRUN", "shape", "nonsense"),
            ("ACL", "DRYRUN", "shape", "get"),
            ("ACL", "NONSENSE"),
        ):
            assert _shape(ours, words) == _shape(theirs, words), words
        redis.call("ACL", "DELUSER", "shape")


def _shape(client: RawClient, words: tuple[str, ...]) -> object:
    # What a clock or a version decides is left out.
    reply = client.call(*words)
    if words[:2] == ("ACL", "LOG") and isinstance(reply, list):
        row = reply[0]
        pairs = row.items() if isinstance(row, dict) else zip(row[::2], row[1::2], strict=True)
        kept = {b"count", b"reason", b"context", b"object", b"username"}
        found = {name: value for name, value in pairs if name in kept}
        age = dict(row.items() if isinstance(row, dict) else zip(row[::2], row[1::2], strict=True))[b"age-seconds"]
        return found, type(row), type(age)
    return str(reply) if isinstance(reply, Exception) else reply


def test_generated_passwords_have_the_bits_asked_for_and_are_never_the_same(admin: RawClient) -> None:
    found = {admin.call("ACL", "GENPASS") for _ in range(20)}
    assert len(found) == 20
    assert {len(each) for each in found} == {64}  # type: ignore[arg-type]
    for bits, digits in ((1, 1), (4, 1), (5, 2), (128, 32), (4096, 1024)):
        assert len(admin.call("ACL", "GENPASS", bits)) == digits  # type: ignore[arg-type]


def test_categories_hold_the_commands_that_command_list_finds_for_them(admin: RawClient) -> None:
    categories = admin.call("ACL", "CAT")
    assert isinstance(categories, list)
    assert {b"read", b"dangerous", b"cache"} <= set(categories)
    for name in categories:
        listed = admin.call("COMMAND", "LIST", "FILTERBY", "ACLCAT", name)
        assert sorted(admin.call("ACL", "CAT", name)) == sorted(listed)  # type: ignore[call-overload]


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_password_is_shown_anywhere(server: ForebayProcess, admin: RawClient) -> None:
    with RawClient(server.port) as watcher:
        assert watcher.call("MONITOR") == b"OK"
        admin.call("SLOWLOG", "RESET")
        told = [
            admin.call("ACL", "SETUSER", "ann", "on", f">{SECRET}", "+ping"),
            admin.call("ACL", "SETUSER", "ann", f"<{SECRET}x"),
            admin.call("ACL", "SETUSER", "ann", f"#{SECRET}"),
            admin.call("ACL", "SETUSER", "ann", "nonsense", f">{SECRET}"),
        ]
        with RawClient(server.port) as client:
            told.append(client.call("AUTH", "ann", SECRET))
            told.append(client.call("AUTH", "ann", SECRET + "x"))
            told.append(client.call("HELLO", "3", "AUTH", "ann", SECRET))
            told.append(client.call("AUTH", SECRET))
        for words in (("ACL", "LIST"), ("ACL", "GETUSER", "ann"), ("ACL", "LOG"), ("CLIENT", "LIST"), ("INFO", "all")):
            told += [admin.call(*words)]
        told.append(admin.call("SLOWLOG", "GET", "100"))
        assert len(told[-1]) > 8  # type: ignore[arg-type]
        told.append(admin.call("ECHO", "the end"))
        shown = b""
        while b"the end" not in shown:
            shown += watcher.sock.recv(1 << 16)
        assert b"(redacted)" in shown or b"AUTH" in shown
    assert SECRET not in repr(told)
    assert SECRET.encode() not in shown
    assert SECRET not in "\n".join(server.log)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_users_of_the_file_are_there_from_the_start_and_are_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_text(f"# people\nuser ann on >{SECRET} ~own:* +@read\n")
    config = f'[server]\nacl_file = "{path}"\n'
    with ForebayProcess(config) as server, RawClient(server.port) as admin:
        assert admin.call("CONFIG", "GET", "aclfile") == [b"aclfile", str(path).encode()]
        with RawClient(server.port) as client:
            assert client.call("AUTH", "ann", SECRET) == b"OK"
            assert client.call("GET", "own:1") is None
            assert admin.call("ACL", "SETUSER", "bob", "on", "nopass", "+ping") == b"OK"
            assert admin.call("ACL", "SAVE") == b"OK"
            saved = path.read_text()
            assert [line.split()[1] for line in saved.splitlines()] == ["ann", "bob", "default"]
            assert SECRET not in saved
            assert path.stat().st_mode & 0o777 == 0o600
            # A file with a mistake changes nothing.
            path.write_text("user ann on +nonsense\n")
            refused = str(admin.call("ACL", "LOAD"))
            assert f"{path}:1: user ann: '+nonsense': Unknown command or category name in ACL" in refused
            assert admin.call("ACL", "USERS") == [b"ann", b"bob", b"default"]
            assert client.call("GET", "own:1") is None
            path.write_text("user carl on nopass +ping\n")
            assert admin.call("ACL", "LOAD") == b"OK"
            assert admin.call("ACL", "USERS") == [b"carl", b"default"]
            assert client.receive_all() == b""
            # SIGHUP does the same.
            path.write_text("user dora on nopass +ping\n")
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: admin.call("ACL", "USERS") == [b"default", b"dora"], "the reload")
            path.write_text("user dora nonsense\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: any("reload refused" in line for line in server.log), "the refusal")
            assert admin.call("ACL", "USERS") == [b"default", b"dora"]


def test_without_a_file_save_and_load_say_so(admin: RawClient) -> None:
    for word in ("SAVE", "LOAD"):
        assert "not configured to use an ACL file" in str(admin.call("ACL", word))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist (server.acl_file)"),
        ("user ann on\nuser bob +nonsense\n", "users.acl:2: user bob: '+nonsense': Unknown command"),
        ("user ann on >a (~x\n", "users.acl:1: Unmatched parenthesis"),
    ],
)
def test_file_that_cannot_be_used_keeps_the_server_from_starting(
    tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "users.acl"
    if content is not None:
        path.write_text(content)
    config = tmp_path / "forebay.toml"
    config.write_text(f'[server]\nport = 0\nacl_file = "{path}"\n')
    result = subprocess.run(
        [sys.executable, "-c", "import sys; from server.cli import main; sys.exit(main())", "serve", "-c", str(config)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert said in result.stderr
