"""bench/read_through.py on a few rows: every answer is right, and the statements are those that PostgreSQL saw."""

from __future__ import annotations

from statistics import median

import pytest

from bench.applications import TABLE
from bench.read_through import CEILINGS, JOBS, ceiling, keys_of, measure, parse, seed, show
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

ROWS = 200


def test_every_job_gets_every_value_with_the_statements_it_reports(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    options = parse(["--rounds", "1", "--rows", str(ROWS), "--workers", "8", "--stampede", "40"])
    seed(postgres_server, postgres_database, options)
    postgres_server.log_statements(postgres_database)
    before = len(postgres_server.log)
    results = {each.job: each for each in measure(options, postgres_server, postgres_server.url(postgres_database))}
    logged = [
        line
        for line in postgres_server.log[before:].splitlines()
        if line.startswith("LOG:  execute ") and TABLE in line and "VACUUM" not in line
    ]
    assert set(results) == set(JOBS)
    by_hand = {job: each.their_statements[0] for job, each in results.items()}
    ours = {job: each.our_statements[0] for job, each in results.items()}
    assert (by_hand["misses"], by_hand["mget"], by_hand["writes"]) == (ROWS, ROWS // 100, ROWS)
    # More where several workers missed a key at once.
    assert by_hand["zipf"] >= len(set(keys_of("zipf", options, 0)))
    assert (by_hand["hits"], ours["hits"], ours["stampede"]) == (0, 0, 1)
    assert (by_hand["mget_hits"], ours["mget_hits"]) == (0, 0)
    for each in results.values():
        assert all(min(cpu[:2]) > 0 for cpu in (*each.our_cpu, *each.their_cpu))
    # PostgreSQL's part, where it is asked.
    assert min(results["misses"].our_cpu[0][2], results["misses"].their_cpu[0][2]) > 0
    assert results["misses"].bound > 0
    assert 0 < ours["misses"] < ROWS / 2
    assert 0 < ours["mget"] <= ROWS // 100
    assert 0 < ours["writes"] < ROWS
    # The caches that `hits` and `mget_hits` find full were filled by two runs of `mget` each; ours may join statements.
    filling = len(logged) - sum(by_hand.values()) - sum(ours.values()) - 2 * by_hand["mget"]
    assert 2 <= filling <= 2 * ROWS // 100
    assert {job for job, each in results.items() if ceiling(each, list(results.values()))} == set(CEILINGS)
    assert show(list(results.values())).count("\n") == len(JOBS) + 1


def test_other_client_sends_the_same_statements(postgres_server: PostgresServer, postgres_database: str) -> None:
    arguments = ["--rounds", "1", "--rows", str(ROWS), "--workers", "8", "--client", "both", "--jobs", "misses"]
    options = parse(arguments)
    seed(postgres_server, postgres_database, options)
    both = measure(options, postgres_server, postgres_server.url(postgres_database))
    assert [misses.client for misses in both] == ["lean", "redis-py"]
    for misses in both:
        assert misses.their_statements == [ROWS]
        assert 0 < misses.our_statements[0] < ROWS / 2


def test_order_of_the_keys_depends_on_the_pair_and_the_seed_alone() -> None:
    options = parse(["--rows", "500"])
    other = parse(["--rows", "500", "--seed", "2"])
    for job in ("misses", "zipf", "mget", "writes"):
        assert keys_of(job, options, 1) == keys_of(job, options, 1)
        assert keys_of(job, options, 1) not in (keys_of(job, options, 2), keys_of(job, other, 1))
    assert sorted(keys_of("misses", options, 0)) == list(range(500))
    zipf = keys_of("zipf", options, 0)
    assert median(zipf.count(row) for row in set(zipf)) < 5 < max(zipf.count(row) for row in set(zipf))


def test_numbers_below_one_and_unknown_jobs_are_refused() -> None:
    for arguments in (["--rounds", "0"], ["--jobs", "misses,nonsense"]):
        with pytest.raises(SystemExit) as refused:
            parse(arguments)
        assert refused.value.code == 2
