"""Sets: SADD, SMEMBERS and their kin. A value is a MemberSet, changed in place between `edit` and `edited`."""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, SET
from protocol.replies import Elements, Error, SetOf
from server.commands.args import (
    INT64_MAX,
    integer_between,
    integer_from,
    keys_after_count,
)
from server.commands.context import Context
from server.commands.draws import check_draws
from server.commands.spec import ALL, DENYOOM, FAST, FIRST, FIRST_TWO, READ, WRITE, command
from server.errors import NEGATIVE_LIMIT, NO_KEYS_COUNTED, NOT_POSITIVE, SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.database import Database
from server.keyspace.entry import Entry
from server.keyspace.excerpt import AT_ONCE, Members
from server.keyspace.values.member_set import MemberSet, member_set_of
from server.keyspace.weights import MEMBER_OVERHEAD, TABLE_STEPS, member_weight, table_weight

_TOO_MANY_KEYS: Final = Error("ERR Number of keys can't be greater than number of args")


def set_of(entry: Entry) -> MemberSet:
    """The members of an entry whose kind is SET."""
    members = entry.value
    assert isinstance(members, MemberSet)
    return members


# -- writing ----------------------------------------------------------------------------------------------------------


@command(
    "SADD",
    arity=-3,
    flags=WRITE | DENYOOM | FAST,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Adds members to a set and returns how many are new; the set is made when absent.",
    complexity="O(N) with N members given",
    syntax="key member [member ...]",
)
def sadd(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        members = member_set_of(argv[2:])
        added = len(members)
        db.put(argv[1], SET, members, NEVER, b"sadd")
        return added
    value = entry.value
    if not isinstance(value, MemberSet):
        return WRONG_TYPE
    if len(argv) == 3:
        # The usual call, without a list of what is new.
        member = argv[2]
        if not value.add(member):
            return 0
        db.edited(entry, b"sadd", [member], member_weight(member) + TABLE_STEPS.get(len(value.members), 0))
        return 1
    return _add(db, entry, argv[2:])


def _add(db: Database, entry: Entry, members: list[bytes]) -> int:
    value = set_of(entry)
    fresh: list[bytes] = []
    delta = -table_weight(len(value.members))
    for member in members:
        if value.add(member):
            fresh.append(member)
            delta += member_weight(member)
    if fresh:
        db.edited(entry, b"sadd", fresh, delta + table_weight(len(value.members)))
    return len(fresh)


@command(
    "SREM",
    arity=-3,
    flags=WRITE | FAST,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Removes members from a set, and the set with its last member; returns how many there were.",
    complexity="O(N) with N members given",
    syntax="key member [member ...]",
)
def srem(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.edit(argv[1])
    if entry is None:
        return 0
    value = entry.value
    if not isinstance(value, MemberSet):
        return WRONG_TYPE
    gone = [member for member in argv[2:] if value.discard(member)]
    _removed(ctx.db, entry, gone, b"srem")
    return len(gone)


def _removed(db: Database, entry: Entry, gone: list[bytes], event: bytes) -> None:
    # These members were taken out of the value of an entry from `edit`; without the last one the key goes too.
    if not gone:
        return
    left = len(set_of(entry).members)
    table = table_weight(left) - table_weight(left + len(gone))
    db.edited(entry, event, gone, table - MEMBER_OVERHEAD * len(gone) - sum(map(len, gone)))
    if not left:
        db.remove(entry.key, b"del")


@command(
    "SMOVE",
    arity=4,
    flags=WRITE | FAST,
    keys=FIRST_TWO,
    group="set",
    since="1.0.0",
    summary="Moves a member from one set to another; 0 when the first does not have it.",
    complexity="O(1)",
    syntax="source destination member",
)
def smove(ctx: Context, argv: list[bytes]) -> object:
    db = ctx.db
    source = db.edit(argv[1])
    if source is None:
        return 0
    target = db.edit(argv[2])
    if source.kind != SET or (target is not None and target.kind != SET):
        return WRONG_TYPE
    member = argv[3]
    value = set_of(source)
    if argv[1] == argv[2]:
        return 1 if member in value else 0
    if not value.discard(member):
        return 0
    _removed(db, source, [member], b"srem")
    if target is None:
        db.put(argv[2], SET, member_set_of((member,)), NEVER, b"sadd")
    else:
        _add(db, target, [member])
    return 1


@command(
    "SPOP",
    arity=-2,
    flags=WRITE | FAST,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Takes random members out of a set and returns them.",
    complexity="O(N) with N members taken",
    syntax="key [count]",
)
def spop(ctx: Context, argv: list[bytes]) -> object:
    single = len(argv) == 2
    if len(argv) > 3:
        return SYNTAX
    count = 1 if single else integer_from(argv[2], 0, NOT_POSITIVE)
    db = ctx.db
    entry = db.edit(argv[1])
    if entry is None:
        return None if single else SetOf([])
    if entry.kind != SET:
        return WRONG_TYPE
    value = set_of(entry)
    size = len(value.members)
    if single and size > 1:
        member = value.pop(ctx.server.random.random)
        db.edited(entry, b"spop", [member], -member_weight(member) - TABLE_STEPS.get(size, 0))
        return member
    if count >= size:
        taken = list(value)
        db.remove(argv[1], b"spop")
        db.note(argv[1], b"del")
    else:
        random = ctx.server.random.random
        taken = [value.pop(random) for _ in range(count)]
        _removed(db, entry, taken, b"spop")
    return taken[0] if single else SetOf(taken)


# -- reading ----------------------------------------------------------------------------------------------------------


@command(
    "SISMEMBER",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Is this a member of the set?",
    complexity="O(1)",
    syntax="key member",
)
def sismember(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    if entry.kind != SET:
        return WRONG_TYPE
    return 1 if argv[2] in set_of(entry).members else 0


@command(
    "SMISMEMBER",
    arity=-3,
    flags=READ | FAST,
    keys=FIRST,
    group="set",
    since="6.2.0",
    summary="For each of these: is it a member of the set?",
    complexity="O(N) with N members given",
    syntax="key member [member ...]",
)
def smismember(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return [0] * (len(argv) - 2)
    if entry.kind != SET:
        return WRONG_TYPE
    members = set_of(entry).members
    return [1 if member in members else 0 for member in argv[2:]]


@command(
    "SMEMBERS",
    arity=2,
    flags=READ,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="All members of a set.",
    complexity="O(N) with N members",
    syntax="key",
)
def smembers(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return SetOf([])
    if entry.kind != SET:
        return WRONG_TYPE
    value = set_of(entry)
    size = len(value.members)
    if size > AT_ONCE and ctx.may_read_on():
        return Elements(Members(value, iter(value.members)), size, b"~")
    return SetOf(value.members)


@command(
    "SCARD",
    arity=2,
    flags=READ | FAST,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Number of members of a set.",
    complexity="O(1)",
    syntax="key",
)
def scard(ctx: Context, argv: list[bytes]) -> object:
    entry = ctx.db.find(argv[1])
    if entry is None:
        return 0
    return len(set_of(entry).members) if entry.kind == SET else WRONG_TYPE


@command(
    "SRANDMEMBER",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="set",
    since="1.0.0",
    summary="Random members of a set: different ones for a count above zero, possibly repeated ones below.",
    complexity="O(N) with N members returned",
    syntax="key [count]",
)
def srandmember(ctx: Context, argv: list[bytes]) -> object:
    single = len(argv) == 2
    if len(argv) > 3:
        return SYNTAX
    count = 1 if single else integer_between(argv[2], -INT64_MAX, INT64_MAX)
    entry = ctx.db.find(argv[1])
    if entry is None:
        return None if single else []
    if entry.kind != SET:
        return WRONG_TYPE
    value = set_of(entry)
    random = ctx.server.random.random
    if single:
        return value.draw(random)
    if count >= 0:
        return value.draw_many(count, random)
    check_draws(-count, value.members, 0)
    return [value.draw(random) for _ in range(-count)]


# -- algebra ----------------------------------------------------------------------------------------------------------


def _members_of(db: Database, keys: list[bytes]) -> list[set[bytes]]:
    # The members behind each key, to be read only; an absent key is an empty set.
    found: list[set[bytes]] = []
    for key in keys:
        entry = db.find(key)
        if entry is None:
            found.append(set())
        elif entry.kind == SET:
            found.append(set_of(entry).members)
        else:
            raise CommandError(WRONG_TYPE)
    return found


def _intersection(db: Database, keys: list[bytes]) -> set[bytes]:
    # The smallest first: no step looks at more members than it has.
    first, *others = sorted(_members_of(db, keys), key=len)
    return first.intersection(*others)


def _union(db: Database, keys: list[bytes]) -> set[bytes]:
    first, *others = _members_of(db, keys)
    return first.union(*others)


def _difference(db: Database, keys: list[bytes]) -> set[bytes]:
    first, *others = _members_of(db, keys)
    return first.difference(*others)


def _store(db: Database, key: bytes, members: set[bytes], event: bytes) -> int:
    if members:
        db.put(key, SET, MemberSet(members), NEVER, event)
    else:
        db.remove(key, b"del")
    return len(members)


@command(
    "SINTER",
    arity=-2,
    flags=READ,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="The members that all of the sets have.",
    complexity="O(N*M) with N members in the smallest of M sets",
    syntax="key [key ...]",
)
def sinter(ctx: Context, argv: list[bytes]) -> object:
    return SetOf(_intersection(ctx.db, argv[1:]))


@command(
    "SINTERCARD",
    arity=-3,
    flags=READ,
    find_keys=keys_after_count,
    group="set",
    since="7.0.0",
    summary="How many members all of the sets have; with a limit, no more than that are counted.",
    complexity="O(N*M) with N members in the smallest of M sets",
    syntax="numkeys key [key ...] [LIMIT limit]",
)
def sintercard(ctx: Context, argv: list[bytes]) -> object:
    count = integer_from(argv[1], 1, NO_KEYS_COUNTED)
    if count > len(argv) - 2:
        return _TOO_MANY_KEYS
    limit = 0
    at = 2 + count
    while at < len(argv):
        if argv[at].upper() != b"LIMIT" or at + 1 == len(argv):
            return SYNTAX
        limit = integer_from(argv[at + 1], 0, NEGATIVE_LIMIT)
        at += 2
    if not limit:
        return len(_intersection(ctx.db, argv[2 : 2 + count]))
    return _shared(sorted(_members_of(ctx.db, argv[2 : 2 + count]), key=len), limit)


def _shared(sets: list[set[bytes]], limit: int) -> int:
    # How many members all sets have, as far as the limit; the smallest set comes first.
    found = 0
    for member in sets[0]:
        for other in sets:
            if member not in other:
                break
        else:
            found += 1
            if found == limit:
                break
    return found


@command(
    "SINTERSTORE",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="Stores the members that all of the sets have in another; returns how many they are.",
    complexity="O(N*M) with N members in the smallest of M sets",
    syntax="destination key [key ...]",
)
def sinterstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx.db, argv[1], _intersection(ctx.db, argv[2:]), b"sinterstore")


@command(
    "SUNION",
    arity=-2,
    flags=READ,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="The members that any of the sets has.",
    complexity="O(N) with N members in all sets",
    syntax="key [key ...]",
)
def sunion(ctx: Context, argv: list[bytes]) -> object:
    return SetOf(_union(ctx.db, argv[1:]))


@command(
    "SUNIONSTORE",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="Stores the members that any of the sets has in another; returns how many they are.",
    complexity="O(N) with N members in all sets",
    syntax="destination key [key ...]",
)
def sunionstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx.db, argv[1], _union(ctx.db, argv[2:]), b"sunionstore")


@command(
    "SDIFF",
    arity=-2,
    flags=READ,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="The members of the first set that none of the others has.",
    complexity="O(N) with N members in all sets",
    syntax="key [key ...]",
)
def sdiff(ctx: Context, argv: list[bytes]) -> object:
    return SetOf(_difference(ctx.db, argv[1:]))


@command(
    "SDIFFSTORE",
    arity=-3,
    flags=WRITE | DENYOOM,
    keys=ALL,
    group="set",
    since="1.0.0",
    summary="Stores the members of the first set that none of the others has in another; returns how many they are.",
    complexity="O(N) with N members in all sets",
    syntax="destination key [key ...]",
)
def sdiffstore(ctx: Context, argv: list[bytes]) -> object:
    return _store(ctx.db, argv[1], _difference(ctx.db, argv[2:]), b"sdiffstore")
