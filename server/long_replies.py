"""Replies of very many elements, encoded a slice at a time while others are served; and KEYS, which also has to look.

A million elements take a third of a second to encode: whoever asked for them waits, nobody else should. Such a reply
is a list of its own by the time it comes here, so nothing that happens meanwhile changes it. It is emptied on the way,
and it leaves as it was encoded, in chunks: letting go of the whole list at once, or joining the chunks, would each take
30 ms again.

KEYS of a large database goes through its tables the same way. A table has some thousand keys at most
(keyspace/database.py), so between two of them others may come in. What they do may or may not be in the reply; a key
that is there all the time is in it once, because a key never changes its table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from protocol.encoder import encode
from protocol.replies import Map, Ready, SetOf
from server.keyspace.database import Database
from server.session import Session

# A reply of more elements than this is written in slices: 2 ms.
AT_ONCE: Final = 10_000
# How long others wait at a time.
_SLICE_S: Final = 0.001
_NOTHING: Final[list[object]] = []
# Elements that are encoded between two looks at the time: 0.2 ms.
_STEP: Final = 1000


def is_long(reply: object) -> bool:
    """Has a reply so many elements that it should be written in slices?"""
    return len(_elements(reply)) > AT_ONCE


def _elements(reply: object) -> list[object]:
    if isinstance(reply, list):
        return reply
    if isinstance(reply, SetOf):
        return reply.items
    return reply.flat if isinstance(reply, Map) else _NOTHING


def put_off(session: Session, reply: object) -> bool:
    """Let a session wait for a long reply, unless a journal holds its replies back anyway; does it?"""
    if not is_long(reply) or session.hold_seq or session.state:
        return False
    session.waiting = write(reply, session.protocol)
    return True


async def write(reply: object, protocol: int) -> object:
    """The same reply in wire form. Takes the elements out of it."""
    items = _elements(reply)
    count = len(items)
    if protocol >= 3 and isinstance(reply, Map):
        head = b"%%%d\r\n" % (count // 2)
    else:
        head = b"~%d\r\n" % count if protocol >= 3 and isinstance(reply, SetOf) else b"*%d\r\n" % count
    wire = Ready()
    wire.add(head)
    until_s = time.perf_counter() + _SLICE_S
    items.reverse()
    while items:
        part = items[: -_STEP - 1 : -1]
        del items[-_STEP:]
        # Without the head that an array has.
        wire.add(encode(part, protocol)[len(b"*%d\r\n" % len(part)) :])
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _SLICE_S
    return wire


async def survey(database: Database, matches: Callable[[bytes], bool] | None, protocol: int) -> object:
    """The reply to KEYS: the living keys that fit, every one for None."""
    found: list[bytes] = []
    until_s = time.perf_counter() + _SLICE_S
    for number in range(len(database.tables)):
        now_ms = database.now_ms
        keys = [key for key, entry in database.tables[number].items() if entry.deadline_ms > now_ms]
        found += keys if matches is None else filter(matches, keys)
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _SLICE_S
    return await write(found, protocol)
