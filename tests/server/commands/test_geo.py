"""Geo commands: scores, distances, results and their order as a real Redis has them; refusals."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from protocol.replies import NIL_ARRAY, Error
from server.commands.spec import COMMANDS
from tests.server.commands.test_against_redis import Redis, redis_port, tree  # noqa: F401 - a fixture
from tests.server.commands.workbench import Workbench


@pytest.fixture(scope="module", params=[2, 3], ids=["resp2", "resp3"])
def connection(request: pytest.FixtureRequest, redis_port: int) -> Iterator[tuple[Redis, int]]:  # noqa: F811
    redis = Redis(redis_port, request.param)
    yield redis, request.param
    redis.close()


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    bench = Workbench(request.param)
    bench.run("GEOADD", "sicily", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania")
    return bench


# -- against a real one -----------------------------------------------------------------------------------------------

MEMBERS = [b"m%d" % number for number in range(30)]
# Middles and widths of the regions: ordinary, around 0, at the edges of the map, near the poles, everywhere.
REGIONS = [(13, 38, 3), (0, 0, 10), (179.9, 10, 2), (-179.5, -60, 5), (20, 84, 6), (5, -80, 20), (0, 0, 180)]


class Generator:
    """Random geo commands in one region."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.longitude, self.latitude, self.width = self.random.choice(REGIONS)

    def place(self) -> list[bytes]:
        longitude = self.longitude + self.random.uniform(-self.width, self.width)
        latitude = self.latitude + self.random.uniform(-self.width, self.width)
        return [b"%.6f" % max(-180, min(180, longitude)), b"%.6f" % max(-85.05, min(85.05, latitude))]

    def some(self, *options: list[bytes], most: int) -> list[bytes]:
        chosen = self.random.sample(options, self.random.randint(0, most))
        return [word for option in chosen for word in option]

    def unit(self) -> bytes:
        return self.random.choice([b"m", b"km", b"ft", b"MI", b"km", b"km", b"km", b"parsec"])

    def length(self) -> bytes:
        lengths = [b"0", b"1", b"100", b"500", b"5000", b"30000", b"200000"]
        return self.random.choice([b"-1", b"x"] if self.random.random() < 0.05 else lengths)

    def options(self) -> list[bytes]:
        count = [b"COUNT", self.random.choice([b"1", b"5", b"1000", b"0", b"x"])]
        return self.some([b"ASC"], [b"DESC"], [b"WITHDIST"], [b"WITHCOORD"], [b"withhash"], count, [b"ANY"], most=4)

    def centre(self) -> list[bytes]:
        luck = self.random.random()
        if luck < 0.05:
            return []
        return [b"FROMMEMBER", self.member()] if luck < 0.5 else [b"FROMLONLAT", *self.place()]

    def member(self) -> bytes:
        return self.random.choice(MEMBERS if self.random.random() < 0.95 else [b"nosuch"])

    def command(self) -> list[bytes]:
        key = self.random.choice([b"z"] * 9 + [b"nokey", b"string"])
        box = [b"BYBOX", self.length(), self.length(), self.unit()]
        shape = self.random.choice(
            [[b"BYRADIUS", self.length(), self.unit()], box, box if self.random.random() < 0.2 else [*box, b"ASC"]]
        )
        store = self.some([b"STORE", b"dest"], [b"STOREDIST", b"dest"], most=1)
        conditions = self.some([b"NX"], [b"XX"], [b"CH"], most=2)
        choices = [
            [b"GEOSEARCH", key, *self.centre(), *shape, *self.options()],
            [b"GEOSEARCH", key, *self.options(), *shape, *self.centre()],
            [
                b"GEOSEARCHSTORE",
                b"dest",
                key,
                *self.centre(),
                *shape,
                *self.some([b"STOREDIST"], [b"WITHDIST"], most=1),
            ],
            [b"GEORADIUS", key, *self.place(), self.length(), self.unit(), *self.options(), *store],
            [b"GEORADIUS_RO", key, *self.place(), self.length(), self.unit(), *self.options()],
            [b"GEORADIUSBYMEMBER", key, self.member(), self.length(), self.unit(), *self.options(), *store],
            [b"GEORADIUSBYMEMBER_RO", key, self.member(), self.length(), self.unit(), *self.options(), *store],
            [b"GEODIST", key, self.member(), self.member(), *self.some([self.unit()], [b"m"], most=2)],
            [b"GEOPOS", key, self.member(), self.member()],
            [b"GEOHASH", key, self.member(), self.member()],
            [b"GEOADD", key, *conditions, *self.place(), self.member()],
            [b"GEOADD", key, *conditions, b"1", self.random.choice([b"86", b"x", b"nan"]), self.member()],
            [b"ZRANGE", b"dest", b"0", b"-1"],
        ]
        return self.random.choice(choices)


def rounded(reply: object) -> object:
    """Numbers as numbers: Redis prints 17 decimals where RESP3 knows doubles."""
    if isinstance(reply, list):
        return [rounded(part) for part in reply]
    try:
        return round(float(reply), 8)  # type: ignore[arg-type]
    except ValueError:
        return reply


