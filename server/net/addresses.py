"""Addresses that cannot be had: one way to say so for every port that the server opens."""

from __future__ import annotations

import os


def cannot_listen(where: str, error: OSError) -> OSError:
    """The error that names `where`, and says what the system said without what the event loop tells of itself."""
    known = error.errno is not None and error.errno > 0
    why = os.strerror(error.errno) if known else error.strerror or str(error)
    return OSError(error.errno, f"cannot listen on {where}: {why}")
