"""What Redis lets operators choose and what is settled here: the settings that CONFIG GET shows and nobody may change.

Clients and tools ask for them before they rely on something. Each value says what this server does, so a CONFIG SET
that asks for just that succeeds, and any other is refused.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from protocol import limits
from server.commands import object_encoding
from server.settings import Setting

_HASH: Final = str(object_encoding.HASH_LISTPACK_ENTRIES)
_SORTED_SET: Final = str(object_encoding.SORTED_SET_LISTPACK_ENTRIES)
_SHORT: Final = str(object_encoding.LISTPACK_VALUE)
# -2 is Redis's name for 8 KiB.
_LIST: Final = {8192: "-2"}[object_encoding.LIST_LISTPACK_BYTES]

_VALUES: Final = {
    # No snapshots and no append-only file: what clients that ask (redis-benchmark) expect to read then.
    "save": "",
    "appendonly": "no",
    "stop-writes-on-bgsave-error": "no",
    "cluster-enabled": "no",
    "tls-port": "0",
    "io-threads": "1",
    "activedefrag": "no",
    # Whatever is large is freed in slices.
    "lazyfree-lazy-eviction": "yes",
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-server-del": "yes",
    "lazyfree-lazy-user-del": "yes",
    "lazyfree-lazy-user-flush": "yes",
    # Where OBJECT ENCODING changes its word; the second name is that of Redis before 7.0.
    "hash-max-listpack-entries": _HASH,
    "hash-max-ziplist-entries": _HASH,
    "hash-max-listpack-value": _SHORT,
    "hash-max-ziplist-value": _SHORT,
    "list-max-listpack-size": _LIST,
    "list-max-ziplist-size": _LIST,
    "set-max-intset-entries": str(object_encoding.INTSET_ENTRIES),
    "set-max-listpack-entries": str(object_encoding.SET_LISTPACK_ENTRIES),
    "set-max-listpack-value": _SHORT,
    "zset-max-listpack-entries": _SORTED_SET,
    "zset-max-ziplist-entries": _SORTED_SET,
    "zset-max-listpack-value": _SHORT,
    "zset-max-ziplist-value": _SHORT,
    "client-output-buffer-limit": (
        f"normal {limits.OUTPUT_HARD_NORMAL} {limits.OUTPUT_SOFT_NORMAL} {limits.OUTPUT_SOFT_SECONDS:.0f} slave 0 0 0 "
        f"pubsub {limits.OUTPUT_HARD_PUBSUB} {limits.OUTPUT_SOFT_PUBSUB} {limits.OUTPUT_SOFT_SECONDS:.0f}"
    ),
}


def fixed_settings() -> list[Setting]:
    """All of them."""
    return [Setting(name, partial(str, value)) for name, value in _VALUES.items()]
