"""Many texts: what MGET reads and MSET puts, in one frame for all of their keys.

`Database.find` and `Database.put` are written out for what is plain; everything else is left to them.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from persistence.change import NEVER, STRING
from server.keyspace.database import Database
from server.keyspace.entry import LeasedLife
from server.keyspace.slots import tagged

# As in the database: a constant, because compiled code looks an imported function up by its name at each call.
_crc16: Final = crc_hqx


def texts_of(db: Database, argv: list[bytes]) -> list[object]:
    """What MGET answers for the keys behind its name. O(keys)."""
    # Plain are strings that do not expire, copies of rows in their time, and what is absent.
    tables = db.tables
    moment = db.moment
    access_s = moment.access_s
    now_ms = db.now_ms
    hits = 0
    misses = 0
    values: list[object] = []
    for key in argv[1:]:
        hashed = tagged(key) if 123 in key else key
        entry = tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            misses += 1
            values.append(None)
            continue
        after = entry.seat.after
        if after is not None:
            entry.seat = after
            entry.life = moment
            hits += 1
            values.append(entry.value)
            continue
        life = entry.life
        if isinstance(life, LeasedLife) and life.soft_ms > now_ms:
            lease = life.lease
            value = entry.value
            if lease is not None and isinstance(value, bytes):
                prefix = lease.prefix
                if lease.generation == prefix.generation:
                    life.access_s = access_s
                    counters = prefix.counters
                    counters.hits += 1
                    counters.saved_db_ms += lease.cost_ms
                    seat = entry.seat
                    if seat.freq != seat.home.hit_cap:
                        db.note_hit(entry)
                    hits += 1
                    values.append(value)
                    continue
        values.append(text_of(db, key))
    db.hits += hits
    db.misses += misses
    db.attention += misses
    return values


def text_of(db: Database, key: bytes) -> object:
    """What it answers for one of them."""
    entry = db.find(key)
    value = entry.value if entry is not None else None
    return value if isinstance(value, bytes) else None


def put_all(db: Database, argv: list[bytes]) -> None:
    """Let the keys behind MSET's name hold the values behind each, when nobody is to be told. O(keys)."""
    # Plain are strings that do not expire, over such ones.
    tables = db.tables
    life = db.moment
    overwritten = 0
    for key, value in zip(argv[1::2], argv[2::2], strict=True):
        hashed = tagged(key) if 123 in key else key
        entry = tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None or entry.life.weight:
            db.put(key, STRING, value, NEVER, b"set")
            continue
        grown = len(value) - len(entry.value)  # type: ignore[arg-type]
        entry.value = value
        entry.life = life
        if grown:
            entry.seat.home.grew(entry, grown)
        overwritten += 1
    db.mutations += overwritten
