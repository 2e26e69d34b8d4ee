"""DUMP and RESTORE: a value as bytes that a Redis understands, and back (rdb_payload.py)."""

from __future__ import annotations

from typing import Final

from persistence.change import HASH, NEVER
from protocol.replies import OK, Error
from server.commands.args import AT_MILLISECONDS, MILLISECONDS, deadline, parse_integer
from server.commands.context import Context
from server.commands.hash_lifetimes import living
from server.commands.rdb_encodings import Malformed
from server.commands.rdb_payload import Foreign, Unsupported, payload_of, value_of
from server.commands.spec import DENYOOM, FIRST, READ, WRITE, command
from server.errors import NOT_INTEGER, SYNTAX, CommandError
from server.keyspace.entry import Entry

_BUSY: Final = Error("BUSYKEY Target key name already exists.")
_BAD_TTL: Final = Error("ERR Invalid TTL value, must be >= 0")
_BAD_IDLETIME: Final = Error("ERR Invalid IDLETIME value, must be >= 0")
_BAD_FREQUENCY: Final = Error("ERR Invalid FREQ value, must be >= 0 and <= 255")
_FOREIGN: Final = Error("ERR DUMP payload version or checksum are wrong")
_BAD_FORMAT: Final = Error("ERR Bad data format")
_NO_PAYLOAD: Final = Error("ERR values of a module cannot be restored")

# The counter of a key that was never used (LFU_INIT_VAL of Redis).
_UNUSED: Final = 5


@command(
    "DUMP",
    arity=2,
    flags=READ,
    keys=FIRST,
    group="generic",
    since="2.6.0",
    summary="A key's value as bytes that RESTORE turns back into it, here or in a Redis.",
    complexity="O(N) with the size of the value",
    syntax="key",
)
def dump(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None or (entry.kind == HASH and not living(ctx, entry)):
        return None
    return payload_of(entry.kind, entry.value)


class _Options:
    """REPLACE, ABSTTL, IDLETIME and FREQ."""

    __slots__ = ("frequency", "idle_s", "is_absolute", "replace")

    def __init__(self, argv: list[bytes]) -> None:
        self.replace = False
        # The lifetime is a point in time.
        self.is_absolute = False
        # -1: not given.
        self.idle_s = -1
        self.frequency = -1
        at = 4
        while at < len(argv):
            option = argv[at].upper()
            has_value = at + 1 < len(argv)
            if option == b"REPLACE":
                self.replace = True
            elif option == b"ABSTTL":
                self.is_absolute = True
            elif option == b"IDLETIME" and has_value and self.frequency < 0:
                at += 1
                self.idle_s = _number(argv[at], _BAD_IDLETIME)
            elif option == b"FREQ" and has_value and self.idle_s < 0:
                at += 1
                self.frequency = _number(argv[at], _BAD_FREQUENCY)
                if self.frequency > 255:
                    raise CommandError(_BAD_FREQUENCY)
            else:
                raise CommandError(SYNTAX)
            at += 1

    def apply(self, ctx: Context, entry: Entry) -> None:
        """Let the entry look as used as was asked for: by what its eviction policy goes by, as in Redis."""
        is_lfu = ctx.server.keyspace.policy_of(ctx.db.index, entry.key) == "lfu"
        if self.idle_s >= 0 and not is_lfu:
            entry.access_ms = ctx.db.now_ms - self.idle_s * 1000
        if self.frequency >= 0 and is_lfu:
            # The hits that bring Redis's logarithmic counter there on average (eviction/lfu.py).
            steps = max(0, self.frequency - _UNUSED)
            entry.freq = max(0, 5 * steps * steps - 4 * steps)


def _number(text: bytes, refusal: Error) -> int:
    number = parse_integer(text)
    if number is None:
        raise CommandError(NOT_INTEGER)
    if number < 0:
        raise CommandError(refusal)
    return number


@command(
    "RESTORE",
    arity=-4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="generic",
    since="2.6.0",
    summary="Makes a key of what DUMP gave, here or in a Redis up to 7.4, with a lifetime in milliseconds (0: none).",
    complexity="O(N) with the size of the payload",
    syntax="key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
)
def restore(ctx: Context, argv: list[bytes]) -> object:
    options = _Options(argv)
    db = ctx.db
    existed = db.peek(argv[1]) is not None
    if existed and not options.replace:
        return _BUSY
    ttl_ms = _number(argv[2], _BAD_TTL)
    try:
        kind, value = value_of(argv[3])
    except Foreign:
        return _FOREIGN
    except Unsupported:
        return _NO_PAYLOAD
    except Malformed:
        return _BAD_FORMAT
    deadline_ms = NEVER
    if ttl_ms:
        deadline_ms = deadline(ctx, AT_MILLISECONDS if options.is_absolute else MILLISECONDS, ttl_ms, "restore")
        if deadline_ms <= db.now_ms:
            # Its time is over already: what was there is gone, and nothing comes.
            if existed:
                db.remove(argv[1])
            return OK
    options.apply(ctx, db.put(argv[1], kind, value, deadline_ms, b"restore"))
    return OK
