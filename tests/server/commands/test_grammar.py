"""What the grammar of a real redis-server allows, and nearly allows, is answered alike by a whole Forebay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.commands import grammar
from tests.server.commands import test_against_redis as harness
from tests.server.commands.differential import WireFamily
from tests.server.commands.test_against_redis import Redis
from tests.support.forebay import ForebayProcess

redis_port = harness.redis_port

SEEDS = 20


@pytest.fixture(scope="module")
def both(redis_port: int) -> Iterator[tuple[dict[int, Redis], dict[int, Redis]]]:
    """Connections to a Forebay and to a redis-server, by protocol."""
    with ForebayProcess() as server:
        pair = tuple({protocol: Redis(port, protocol) for protocol in (2, 3)} for port in (server.port, redis_port))
        yield pair[0], pair[1]
        for connections in pair:
            for connection in connections.values():
                connection.close()


def test_random_commands_of_the_grammar_get_the_same_replies(
    both: tuple[dict[int, Redis], dict[int, Redis]], redis_port: int
) -> None:
    ours, theirs = both
    described = grammar.described(redis_port)
    assert len(described) > 130
    family = WireFamily(theirs, ours, described, 0)
    for seed in range(SEEDS):
        family.run(seed)
    assert family.commands > SEEDS * grammar.STEPS
    assert not family.differences, str(family)


@pytest.mark.parametrize(
    "words",
    [
        ["xgroup", "SetId", "x", "g", "0", "junk"],
        ["XINFO", "stream", "x", "junk"],
        ["pubsub", "Channels", "a", "b"],
        ["ACL", "List", "junk", "more"],
        ["client", "Unblock", "1", "ERROR", "junk"],
        ["client", b"\xff\xfe"],
        [b"no\xffsuch", b"\xfe"],
    ],
    ids=str,
)
def test_refusals_quote_what_was_sent(
    both: tuple[dict[int, Redis], dict[int, Redis]], words: list[str | bytes]
) -> None:
    filled: list[str | bytes] = ["XGROUP", "CREATE", "x", "g", "0", "MKSTREAM"]
    commands = [[each if isinstance(each, bytes) else each.encode() for each in line] for line in (filled, words)]
    ours, theirs = (connections[2].run([[b"FLUSHALL"], *commands])[-1] for connections in both)
    assert ours == theirs
    assert ours.startswith(b"-ERR")
