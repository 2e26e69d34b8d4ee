"""For all tests: the PostgreSQL fixtures, and at the end how many tests had a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest_plugins = ["tests.support.postgres"]


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
