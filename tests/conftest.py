"""For all tests: the PostgreSQL fixtures, the order of a run side by side, and how many tests had a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest_plugins = ["tests.support.postgres"]

# The files that take longest, the longest first. Begun last, one of them would keep one worker busy at the end.
LONGEST = (
    "simulation/test_simulation.py",
    "faults/test_kill9.py",
    "persistence/test_promises.py",
    "faults/test_durability.py",
    "persistence/test_invalidation.py",
    "protocol/test_parser_fuzz.py",
    "wire/test_clients.py",
    "persistence/test_postgres.py",
    "wire/test_shutdown.py",
    "faults/test_network.py",
    "faults/test_server.py",
    "server/commands/test_acl.py",
    "server/commands/test_against_redis.py",
    "persistence/test_store_contract.py",
    "persistence/test_child_promises.py",
    "simulation/test_mutations.py",
    "faults/test_power_loss.py",
    "faults/test_refusals.py",
    "wire/test_hostile.py",
    "wire/test_live_fuzz.py",
    "bench/test_programs.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the longest files come first; their own order, and that of all others, stays."""
    if not hasattr(config, "workerinput"):
        return
    place = {config.rootpath / "tests" / name: number for number, name in enumerate(LONGEST)}
    if missing := [str(path) for path in place if not path.exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names what does not exist: {missing}")
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged travels between processes, which lone surrogates do not."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that nobody can mistake: a suite that is green without a database has tested less."""
    ran: set[str] = set()
    skipped: set[str] = set()
    for outcome in ("passed", "failed", "error", "xfailed", "xpassed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            # A module that could not be collected is a report, too, and has no keywords.
            if isinstance(report, pytest.TestReport) and "postgres" in report.keywords:
                (skipped if outcome == "skipped" else ran).add(report.nodeid)
    more = f" (skipped: {len(skipped)})" if skipped else ""
    terminalreporter.write_line(f"PostgreSQL tests run: {len(ran)}{more}")
