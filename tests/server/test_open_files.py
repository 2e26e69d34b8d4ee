"""How many clients the limit of open files allows."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from server.open_files import OpenFiles
from tests.support.forebay import ForebayProcess
from tests.support.wire import RawClient

Limits = tuple[int, int]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Limits]]:
    """The process's limits, soft and hard; the last is the one in force."""
    known: list[Limits] = [(100, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _what: known[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, both: known.append(both))
    yield known


def test_limit_is_raised_to_what_is_wanted_and_no_further(limits: list[Limits]) -> None:
    files = OpenFiles(stores=10)
    assert files.clients(20) == 20
    assert limits == [(100, 1000)]
    assert files.clients(500) == 500
    assert limits[-1] == (574, 1000)


def test_hard_limit_bounds_the_clients(limits: list[Limits]) -> None:
    assert OpenFiles(stores=10).clients(10_000) == 1000 - 64 - 10
    assert limits[-1] == (1000, 1000)
    limits.append((50, 50))
    assert OpenFiles(stores=10).clients(10_000) == 1


def test_no_limit_allows_what_is_wanted(limits: list[Limits]) -> None:
    limits.append((100, resource.RLIM_INFINITY))
    assert OpenFiles(stores=0).clients(10_000) == 10_000
    assert limits[-1] == (10_064, resource.RLIM_INFINITY)
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert OpenFiles(stores=0).clients(1_000_000) == 1_000_000


def test_too_few_files_are_told_at_the_start_and_by_config_set() -> None:
    # (A child of this process inherits the limit.)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = hard + 1 if 0 < hard < 1_000_000 else None
    if wanted is None:
        pytest.skip("the hard limit of open files is above what max_clients may be")
    with ForebayProcess(f"[server]\nmax_clients = {wanted}\n") as server, RawClient(server.port) as client:
        (line,) = [line for line in server.log if "max_clients is" in line]
        assert line.endswith(f"max_clients is {wanted}, the limit of open files (ulimit -n) allows {hard - 64}")
        assert client.call("CONFIG", "GET", "maxclients") == [b"maxclients", str(hard - 64).encode()]
        refusal = client.call("CONFIG", "SET", "maxclients", str(hard))
        assert f"the limit of open files allows {hard - 64}" in str(refusal)
