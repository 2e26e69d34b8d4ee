"""Replies of very many elements, written a slice at a time while others are served; and KEYS, which also has to look.

A million elements take a third of a second to encode: whoever asked for them waits, nobody else should. Such a reply
is a list of its own by the time it comes here, or an excerpt of a value (keyspace/excerpt.py), so nothing that happens
meanwhile changes it. A list is emptied on the way, and the reply leaves as it was encoded, in chunks: letting go of the
whole list at once, or joining the chunks, would each take 30 ms again.

KEYS of a large database goes through its tables the same way. A table has some thousand keys at most
(keyspace/database.py), so between two of them others may come in. What they do may or may not be in the reply; a key
that is there all the time is in it once, because a key never changes its table.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

from protocol.encoder import encode
from protocol.replies import Elements, Map, Ready, SetOf
from server.keyspace.database import Database
from server.keyspace.excerpt import AT_ONCE, Excerpt, Whole
from server.session import Session

# How long others wait at a time.
_SLICE_S: Final = 0.001
_NOTHING: Final[list[object]] = []
# Elements that are encoded between two looks at the time: 0.2 ms.
_STEP: Final = 1000


def is_long(reply: object) -> bool:
    """Has a reply so many elements that it should be written in slices?"""
    return isinstance(reply, Elements) or len(_elements(reply)) > AT_ONCE


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
    if isinstance(reply, Elements):
        excerpt = reply.items
        assert isinstance(excerpt, Excerpt)
        session.db.lend(excerpt)
        session.waiting = _write_lent(session.db, excerpt, reply, session.protocol)
    else:
        # Out of the collector's sight, which would look at each of its elements, more than once.
        gc.freeze()
        session.waiting = write(reply, session.protocol)
    return True


async def _write_lent(database: Database, excerpt: Excerpt, reply: Elements, protocol: int) -> object:
    try:
        return await _write(excerpt, _head(reply.kind, reply.count, protocol), protocol)
    finally:
        database.give_back(excerpt)


async def write(reply: object, protocol: int) -> object:
    """The same reply in wire form. Takes the elements out of it."""
    items = _elements(reply)
    kind = b"%" if isinstance(reply, Map) else b"~" if isinstance(reply, SetOf) else b"*"
    head = _head(kind, len(items), protocol)
    return await _write(Whole(items), head, protocol)


def _head(kind: bytes, count: int, protocol: int) -> bytes:
    if protocol < 3:
        kind = b"*"
    return b"%b%d\r\n" % (kind, count // 2 if kind == b"%" else count)


async def _write(excerpt: Excerpt, head: bytes, protocol: int) -> Ready:
    wire = Ready()
    wire.add(head)
    until_s = time.perf_counter() + _SLICE_S
    while part := excerpt.take(_STEP):
        wire.add(_encoded(part, protocol))
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _SLICE_S
    return wire


def _encoded(items: list[object], protocol: int) -> bytes:
    # Without the head that an array has.
    return encode(items, protocol)[len(b"*%d\r\n" % len(items)) :]


async def survey(database: Database, matches: Callable[[bytes], bool] | None, protocol: int) -> object:
    """The reply to KEYS: the living keys that fit, every one for None."""
    wire = Ready()
    wire.add(b"")
    count = 0
    until_s = time.perf_counter() + _SLICE_S
    for number in range(len(database.tables)):
        now_ms = database.now_ms
        keys = [key for key, entry in database.tables[number].items() if entry.deadline_ms > now_ms]
        fitting: list[object] = [*(keys if matches is None else filter(matches, keys))]
        if fitting:
            count += len(fitting)
            wire.add(_encoded(fitting, protocol))
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _SLICE_S
    head = _head(b"*", count, protocol)
    wire.chunks[0] = head
    wire.size += len(head)
    return wire
