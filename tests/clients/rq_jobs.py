"""The jobs of the RQ tests: a worker imports them by name."""

from __future__ import annotations


def multiply(a: int, b: int) -> int:
    return a * b


# What `fail` was called with: the worker of the tests runs jobs in its own process.
failures: list[str] = []


def fail(text: str) -> None:
    failures.append(text)
    raise ValueError(text)


def divide(a: int, b: int) -> float:
    return a / b
