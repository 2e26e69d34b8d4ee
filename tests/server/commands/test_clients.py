"""CLIENT and its subcommands."""

from __future__ import annotations

import pytest

from protocol.replies import NO_REPLY
from server.acl_rules import User
from tests.server.commands.test_connection import Client, FakeServer, plain


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    """Number 7, among a master 1, a replica 2, a subscriber 3, and 4, an old client of another user."""
    server.clients.add(1, flags="M")
    server.clients.add(2, flags="S")
    server.clients.add(3, flags="P")
    server.clients.add(4, user="ann", age="500", laddr="10.0.0.1:6379")
    return Client(server)


def listed(reply: object) -> list[int]:
    """The numbers of the clients in a listing."""
    assert isinstance(reply, str)
    return [int(line.split(" ")[0].removeprefix("id=")) for line in reply.splitlines()]


def test_id_and_name(client: Client) -> None:
    assert client.run("CLIENT ID") == 7
    assert client.run("CLIENT GETNAME") is None
    assert client.run("CLIENT SETNAME worker") == "+OK"
    assert client.run("CLIENT GETNAME") == b"worker"
    assert plain(client.call([b"CLIENT", b"SETNAME", b""])) == "+OK"
    assert client.run("CLIENT GETNAME") is None


@pytest.mark.parametrize("name", [b"two words", b"line\nbreak", b"\x7f", "caf\u00e9".encode()])
def test_a_name_that_would_break_the_listing_is_refused(client: Client, name: bytes) -> None:
    client.run("CLIENT SETNAME before")
    reply = plain(client.call([b"CLIENT", b"SETNAME", name]))
    assert reply == "-ERR Client names cannot contain spaces, newlines or special characters."
    assert client.name == b"before"


def test_setinfo_notes_library_and_version(client: Client) -> None:
    assert client.run("CLIENT SETINFO LIB-NAME redis-py") == "+OK"
    assert client.run("CLIENT SETINFO lib-ver 5.0.1") == "+OK"
    assert (client.lib_name, client.lib_ver) == (b"redis-py", b"5.0.1")
    assert client.run("CLIENT SETINFO color red") == "-ERR Unrecognized option 'color'"
    refused = plain(client.call([b"CLIENT", b"SETINFO", b"lib-name", b"a b"]))
    assert refused == "-ERR lib-name cannot contain spaces, newlines or special characters."
    assert client.lib_name == b"redis-py"


def test_a_line_of_the_listing_joins_the_fields_in_order(client: Client) -> None:
    expected = "id=7 addr=127.0.0.1:5007 laddr=127.0.0.1:6379 name= age=0 flags=N user=default\n"
    assert client.run("CLIENT INFO") == expected
    listing = client.run("CLIENT LIST")
    assert isinstance(listing, str)
    assert listing.endswith(expected)
    assert listed(listing) == [1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("kind", "expected"), [("normal", [4, 7]), ("MASTER", [1]), ("replica", [2]), ("slave", [2]), ("pubsub", [3])]
)
def test_list_by_type(client: Client, kind: str, expected: list[int]) -> None:
    assert listed(client.run(f"CLIENT LIST TYPE {kind}")) == expected


def test_list_by_id_keeps_the_order_asked_for_and_leaves_out_the_unknown(client: Client) -> None:
    assert listed(client.run("CLIENT LIST ID 4 99 1")) == [4, 1]
    assert client.run("CLIENT LIST ID 99") == ""


@pytest.mark.parametrize(
    ("options", "killed"),
    [
        ("ID 3", [3]),
        ("TYPE normal", [4]),
        ("USER ann", [4]),
        ("USER default", [1, 2, 3]),
        ("ADDR 127.0.0.1:5002", [2]),
        ("LADDR 10.0.0.1:6379", [4]),
        ("MAXAGE 100", [4]),
        ("MAXAGE 501", []),
        ("LADDR 127.0.0.1:6379 TYPE pubsub", [3]),
        ("ID 3 TYPE normal", []),
        ("SKIPME yes", [1, 2, 3, 4]),
        ("ID 7", []),
    ],
)
def test_kill_closes_those_that_fit_every_filter(client: Client, options: str, killed: list[int]) -> None:
    client.fake.acl.users[b"ann"] = User(b"ann")
    assert client.run(f"CLIENT KILL {options}") == len(killed)
    assert client.fake.clients.killed == killed
    assert not client.close_after_reply


def test_killing_oneself_closes_after_the_reply(client: Client) -> None:
    assert client.run("CLIENT KILL ID 7 SKIPME no") == 1
    assert client.close_after_reply
    assert client.fake.clients.killed == []


def test_kill_by_address_in_the_old_form_may_hit_oneself(client: Client) -> None:
    assert client.run("CLIENT KILL 127.0.0.1:5003") == "+OK"
    assert client.fake.clients.killed == [3]
    assert client.run("CLIENT KILL 127.0.0.1:5007") == "+OK"
    assert client.close_after_reply
    assert client.run("CLIENT KILL 127.0.0.1:1") == "-ERR No such client"


def test_kill_refuses_wrong_options_before_it_closes_anybody(client: Client) -> None:
    assert client.run("CLIENT KILL TYPE normal MAXAGE x") == "-ERR maxage is not an integer or out of range"
    assert client.run("CLIENT KILL TYPE normal MAXAGE 0") == "-ERR maxage should be greater than 0"
    assert client.run("CLIENT KILL TYPE normal FOO bar") == "-ERR syntax error"
    assert client.fake.clients.killed == []


def test_reply_modes(client: Client) -> None:
    assert client.run("CLIENT REPLY SKIP") is NO_REPLY
    assert client.asking_reply == "skip"
    assert client.run("CLIENT REPLY OFF") is NO_REPLY
    assert client.asking_reply == "off"
    assert client.run("CLIENT REPLY SKIP") is NO_REPLY
    assert client.asking_reply == "off", "SKIP while replies are off must not turn them on afterwards"
    assert client.run("CLIENT REPLY ON") == "+OK"
    assert client.asking_reply == "on"


def test_no_evict_and_no_touch(client: Client) -> None:
    assert client.run("CLIENT NO-EVICT on") == "+OK"
    assert client.run("CLIENT NO-TOUCH ON") == "+OK"
    assert (client.no_evict, client.no_touch) == (True, True)
    assert client.run("CLIENT NO-EVICT OFF") == "+OK"
    assert client.run("CLIENT NO-TOUCH maybe") == "-ERR syntax error"
    assert (client.no_evict, client.no_touch) == (False, True)


def test_help_names_every_subcommand(client: Client) -> None:
    reply = client.run("CLIENT HELP")
    assert isinstance(reply, list)
    assert reply[0] == "+CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert "+REPLY <ON | OFF | SKIP>" in reply
    assert "+HELP" in reply
