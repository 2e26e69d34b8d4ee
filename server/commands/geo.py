"""Geo commands: places as members of a sorted set, whose scores are geohashes (geohash.py)."""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, ZSET
from protocol.replies import NIL_ARRAY, Error
from server.commands.args import integer
from server.commands.context import Context
from server.commands.geohash import LATITUDE_MOST, LONGITUDE_MOST, Shape, distance, place_of, score_of, text_of
from server.commands.scores import score
from server.commands.sorted_sets import sorted_set_of, zadd
from server.commands.spec import DENYOOM, FIRST, FIRST_TWO, MOVABLEKEYS, READ, WRITE, KeyFinder, command
from server.errors import SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.values.sorted_set import SortedSet

_BAD_UNIT: Final = Error("ERR unsupported unit provided. please use M, KM, FT, MI")
_NO_RADIUS: Final = Error("ERR need numeric radius")
_NEGATIVE_RADIUS: Final = Error("ERR radius cannot be negative")
_NO_WIDTH: Final = Error("ERR need numeric width")
_NO_HEIGHT: Final = Error("ERR need numeric height")
_NEGATIVE_BOX: Final = Error("ERR height or width cannot be negative")
_NO_MEMBER: Final = Error("ERR could not decode requested zset member")
_BAD_COUNT: Final = Error("ERR COUNT must be > 0")
_ANY_WITHOUT_COUNT: Final = Error("ERR the ANY argument requires COUNT argument")

_UNITS: Final = {b"M": 1.0, b"KM": 1000.0, b"FT": 0.3048, b"MI": 1609.34}
# Members of a range that are looked at in one step.
_STEP: Final = 512

_NO_MEMBERS: Final = SortedSet({})


def _unit(text: bytes) -> float:
    unit_m = _UNITS.get(text.upper())
    if unit_m is None:
        raise CommandError(_BAD_UNIT)
    return unit_m


def _place(longitude_text: bytes, latitude_text: bytes) -> tuple[float, float]:
    longitude = score(longitude_text)
    latitude = score(latitude_text)
    if not (-LONGITUDE_MOST <= longitude <= LONGITUDE_MOST and -LATITUDE_MOST <= latitude <= LATITUDE_MOST):
        raise CommandError(Error(f"ERR invalid longitude,latitude pair {longitude:f},{latitude:f}"))
    return longitude, latitude


def _members(ctx: Context, key: bytes) -> SortedSet | None:
    # The sorted set of a key; None when the key is absent.
    entry = ctx.db.find(key)
    if entry is None:
        return None
    if entry.kind != ZSET:
        raise CommandError(WRONG_TYPE)
    return sorted_set_of(entry)


def _coordinate(ctx: Context, degrees: float) -> object:
    # 17 decimals without the zeros at the end.
    if ctx.protocol >= 3:
        return degrees
    return f"{degrees:.17f}".rstrip("0").rstrip(".").encode()


def _metres(metres: float, unit_m: float) -> bytes:
    return b"%.4f" % (metres / unit_m)


# -- places -----------------------------------------------------------------------------------------------------------


@command(
    "GEOADD",
    arity=-5,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="geo",
    since="3.2.0",
    summary="Gives members of a sorted set the scores that stand for places; returns how many are new, with CH how "
    "many are new or moved.",
    complexity="O(log(N)) for each member given, N in the set",
    syntax="key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]",
)
def geoadd(ctx: Context, argv: list[bytes]) -> object:
    at = 2
    given: set[bytes] = set()
    while at < len(argv) and argv[at].upper() in (b"NX", b"XX", b"CH"):
        given.add(argv[at].upper())
        at += 1
    if (len(argv) - at) % 3 or {b"NX", b"XX"} <= given:
        return SYNTAX
    words = [b"ZADD", *argv[1:at]]
    for place in range(at, len(argv), 3):
        longitude, latitude = _place(argv[place], argv[place + 1])
        words += (b"%d" % score_of(longitude, latitude), argv[place + 2])
    return zadd(ctx, words) if len(words) > at else SYNTAX


@command(
    "GEOPOS",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="3.2.0",
    summary="Longitude and latitude of members; nil for each that is absent.",
    complexity="O(1) for each member given",
    syntax="key [member [member ...]]",
)
def geopos(ctx: Context, argv: list[bytes]) -> object:
    members = _members(ctx, argv[1]) or _NO_MEMBERS
    found: list[object] = []
    for member in argv[2:]:
        points = members.get(member)
        if points is None:
            found.append(NIL_ARRAY)
        else:
            longitude, latitude = place_of(points)
            found.append([_coordinate(ctx, longitude), _coordinate(ctx, latitude)])
    return found


