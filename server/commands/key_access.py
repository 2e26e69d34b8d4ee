"""What commands do to the keys and channels that they name, as ACL rules look at it.

Redis tells reading a key's value (R) from changing it (W). A command that only asks whether a key exists, how long it
is or of which type, needs neither: any pattern that fits the key will do. One that returns or uses what was there and
changes it needs both. The rows below are the exceptions; without one, a command that writes changes each of its keys
and any other reads them.
"""

from __future__ import annotations

from typing import Final

from server import errors
from server.commands.spec import CommandSpec
from server.errors import CommandError

NEITHER: Final = 0
READS: Final = 1
WRITES: Final = 2
BOTH: Final = READS | WRITES

# Look at no value: a name is as much as they tell of a key.
_LOOKS: Final = frozenset((
    "exists", "hexists", "hlen", "hstrlen", "llen", "memory|usage", "object|encoding", "object|freq",
    "object|idletime", "object|refcount", "scard", "sismember", "strlen", "touch", "type", "watch", "xlen", "zcard",
))  # fmt: skip
# Change a value and tell or use what was there.
_USES: Final = frozenset((
    "blmpop", "blpop", "brpop", "bzmpop", "bzpopmax", "bzpopmin", "decr", "decrby", "eval", "evalsha", "fcall",
    "getdel", "getex", "getset", "hincrby", "hincrbyfloat", "incr", "incrby", "incrbyfloat", "lmpop", "lpop", "move",
    "rpop", "setbit", "spop", "zincrby", "zmpop", "zpopmax", "zpopmin",
))  # fmt: skip
# Command → what it does to its first key, and to those behind it.
_FIRST_AND_OTHERS: Final = {
    "bitop": (WRITES, READS),
    "blmove": (BOTH, WRITES),
    "brpoplpush": (BOTH, WRITES),
    "copy": (READS, WRITES),
    "georadius": (READS, WRITES),
    "georadiusbymember": (READS, WRITES),
    "geosearchstore": (WRITES, READS),
    "lmove": (BOTH, WRITES),
    "pfmerge": (BOTH, READS),
    "rename": (BOTH, WRITES),
    "renamenx": (BOTH, WRITES),
    "rpoplpush": (BOTH, WRITES),
    "sdiffstore": (WRITES, READS),
    "sinterstore": (WRITES, READS),
    "smove": (BOTH, WRITES),
    "sort": (READS, WRITES),
    "sunionstore": (WRITES, READS),
    "xreadgroup": (READS, READS),
    "zdiffstore": (WRITES, READS),
    "zinterstore": (WRITES, READS),
    "zrangestore": (WRITES, READS),
    "zunionstore": (WRITES, READS),
}
# Our own commands on single keys. Their rows name no keys, because the engine must not load them first.
_OWN: Final = {"cache.explain": READS, "cache.load": READS, "cache.invalidate": WRITES}

# Commands on channels: what stands behind the name is channels, or one channel and a message.
_SUBSCRIBING: Final = frozenset(("subscribe", "ssubscribe", "psubscribe"))
_PUBLISHING: Final = frozenset(("publish", "spublish"))


def key_accesses(spec: CommandSpec, argv: list[bytes]) -> list[tuple[bytes, int]]:
    """The keys among the arguments, each with what is done to it; CommandError when they cannot be told."""
    own = _OWN.get(spec.name)
    if own is not None:
        return [(key, own) for key in argv[1:]]
    if not spec.has_keys:
        return []
    try:
        keys = spec.keys_of(argv)
    except (ValueError, IndexError):
        raise CommandError(errors.SYNTAX) from None
    row = _FIRST_AND_OTHERS.get(spec.name)
    if row is not None:
        return [(key, row[0 if at == 0 else 1]) for at, key in enumerate(keys)]
    access = _access(spec, argv)
    return [(key, access) for key in keys]


def _access(spec: CommandSpec, argv: list[bytes]) -> int:
    name = spec.name
    if name in _LOOKS:
        return NEITHER
    if name in _USES:
        return BOTH
    if name == "set":
        return BOTH if any(word.upper() == b"GET" for word in argv[3:]) else WRITES
    if name == "bitfield":
        return BOTH if _bitfield_writes(argv) else READS
    return WRITES if spec.writes else READS


def _bitfield_writes(argv: list[bytes]) -> bool:
    # GET takes two words, SET and INCRBY three, OVERFLOW one. What is none of them is refused by the handler.
    at = 2
    while at < len(argv):
        if argv[at].upper() != b"GET":
            return True
        at += 3
    return False


def channels_of(spec: CommandSpec, argv: list[bytes]) -> list[bytes]:
    """The channels (of PSUBSCRIBE: patterns) that a command listens to or publishes in."""
    if spec.name in _SUBSCRIBING:
        return argv[1:]
    return argv[1:2] if spec.name in _PUBLISHING else []


def names_patterns(spec: CommandSpec) -> bool:
    """Are its channels patterns?"""
    return spec.name == "psubscribe"


def foreign_key_option(spec: CommandSpec, argv: list[bytes]) -> str | None:
    """The option with which SORT reads keys that it does not name (`BY` or `GET`), if it is given."""
    if spec.name not in ("sort", "sort_ro"):
        return None
    at = 2
    while at + 1 < len(argv):
        word = argv[at].upper()
        if word == b"GET" or (word == b"BY" and b"*" in argv[at + 1]):
            return word.decode()
        # LIMIT has two words, STORE and BY one; the others none.
        at += 3 if word == b"LIMIT" else 2 if word in (b"BY", b"STORE") else 1
    return None