@pytest.mark.parametrize("seed", range(25))
def test_random_commands_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    redis, protocol = connection
    generator = Generator(seed)
    places = [word for member in MEMBERS for word in (*generator.place(), member)]
    commands = [[b"GEOADD", b"z", *places], [b"SET", b"string", b"x"], *[generator.command() for _ in range(80)]]
    bench = Workbench()
    bench.context.protocol = protocol
    for argv, their in zip(commands, redis.run([[b"FLUSHALL"], *commands])[1:], strict=True):
        our = bench.wire(*argv)
        assert our == their or rounded(tree(our)) == rounded(tree(their)), (argv, our, their)
    bench.check()


# -- by ourselves -----------------------------------------------------------------------------------------------------


def test_places_of_the_manual(bench: Workbench) -> None:
    assert bench.run("GEODIST", "sicily", "Palermo", "Catania") == b"166274.1516"
    assert bench.run("GEODIST", "sicily", "Palermo", "Catania", "km") == b"166.2742"
    assert bench.run("GEOHASH", "sicily", "Palermo", "nosuch") == [b"sqc8b49rny0", None]
    assert bench.run("GEOPOS", "sicily", "Palermo", "nosuch") == [
        [b"13.36138933897018433", b"38.11555639549629859"],
        NIL_ARRAY,
    ]
    assert bench.run("ZSCORE", "sicily", "Palermo") == 3479099956230698.0


def test_infinite_lengths_reach_around_the_globe(bench: Workbench) -> None:
    bench.run("GEOADD", "z", 13.361389, 38.115556, "Palermo", -122, 37, "California")
    everything = [b"Palermo", b"California"]
    assert bench.run("GEORADIUS", "z", 15, 37, "inf", "km", "ASC") == everything
    assert bench.run("GEORADIUSBYMEMBER_RO", "z", "Palermo", "1e308", "km", "ASC") == everything
    assert bench.run("GEOSEARCH", "z", "FROMLONLAT", 15, 37, "BYBOX", "inf", "inf", "m", "ASC") == everything


def test_results_are_stored(bench: Workbench) -> None:
    words = ("FROMLONLAT", 15, 37, "BYRADIUS", 200, "km")
    assert bench.run("GEOSEARCHSTORE", "dest", "sicily", *words) == 2
    assert bench.run("GEODIST", "dest", "Palermo", "Catania") == b"166274.1516"
    assert bench.run("GEOSEARCHSTORE", "dest", "sicily", *words, "STOREDIST", "COUNT", 1) == 1
    assert bench.run("ZRANGE", "dest", 0, -1) == [b"Catania"]
    assert bench.run("GEOSEARCHSTORE", "dest", "nosuch", *words) == 0
    assert bench.run("EXISTS", "dest") == 0
    bench.check()


def test_members_without_a_sensible_score_do_no_harm(bench: Workbench) -> None:
    bench.run("ZADD", "z", "inf", "a", "-inf", "b", "-1", "c", "1e300", "d", "0.5", "e")
    found = bench.run("GEOPOS", "z", "a", "b", "c", "d", "e")
    assert isinstance(found, list)
    assert all(len(place) == 2 for place in found)
    assert isinstance(bench.run("GEOSEARCH", "z", "FROMLONLAT", 0, 0, "BYBOX", 40_000, 40_000, "km"), list)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("GEOADD", "z", 181, 0, "m"), "ERR invalid longitude,latitude pair 181.000000,0.000000"),
        (("GEOADD", "z", 0, 86, "m"), "ERR invalid longitude,latitude pair 0.000000,86.000000"),
        (("GEOADD", "z", "NX", "XX", 0, 0, "m"), "ERR syntax error"),
        (("GEOADD", "z", 0, 0, "m", 1), "ERR syntax error"),
        (
            ("GEODIST", "sicily", "Palermo", "Catania", "parsec"),
            "ERR unsupported unit provided. please use M, KM, FT, MI",
        ),
        (("GEOSEARCH", "sicily", "FROMMEMBER", "x", "BYRADIUS", 1, "km"), "ERR could not decode requested zset member"),
        (
            ("GEOSEARCH", "sicily", "BYRADIUS", 1, "km", "ASC", "WITHDIST"),
            "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for GEOSEARCH",
        ),
        (
            ("GEOSEARCH", "sicily", "FROMLONLAT", 1, 1, "ASC", "WITHDIST"),
            "ERR exactly one of BYRADIUS and BYBOX can be specified for GEOSEARCH",
        ),
        (
            ("GEOSEARCH", "sicily", "FROMLONLAT", 1, 1, "BYRADIUS", 1, "m", "ANY"),
            "ERR the ANY argument requires COUNT argument",
        ),
        (
            ("GEORADIUS", "sicily", 1, 1, 1, "m", "STORE", "d", "WITHDIST"),
            "ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options",
        ),
    ],
)
def test_bad_arguments_are_refused(bench: Workbench, words: tuple[object, ...], message: str) -> None:
    assert bench.run(*words) == Error(message)  # type: ignore[arg-type]


def test_destination_is_among_the_keys() -> None:
    spec = COMMANDS["georadius"]
    words = [b"GEORADIUS", b"k", b"1", b"1", b"1", b"m", b"STORE", b"a", b"STOREDIST", b"b"]
    assert spec.keys_of(words) == [b"k", b"b"]
    assert spec.keys_of(words[:6]) == [b"k"]
