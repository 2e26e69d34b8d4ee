"""The numbers of the design, and that they cannot be changed or be senseless."""

import dataclasses

import pytest

from protocol import limits
from protocol.limits import DEFAULT, UNAUTHENTICATED, Limits


def test_defaults_are_those_of_the_design() -> None:
    assert dataclasses.asdict(DEFAULT) == {
        "max_bulk": 536_870_912,
        "max_args": 1_048_576,
        "max_header_line": 32,
        "max_inline": 65_536,
        "max_command": 603_979_776,
        "max_query": 603_979_776,
        "authenticated": True,
    }


def test_an_unauthenticated_peer_is_allowed_no_more_than_an_authenticated_one() -> None:
    assert (UNAUTHENTICATED.max_bulk, UNAUTHENTICATED.max_args, UNAUTHENTICATED.max_query) == (16_384, 10, 65_536)
    assert not UNAUTHENTICATED.authenticated
    for field in dataclasses.fields(Limits):
        assert getattr(UNAUTHENTICATED, field.name) <= getattr(DEFAULT, field.name)


def test_limits_are_frozen() -> None:
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        DEFAULT.max_bulk = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["max_bulk", "max_args", "max_header_line", "max_inline", "max_command", "max_query"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        dataclasses.replace(DEFAULT, **{name: 0})


def test_output_limits_are_ordered() -> None:
    assert (
        limits.OUTPUT_UNAUTHENTICATED < limits.OUTPUT_HIGH_WATER < limits.OUTPUT_SOFT_NORMAL < limits.OUTPUT_HARD_NORMAL
    )
    assert limits.OUTPUT_HIGH_WATER < limits.OUTPUT_SOFT_PUBSUB < limits.OUTPUT_HARD_PUBSUB
    assert limits.OUTPUT_HARD_NORMAL == 256 * 1024 * 1024
    assert (limits.OUTPUT_SOFT_SECONDS, limits.AUTHENTICATION_SECONDS) == (60.0, 10.0)
