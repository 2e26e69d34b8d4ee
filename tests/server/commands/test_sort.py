"""SORT: orders, cuts and look-ups as a real Redis has them; what cannot be loaded first is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from protocol.replies import Error
from server.commands.spec import COMMANDS
from tests.server.commands.test_against_redis import Redis, redis_port  # noqa: F401 - a fixture
from tests.server.commands.workbench import Workbench


@pytest.fixture(scope="module", params=[2, 3], ids=["resp2", "resp3"])
def connection(request: pytest.FixtureRequest, redis_port: int) -> Iterator[tuple[Redis, int]]:  # noqa: F811
    redis = Redis(redis_port, request.param)
    yield redis, request.param
    redis.close()


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    bench = Workbench(request.param)
    bench.run("RPUSH", "l", 3, 1, 2)
    return bench


class Generator:
    """Keys to sort, keys to look at, and random SORTs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        odd = self.random.choice([[], [], [b"1.5", b"", b" 3"], [b"a", b"zz", b"0x1p3"]])
        self.pool = [b"%d" % self.random.randrange(-20, 20) for _ in range(6)] + odd

    def fill(self) -> list[list[bytes]]:
        choices = self.random.choices
        scored = [word for member in choices(self.pool, k=6) for word in (b"%d" % self.random.randrange(9), member)]
        commands = [
            [b"RPUSH", b"l", *choices(self.pool, k=8)],
            [b"SADD", b"s", *choices(self.pool, k=8)],
            [b"ZADD", b"z", *scored],
            [b"SET", b"string", b"x"],
        ]
        for element in self.pool:
            # Different ones: the order of equal texts is left open.
            weight = b"%d" % self.random.randrange(100_000)
            commands += [[b"SET", b"w_" + element, weight], [b"HSET", b"h_" + element + b"x", b"f", weight]]
        commands.append([b"DEL", b"w_" + self.pool[0], b"h_" + self.pool[0] + b"x"])
        return commands

    def command(self) -> list[bytes]:
        number = [b"0", b"2", b"-1", b"20", *([b"x"] if self.random.random() < 0.1 else [])]
        key = self.random.choice([b"l", b"s", b"z", b"l", b"z", b"nokey", b"string"])
        # The order of a set is its own.
        by = [b"w_*", b"h_*x->f", b"h_*x->g", b"w_*->", *([] if key == b"s" else [b"nosort"])]
        options = [
            [b"ASC"],
            [b"DESC"],
            [b"LIMIT", self.random.choice(number), self.random.choice(number)],
            [b"BY", self.random.choice(by)],
            [b"GET", self.random.choice([b"#", b"w_*", b"h_*x->f", b"constant"])],
            [b"GET", b"#"],
            [b"STORE", self.random.choice([b"d", b"l"])],
            self.random.choice([[b"ALPHA"], [b"alpha"], [b"ALPHA"], [b"BAD"], [b"LIMIT", b"1"]]),
        ]
        chosen = self.random.sample(options, self.random.randint(0, 4))
        words = [word for option in chosen for word in option]
        if b"BY" in words and words[words.index(b"BY") + 1] in (b"w_*->", b"h_*x->g"):
            # All are equal texts.
            words = [word for word in words if word.upper() != b"ALPHA"]
        return [self.random.choice([b"SORT", b"SORT", b"SORT_RO"]), key, *words]


@pytest.mark.parametrize("seed", range(40))
def test_random_commands_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    redis, protocol = connection
    generator = Generator(seed)
    commands = generator.fill()
    for _ in range(30):
        commands += [generator.command(), [b"LRANGE", b"d", b"0", b"-1"]]
    bench = Workbench()
    bench.context.protocol = protocol
    for argv, their in zip(commands, redis.run([[b"FLUSHALL"], *commands])[1:], strict=True):
        our = bench.wire(*argv)
        assert our == their, (argv, our, their)
    bench.check()


def test_elements_are_ordered_by_fields_of_hashes_that_have_not_run_out(bench: Workbench) -> None:
    for element in (1, 2, 3):
        bench.run("HSET", f"h{element}", "f", 10 - element)
    assert bench.run("SORT", "l", "BY", "h*->f") == [b"3", b"2", b"1"]
    bench.run("HEXPIRE", "h1", 5, "FIELDS", 1, "f")
    bench.pass_time(5000)
    assert bench.run("SORT", "l", "BY", "h*->f", "GET", "#", "GET", "h*->f") == [b"1", None, b"3", b"7", b"2", b"8"]


def test_result_is_stored_as_a_list(bench: Workbench) -> None:
    bench.run("SET", "d", "old")
    assert bench.run("SORT", "l", "GET", "nosuch*", "GET", "#", "STORE", "d") == 6
    assert bench.run("LRANGE", "d", 0, -1) == [b"", b"1", b"", b"2", b"", b"3"]
    assert bench.run("SORT", "nosuch", "STORE", "d") == 0
    assert bench.run("EXISTS", "d") == 0
    bench.check()


def test_stored_set_without_an_order_does_not_depend_on_chance(bench: Workbench) -> None:
    bench.run("SADD", "s", "b", "a", "c")
    bench.run("SORT", "s", "BY", "nosort", "STORE", "d")
    assert bench.run("LRANGE", "d", 0, -1) == [b"a", b"b", b"c"]


def test_patterns_do_not_reach_keys_that_would_have_to_be_loaded(bench: Workbench) -> None:
    bench.server.cache.managed.add(b"w2")
    refusal = Error("ERR BY and GET patterns of SORT cannot reach keys under a prefix rule")
    assert bench.run("SORT", "l", "BY", "w*") == refusal
    assert bench.run("SORT_RO", "l", "GET", "w*") == refusal
    assert bench.run("SORT", "l", "BY", "v*") == [b"1", b"2", b"3"]


def test_destination_is_among_the_keys() -> None:
    keys = COMMANDS["sort"].keys_of
    assert keys([b"SORT", b"l"]) == [b"l"]
    assert keys([b"SORT", b"l", b"STORE", b"a", b"ALPHA", b"store", b"b"]) == [b"l", b"b"]
    assert COMMANDS["sort_ro"].keys_of([b"SORT_RO", b"l", b"GET", b"x*"]) == [b"l"]
