"""The replay bench: its model flags what is wrong, and a short replay on a real PostgreSQL finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import replay
from bench.replay import Model, Report, Request, Traffic, body_of, errors_logged, load_trace, parse

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
# A generated trace does where the real one is not.
TRACE = "web12" if (TRACES / "web12.ctr.xz").exists() else "zipf"


def value(row: int, version: int) -> tuple[str, str]:
    return str(version), body_of(row, version)


def written(model: Model, row: int) -> int:
    version = model.send(row)
    model.acknowledge(row, version)
    return version


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_seed_is_right_at_first() -> None:
    model = Model(1)
    assert model.check_read(0, model.floor(0), False, value(0, 0)) is None
    assert model.check_stored(0, value(0, 0)) is None


def test_a_nil_is_wrong() -> None:
    model = Model(1)
    assert "nil" in (model.check_read(0, 0, False, None) or "")
    assert "nil" in (model.check_stored(0, None) or "")


def test_a_read_older_than_what_was_acknowledged_before_it_was_sent_is_stale() -> None:
    model = Model(1)
    written(model, 0)
    assert "stale" in (model.check_read(0, model.floor(0), False, value(0, 0)) or "")


def test_a_read_under_way_during_a_write_may_see_either_version() -> None:
    model = Model(1)
    floor = model.floor(0)
    version = model.send(0)
    assert model.check_read(0, floor, False, value(0, 0)) is None
    assert model.check_read(0, floor, False, value(0, version)) is None
    model.acknowledge(0, version)
    assert model.check_read(0, floor, False, value(0, 0)) is None


def test_a_version_seen_by_anybody_is_never_unseen() -> None:
    model = Model(1)
    version = model.send(0)
    assert model.check_read(0, model.floor(0), False, value(0, version)) is None
    assert "stale" in (model.check_read(0, model.floor(0), False, value(0, 0)) or "")


def test_a_version_that_was_never_sent_is_wrong() -> None:
    model = Model(1)
    assert "never sent" in (model.check_read(0, 0, False, value(0, 1)) or "")


def test_the_writer_reads_exactly_what_was_acknowledged_to_it() -> None:
    model = Model(1)
    floor = model.floor(0)
    written(model, 0)
    # The read was sent in the same pipeline, behind the write and before another one.
    model.send(0)
    assert model.check_read(0, floor, True, value(0, 1)) is None
    assert "its writer" in (model.check_read(0, floor, True, value(0, 0)) or "")
    assert "its writer" in (model.check_read(0, floor, True, value(0, 2)) or "")


def test_a_body_of_another_version_or_row_is_wrong() -> None:
    model = Model(2)
    written(model, 0)
    assert "with the body" in (model.check_read(0, 1, False, ("1", body_of(0, 0))) or "")
    assert "with the body" in (model.check_read(0, 1, False, ("1", body_of(1, 1))) or "")
    assert "no number" in (model.check_read(0, 1, False, ("one", body_of(0, 1))) or "")


def test_a_lost_write_is_wrong_in_postgresql() -> None:
    model = Model(1)
    written(model, 0)
    written(model, 0)
    assert "acknowledged was 2" in (model.check_stored(0, value(0, 1)) or "")
    assert model.check_stored(0, value(0, 2)) is None


def test_a_refused_write_may_appear_nowhere() -> None:
    model = Model(1)
    version = model.send(0)
    assert model.refuse(0, version) is None
    assert "refused" in (model.check_read(0, 0, False, value(0, version)) or "")
    assert "refused" in (model.check_stored(0, value(0, version)) or "")
    assert model.check_stored(0, value(0, 0)) is None


def test_a_write_that_was_seen_cannot_be_refused_afterwards() -> None:
    model = Model(1)
    version = model.send(0)
    assert model.check_read(0, 0, False, value(0, version)) is None
    assert "then refused" in (model.refuse(0, version) or "")


def test_a_write_of_unknown_outcome_may_have_happened_until_a_newer_one_is_acknowledged() -> None:
    model = Model(1)
    version = model.send(0)
    model.leave_open(0, version)
    for each in (0, version):
        assert model.check_read(0, 0, True, value(0, each)) is None
        assert model.check_stored(0, value(0, each)) is None
    written(model, 0)
    assert "acknowledged was 2" in (model.check_stored(0, value(0, version)) or "")


# -- the requests ------------------------------------------------------------------------------------------------------


def test_every_request_is_dealt_once_and_writes_go_to_the_owner() -> None:
    trace = load_trace("zipf", TRACES, 2_000, 7)
    traffic = Traffic(trace, clients=4, writes=0.5, seed=7, model=Model(max(trace) + 1))
    dealt: list[Request] = []
    idle = 0
    while idle < 4:
        idle = 0
        for client in range(4):
            batch = traffic.take(client, 8)
            idle += not batch
            assert all(traffic.owner(request.row) == client for request in batch if request.is_write)
            dealt += batch
    assert sorted(request.row for request in dealt) == sorted(trace)
    assert 800 < sum(request.is_write for request in dealt) < 1_200


def test_rows_of_the_generated_trace_are_dense_and_the_seed_decides() -> None:
    trace = load_trace("zipf", TRACES, 1_000, 1)
    assert set(trace) == set(range(max(trace) + 1))
    assert list(trace) == list(load_trace("zipf", TRACES, 1_000, 1)) != list(load_trace("zipf", TRACES, 1_000, 2))


def test_errors_and_tracebacks_in_the_servers_log_are_found() -> None:
    fine = "2026-01-31T12:00:00.250Z WARNING forebay.engine: store main cannot be reached yet"
    bad = "2026-01-31T12:00:00.250Z ERROR   forebay.dispatch: internal error in get, key [b'a']"
    assert errors_logged([fine, bad, "Traceback (most recent call last):"]) == [
        bad,
        "Traceback (most recent call last):",
    ]


def test_what_makes_no_sense_together_is_refused() -> None:
    with pytest.raises(SystemExit) as refused:
        parse(["--postgres", "postgresql://db/shop", "--stop-postgres-at", "0.5"])
    assert refused.value.code == 2


# -- the real thing ----------------------------------------------------------------------------------------------------


def replayed(*arguments: str) -> Report:
    options = parse(["--trace", TRACE, "--requests", "3000", *arguments])
    report = replay.replay(options)
    print(replay.show(options, report))
    assert (report.wrong, report.examples, report.stuck, report.logged) == (0, [], "", [])
    assert report.passed
    return report


@pytest.mark.postgres
def test_a_short_replay_finds_nothing_wrong_and_batches_its_misses(postgres_url: str) -> None:
    report = replayed("--postgres", postgres_url)
    assert report.requests == 3_000
    assert not report.errors
    assert 0 < report.counters["load_statements"] < report.counters["misses"]
    assert report.counters["load_rows"] == report.rows
    assert report.counters["dirty_keys"] == 0


@pytest.mark.postgres
def test_a_short_replay_with_too_little_memory_finds_nothing_wrong(postgres_url: str) -> None:
    report = replayed("--postgres", postgres_url, "--maxmemory", "200kb", "--writes", "0.3")
    # Rows were evicted and loaded again.
    assert report.counters["load_rows"] > report.rows


@pytest.mark.postgres
def test_a_short_replay_survives_the_loss_of_postgresql() -> None:
    report = replayed("--stop-postgres-at", "0.5", "--down-for", "1s")
    assert report.requests == 3_000 + sum(report.errors.values())
    assert report.errors["STOREDOWN"] > 0