@command(
    "GEOHASH",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="3.2.0",
    summary="The places of members as geohash texts of eleven characters; nil for each that is absent.",
    complexity="O(1) for each member given",
    syntax="key [member [member ...]]",
)
def geohash(ctx: Context, argv: list[bytes]) -> object:
    members = _members(ctx, argv[1]) or _NO_MEMBERS
    scores = [members.get(member) for member in argv[2:]]
    return [None if points is None else text_of(points) for points in scores]


@command(
    "GEODIST",
    arity=-4,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="3.2.0",
    summary="The distance between two members; nil when one of them is absent.",
    complexity="O(1)",
    syntax="key member1 member2 [M | KM | FT | MI]",
)
def geodist(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) > 5:
        return SYNTAX
    unit_m = _unit(argv[4]) if len(argv) == 5 else 1.0
    members = _members(ctx, argv[1]) or _NO_MEMBERS
    first = members.get(argv[2])
    second = members.get(argv[3])
    if first is None or second is None:
        return None
    return _metres(distance(*place_of(first), *place_of(second)), unit_m)


# -- searching --------------------------------------------------------------------------------------------------------

# How the command says what to search around and where to put it, as bits.
_SEARCH: Final = 1  # GEOSEARCH and GEOSEARCHSTORE: by options
_MAY_STORE: Final = 2  # GEORADIUS and GEORADIUSBYMEMBER: STORE and STOREDIST are options
_TARGETED: Final = 4  # GEOSEARCHSTORE: the destination stands before the key


class _Found:
    """A member inside the shape."""

    __slots__ = ("latitude", "longitude", "member", "metres", "points")

    def __init__(self, member: bytes, points: float, place: tuple[float, float, float]) -> None:
        self.member = member
        self.points = points
        self.metres, self.longitude, self.latitude = place


def _metres_of(found: _Found) -> float:
    return found.metres


