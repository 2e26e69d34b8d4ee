"""What a server without cluster, replicas and modules answers: the same as a real redis-server without them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.commands.test_against_redis import redis_port  # noqa: F401 - a fixture
from tests.support.forebay import ForebayProcess
from tests.support.wire import RawClient


@pytest.fixture(scope="module")
def ours() -> Iterator[RawClient]:
    with ForebayProcess() as server, RawClient(server.port) as client:
        yield client


@pytest.fixture
def theirs(redis_port: int) -> Iterator[RawClient]:  # noqa: F811
    with RawClient(redis_port) as client:
        yield client


LINES = (
    "CLUSTER INFO", "CLUSTER SLOTS", "CLUSTER SHARDS", "cluster nodes", "CLUSTER KEYSLOT a", "CLUSTER HELP",
    "CLUSTER NOSUCH", "CLUSTER", "ASKING", "READONLY", "READWRITE", "READONLY x",
    "ROLE", "REPLICAOF NO ONE", "slaveof no one", "REPLICAOF host 70000", "REPLICAOF host -1", "REPLICAOF host x",
    "REPLICAOF host", "FAILOVER", "FAILOVER ABORT", "FAILOVER TO host 1", "FAILOVER TIMEOUT x",
    "MODULE LIST", "MODULE", "MODULE NOSUCH", "MODULE LOAD", "MODULE UNLOAD", "WAIT 0 10",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_answers_are_those_of_a_redis_that_stands_alone(ours: RawClient, theirs: RawClient, line: str) -> None:
    mine, other = ours.call(*line.split()), theirs.call(*line.split())
    assert (type(mine), str(mine)) == (type(other), str(other))


@pytest.mark.parametrize(
    "line", ["REPLICAOF 127.0.0.1 6379", "MODULE LOAD /x.so", "MODULE LOADEX /x.so", "MODULE UNLOAD x"]
)
def test_what_cannot_be_had_is_refused(ours: RawClient, line: str) -> None:
    assert str(ours.call(*line.split())).startswith("ERR ")
    assert ours.call("ROLE") == [b"master", 0, []]
