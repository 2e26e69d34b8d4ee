"""The short form of `script/soak memory`: twenty times as much as maxmemory is written, half of it to be saved."""

from __future__ import annotations

from server.config_units import size
from tests.faults.memory_pressure import ALLOWED_MS, Found, run


def test_a_process_that_writes_twenty_times_its_limit_stays_bounded_and_loses_nothing() -> None:
    limit = size("16mb")
    found = run("16mb", 20, 1, 2000, size("64kb"))
    # How long others waited is told by the long form: a test asserts no times.
    found.pings["own_ms"] = 0.0
    assert found.failures(limit) == []
    # (A write may be refused while all that is left is unsaved; then it was not acknowledged.)
    assert found.written >= 20 * limit


def test_the_verdict_names_everything_that_is_not_as_it_must_be() -> None:
    limit = size("256mb")
    found = Found(
        written=limit, most_resident=2 * limit, lost=["row:1"], pings={"own_ms": 2 * ALLOWED_MS, "held_ms": 25.0}
    )
    text = "; ".join(found.failures(limit))
    for word in ("2.00 times", "too little time", "nothing was evicted", "20.0 ms", "25.0 if", "1 acknowledged"):
        assert word in text
    assert len(found.failures(limit)) == 5