class _Query:
    """What to search and how to answer."""

    __slots__ = (
        "_flags",
        "_members",
        "any",
        "count",
        "descending",
        "has_centre",
        "has_shape",
        "is_sorted",
        "shape",
        "store",
        "store_distance",
        "with_distance",
        "with_place",
        "with_score",
    )

    def __init__(self, members: SortedSet | None, flags: int) -> None:
        self._members = members
        self._flags = flags
        self.shape = Shape()
        # FROMMEMBER or FROMLONLAT, BYRADIUS or BYBOX: which was given; empty: neither.
        self.has_centre = b""
        self.has_shape = b""
        self.with_distance = False
        self.with_score = False
        self.with_place = False
        self.is_sorted = False
        self.descending = False
        # 0: all.
        self.count = 0
        self.any = False
        self.store: bytes | None = None
        self.store_distance = False

    def centre_on(self, member: bytes) -> None:
        """Search around a member; without a key that is put off until all is read."""
        if self._members is not None:
            points = self._members.get(member)
            if points is None:
                raise CommandError(_NO_MEMBER)
            self.shape.longitude, self.shape.latitude = place_of(points)

    def centre_at(self, longitude: bytes, latitude: bytes) -> None:
        """Search around a place."""
        self.shape.longitude, self.shape.latitude = _place(longitude, latitude)

    def within_radius(self, radius: bytes, unit: bytes) -> None:
        """Search a circle."""
        shape = self.shape
        shape.radius = score(radius, _NO_RADIUS)
        if shape.radius < 0:
            raise CommandError(_NEGATIVE_RADIUS)
        shape.unit_m = _unit(unit)
        shape.is_box = False

    def within_box(self, width: bytes, height: bytes, unit: bytes) -> None:
        """Search a box."""
        shape = self.shape
        shape.width = score(width, _NO_WIDTH)
        shape.height = score(height, _NO_HEIGHT)
        if shape.width < 0 or shape.height < 0:
            raise CommandError(_NEGATIVE_BOX)
        shape.unit_m = _unit(unit)
        shape.is_box = True

    def parse(self, argv: list[bytes], at: int) -> None:
        """Read the options from argv[at:]."""
        while at < len(argv):
            at += self._take_plain(argv[at].upper()) or self._take_with_value(argv, at)
        if self.store is not None and (self.with_distance or self.with_score or self.with_place):
            name = "GEOSEARCHSTORE" if self._flags & _TARGETED else "STORE option in GEORADIUS"
            raise CommandError(Error(f"ERR {name} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"))
        if self._flags & _SEARCH:
            self._check_search(argv[0])
        if self.any and not self.count:
            raise CommandError(_ANY_WITHOUT_COUNT)
        # The nearest so many, unless any will do.
        if self.count and not self.any:
            self.is_sorted = True

    def _take_plain(self, option: bytes) -> int:
        # An option of one word; 0: it is none.
        if option == b"WITHDIST":
            self.with_distance = True
        elif option == b"WITHHASH":
            self.with_score = True
        elif option == b"WITHCOORD":
            self.with_place = True
        elif option == b"ANY":
            self.any = True
        elif option in (b"ASC", b"DESC"):
            self.is_sorted = True
            self.descending = option == b"DESC"
        elif option == b"STOREDIST" and self._flags & _TARGETED:
            self.store_distance = True
        else:
            return 0
        return 1

    def _take_with_value(self, argv: list[bytes], at: int) -> int:
        # An option with values; how many words it has.
        option = argv[at].upper()
        left = len(argv) - at - 1
        is_search = self._flags & _SEARCH
        if option == b"COUNT" and left >= 1:
            self.count = integer(argv[at + 1])
            if self.count <= 0:
                raise CommandError(_BAD_COUNT)
            return 2
        if option in (b"STORE", b"STOREDIST") and left >= 1 and self._flags & _MAY_STORE:
            self.store = argv[at + 1]
            self.store_distance = option == b"STOREDIST"
            return 2
        if option == b"FROMMEMBER" and left >= 1 and is_search and self.has_centre != b"FROMLONLAT":
            self.centre_on(argv[at + 1])
            self.has_centre = option
            return 2
        if option == b"FROMLONLAT" and left >= 2 and is_search and self.has_centre != b"FROMMEMBER":
            self.centre_at(argv[at + 1], argv[at + 2])
            self.has_centre = option
            return 3
        if option == b"BYRADIUS" and left >= 2 and is_search and self.has_shape != b"BYBOX":
            self.within_radius(argv[at + 1], argv[at + 2])
            self.has_shape = option
            return 3
        if option == b"BYBOX" and left >= 3 and is_search and self.has_shape != b"BYRADIUS":
            self.within_box(argv[at + 1], argv[at + 2], argv[at + 3])
            self.has_shape = option
            return 4
        raise CommandError(SYNTAX)

    def _check_search(self, name: bytes) -> None:
        if not self.has_centre:
            message = b"ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for " + name
            raise CommandError(Error(message))
        if not self.has_shape:
            raise CommandError(Error(b"ERR exactly one of BYRADIUS and BYBOX can be specified for " + name))

    def run(self) -> list[_Found]:
        """What is inside, in the order and number asked for."""
        found: list[_Found] = []
        members = self._members
        if members is None:
            return found
        for low, high in self.shape.score_ranges():
            if self.any and len(found) >= self.count:
                break
            self._search(members, low, high, found)
        if self.is_sorted:
            found.sort(key=_metres_of, reverse=self.descending)
        return found[: self.count] if self.count else found

    def _search(self, members: SortedSet, low: int, high: int, found: list[_Found]) -> None:
        first, end = members.by_score(float(low), float(high), False, True)
        while first < end:
            for points, member in members.slice(first, min(first + _STEP, end)):
                place = self.shape.distance_if_inside(points)
                if place is not None:
                    found.append(_Found(member, points, place))
                    if self.any and len(found) >= self.count:
                        return
            first += _STEP


def _answer(ctx: Context, query: _Query) -> object:
    found = query.run()
    unit_m = query.shape.unit_m
    if query.store is not None:
        return _store(ctx, query, found, unit_m)
    if not (query.with_distance or query.with_score or query.with_place):
        return [each.member for each in found]
    rows: list[object] = []
    for each in found:
        row: list[object] = [each.member]
        if query.with_distance:
            row.append(_metres(each.metres, unit_m))
        if query.with_score:
            row.append(int(each.points))
        if query.with_place:
            row.append([_coordinate(ctx, each.longitude), _coordinate(ctx, each.latitude)])
        rows.append(row)
    return rows


def _store(ctx: Context, query: _Query, found: list[_Found], unit_m: float) -> int:
    assert query.store is not None
    if not found:
        ctx.db.remove(query.store)
        return 0
    by_distance = query.store_distance
    scores = {each.member: each.metres / unit_m if by_distance else each.points for each in found}
    event = b"geosearchstore" if query.has_centre else b"georadiusstore"
    ctx.db.put(query.store, ZSET, SortedSet(scores), NEVER, event)
    return len(scores)


