"""Notifications: what happens to keys, told on channels (`notify-keyspace-events`).

Every change passes one place in the keyspace with the name of its event. Redis sorts the events into classes, one
letter each; here the class is looked up by the name, so that nothing but the name travels through the handlers.
"""

from __future__ import annotations

from typing import Final

from server.event_classes import (
    EVICTED,
    EXPIRED,
    GENERIC,
    HASH,
    KEY_MISS,
    KEYEVENT,
    KEYSPACE,
    LIST,
    NEW,
    SET,
    STREAM,
    STRING,
    ZSET,
)
from server.pubsub import PubSub

_NAMES: Final[dict[int, tuple[bytes, ...]]] = {
    STRING: (b"set", b"setrange", b"append", b"incrby", b"incrbyfloat", b"setbit", b"pfadd"),
    LIST: (b"lpush", b"rpush", b"lpop", b"rpop", b"lset", b"linsert", b"lrem", b"ltrim", b"sortstore"),
    SET: (b"sadd", b"srem", b"spop", b"sinterstore", b"sunionstore", b"sdiffstore"),
    HASH: (b"hset", b"hdel", b"hincrby", b"hincrbyfloat", b"hexpire", b"hpersist", b"hexpired"),
    ZSET: (
        b"zadd",
        b"zincr",
        b"zrem",
        b"zremrangebyscore",
        b"zremrangebyrank",
        b"zremrangebylex",
        b"zpopmin",
        b"zpopmax",
        b"zdiffstore",
        b"zinterstore",
        b"zunionstore",
        b"zrangestore",
        b"geosearchstore",
        b"georadiusstore",
    ),
    EXPIRED: (b"expired",),
    EVICTED: (b"evicted",),
    NEW: (b"new",),
    KEY_MISS: (b"keymiss",),
}
_CLASS_OF: Final = {name: bit for bit, names in _NAMES.items() for name in names}


class Notifications:
    """Publishes the events of the classes that are wanted."""

    __slots__ = ("_pubsub", "flags")

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self.flags = 0

    def is_on(self) -> bool:
        """Could any event be told?"""
        return self.flags & (KEYSPACE | KEYEVENT) != 0 and self.flags & ~(KEYSPACE | KEYEVENT) != 0

    def wants(self, bit: int) -> bool:
        """Are events of this class told?"""
        return self.flags & bit != 0 and self.is_on()

    def tell(self, index: int, key: bytes, event: bytes) -> None:
        """An event of a key in database `index`."""
        bit = _CLASS_OF.get(event)
        if bit is None:
            bit = STREAM if event.startswith(b"x") else GENERIC
        if not self.flags & bit:
            return
        if self.flags & KEYSPACE:
            self._pubsub.announce(b"__keyspace@%d__:%b" % (index, key), event)
        if self.flags & KEYEVENT:
            self._pubsub.announce(b"__keyevent@%d__:%b" % (index, event), key)
