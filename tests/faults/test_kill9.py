"""kill -9 at random moments under load (durability.md, the loss table): 20 rounds here, any number in the soak.

What is checked is in kill_rounds.py; a failure prints the client's last operations and the seed.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.kill_rounds import run_rounds
from tests.support.postgres import PostgresServer

ROUNDS = 20
SEED = int(os.environ.get("FOREBAY_FAULT_SEED", "7"))


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_twenty_kills_lose_no_acknowledged_write_and_apply_none_twice(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    run = await run_rounds(postgres_server, postgres_database, ROUNDS, SEED)
    # Otherwise it has shown nothing.
    assert run.rounds == ROUNDS
    assert run.acknowledged > 100 * ROUNDS
    assert run.recovered > ROUNDS // 2
