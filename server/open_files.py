"""Open files: every client is one, and the system gives a process so many (`ulimit -n`)."""

from __future__ import annotations

import resource
from typing import Final

# What is open besides clients and stores: listeners, the event loop, the journal, logs, files that are being written.
_OWN_FILES: Final = 64


class OpenFiles:
    """How many clients the limit of open files allows, beside `stores` connections to databases."""

    __slots__ = ("_others",)

    def __init__(self, stores: int) -> None:
        self._others = _OWN_FILES + stores

    def clients(self, wanted: int) -> int:
        """`wanted`, or what there is room for (at least one). The limit is raised for it as far as the process may."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = wanted + self._others
        if _is_less(soft, files):
            soft = files if _is_less(files, hard) else hard
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, soft - self._others) if _is_less(soft, files) else wanted


def _is_less(limit: int, other: int) -> bool:
    # (RLIM_INFINITY is -1.)
    return other == resource.RLIM_INFINITY or limit < other if limit != resource.RLIM_INFINITY else False
