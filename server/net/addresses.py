"""Addresses that cannot be had: one way to say so for every port that the server opens."""

from __future__ import annotations

import os


def cannot_listen(where: str, error: OSError) -> OSError:
    """The error that names `where`, and says what the system said without what the event loop tells of itself."""
    number = error.errno
    # Below zero it is a resolver's.
    why = os.strerror(number) if number is not None and number > 0 else error.strerror or str(error)
    return OSError(number, f"cannot listen on {where}: {why}")
