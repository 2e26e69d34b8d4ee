"""HyperLogLogs: PFADD, PFCOUNT, PFMERGE. A value is a string in a layout of its own (values/hyperloglog.py)."""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, STRING
from protocol.replies import OK, Error
from server.commands.context import Context
from server.commands.spec import ALL, DENYOOM, FAST, FIRST, READ, WRITE, command
from server.errors import WRONG_TYPE, CommandError
from server.keyspace.entry import Entry
from server.keyspace.values.hyperloglog import (
    REGISTERS,
    Corrupted,
    add,
    cached_estimate,
    empty,
    estimate,
    highest,
    is_dense,
    is_valid,
    merge,
    spread,
    with_estimate,
)

_NOT_ONE: Final = Error("WRONGTYPE Key is not a valid HyperLogLog string value.")
_CORRUPTED: Final = Error("INVALIDOBJ Corrupted HLL object detected")


def _sketch_of(entry: Entry) -> bytes:
    # The value of an entry that must hold one.
    value = entry.value
    if entry.kind != STRING or not isinstance(value, bytes):
        raise CommandError(WRONG_TYPE)
    if not is_valid(value):
        raise CommandError(_NOT_ONE)
    return value


@command(
    "PFADD",
    arity=-2,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="hyperloglog",
    since="2.8.9",
    summary="Shows elements to a HyperLogLog, which is made when absent; returns 1 if its estimate may have changed.",
    complexity="O(1) for each element",
    syntax="key [element [element ...]]",
)
def pfadd(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    old = _sketch_of(entry) if entry is not None else empty()
    try:
        new = add(old, argv[2:])
    except Corrupted:
        return _CORRUPTED
    if new is None:
        if entry is not None:
            return 0
        # Made, and therefore out of date, as Redis has it.
        new = old[:15] + b"\x80" + old[16:]
    ctx.db.put(argv[1], STRING, new, entry.deadline_ms if entry is not None else NEVER, b"pfadd")
    return 1


@command(
    "PFCOUNT",
    arity=-2,
    flags=READ,
    keys=ALL,
    group="hyperloglog",
    since="2.8.9",
    summary="Estimates how many different elements were shown to one HyperLogLog, or to several taken together.",
    complexity="O(1) for one key whose estimate is up to date, otherwise O(N) with N keys, 16,384 registers each",
    syntax="key [key ...]",
)
def pfcount(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) == 2:
        return _count_one(ctx, argv[1])
    ranks = bytes(REGISTERS)
    for key in argv[1:]:
        entry = ctx.db.find(key)
        if entry is not None:
            ranks = highest(ranks, _spread(_sketch_of(entry)))
    return estimate(ranks)


def _count_one(ctx: Context, key: bytes) -> int:
    entry = ctx.db.find(key)
    if entry is None:
        return 0
    value = _sketch_of(entry)
    known = cached_estimate(value)
    if known is not None:
        return known
    known = estimate(_spread(value))
    # The estimate is noted in the value itself, which means the same as before: nobody need be told. The copy of a row
    # stays as its row is.
    if entry.lease is None and not (ctx.db.index == 0 and ctx.server.cache.manages(key)):
        entry.value = with_estimate(value, known)
    return known


def _spread(value: bytes) -> bytes:
    try:
        return spread(value)
    except Corrupted:
        raise CommandError(_CORRUPTED) from None


@command(
    "PFMERGE",
    arity=-2,
    flags=WRITE | DENYOOM,
    keys=ALL,
    group="hyperloglog",
    since="2.8.9",
    summary="Makes of a HyperLogLog and others the one that has seen what any of them has seen.",
    complexity="O(N) with N keys, 16,384 registers each",
    syntax="destkey [sourcekey [sourcekey ...]]",
)
def pfmerge(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    ranks = bytes(REGISTERS)
    dense = False
    for key in argv[1:]:
        entry = db.peek(key)
        if entry is not None:
            value = _sketch_of(entry)
            dense = dense or is_dense(value)
            ranks = highest(ranks, _spread(value))
    entry = db.edit(argv[1])
    old = _sketch_of(entry) if entry is not None else empty()
    try:
        new = merge(old, ranks, dense)
    except Corrupted:
        return _CORRUPTED
    db.put(argv[1], STRING, new, entry.deadline_ms if entry is not None else NEVER, b"pfadd")
    return OK