@command(
    "GEOSEARCH",
    arity=-7,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="6.2.0",
    summary="The members of a sorted set inside a circle or a box around a member or a place.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax="key <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | "
    "BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]",
)
def geosearch(ctx: Context, argv: list[bytes]) -> object:
    query = _Query(_members(ctx, argv[1]), _SEARCH)
    query.parse(argv, 2)
    return _answer(ctx, query)


@command(
    "GEOSEARCHSTORE",
    arity=-8,
    flags=WRITE | DENYOOM,
    keys=FIRST_TWO,
    group="geo",
    since="6.2.0",
    summary="GEOSEARCH whose result becomes a sorted set, with STOREDIST of the distances; returns its size.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax="destination source <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius "
    "<M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [STOREDIST]",
)
def geosearchstore(ctx: Context, argv: list[bytes]) -> object:
    query = _Query(_members(ctx, argv[2]), _SEARCH | _TARGETED)
    query.store = argv[1]
    query.parse(argv, 3)
    return _answer(ctx, query)


def _store_keys(first_option: int) -> KeyFinder:
    def find(argv: list[bytes]) -> list[bytes]:
        # The key, and the destination that counts, which is the last.
        keys = argv[1:2]
        for at in range(len(argv) - 2, first_option - 1, -1):
            if argv[at].upper() in (b"STORE", b"STOREDIST"):
                return [*keys, argv[at + 1]]
        return keys

    return find


def _around_place(ctx: Context, argv: list[bytes], flags: int) -> object:
    query = _Query(_members(ctx, argv[1]), flags)
    query.centre_at(argv[2], argv[3])
    query.within_radius(argv[4], argv[5])
    query.parse(argv, 6)
    return _answer(ctx, query)


def _around_member(ctx: Context, argv: list[bytes], flags: int) -> object:
    members = _members(ctx, argv[1])
    query = _Query(members, flags)
    if members is not None:
        query.centre_on(argv[2])
        query.within_radius(argv[3], argv[4])
    query.parse(argv, 5)
    return _answer(ctx, query)


_RADIUS_OPTIONS: Final = "[WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]"


@command(
    "GEORADIUS",
    arity=-6,
    flags=WRITE | DENYOOM | MOVABLEKEYS,
    keys=FIRST,
    find_keys=_store_keys(6),
    group="geo",
    since="3.2.0",
    summary="The old form of GEOSEARCH and GEOSEARCHSTORE: a circle around a place.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax=f"key longitude latitude radius <M | KM | FT | MI> {_RADIUS_OPTIONS} [STORE key] [STOREDIST key]",
)
def georadius(ctx: Context, argv: list[bytes]) -> object:
    return _around_place(ctx, argv, _MAY_STORE)


@command(
    "GEORADIUS_RO",
    arity=-6,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="3.2.10",
    summary="GEORADIUS without STORE: a read.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax=f"key longitude latitude radius <M | KM | FT | MI> {_RADIUS_OPTIONS}",
)
def georadius_ro(ctx: Context, argv: list[bytes]) -> object:
    return _around_place(ctx, argv, 0)


@command(
    "GEORADIUSBYMEMBER",
    arity=-5,
    flags=WRITE | DENYOOM | MOVABLEKEYS,
    keys=FIRST,
    find_keys=_store_keys(5),
    group="geo",
    since="3.2.0",
    summary="The old form of GEOSEARCH and GEOSEARCHSTORE: a circle around a member.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax=f"key member radius <M | KM | FT | MI> {_RADIUS_OPTIONS} [STORE key] [STOREDIST key]",
)
def georadiusbymember(ctx: Context, argv: list[bytes]) -> object:
    return _around_member(ctx, argv, _MAY_STORE)


@command(
    "GEORADIUSBYMEMBER_RO",
    arity=-5,
    flags=READ,
    keys=FIRST,
    group="geo",
    since="3.2.10",
    summary="GEORADIUSBYMEMBER without STORE: a read.",
    complexity="O(N+log(M)) with N members in the grid cells around and M inside",
    syntax=f"key member radius <M | KM | FT | MI> {_RADIUS_OPTIONS}",
)
def georadiusbymember_ro(ctx: Context, argv: list[bytes]) -> object:
    return _around_member(ctx, argv, 0)
