"""DUMP and RESTORE: payloads travel between a real Redis and us, both ways; hostile ones are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from persistence.change import STREAM
from persistence.field_lifetimes import ExpiringHash
from protocol.replies import OK, Error
from server.commands.crc64 import crc64
from server.commands.rdb_encodings import (
    Malformed,
    listpack_items,
    listpack_of,
    lzf_decompressed,
    ziplist_items,
    zipmap_items,
)
from server.commands.rdb_payload import payload_of, value_of
from server.keyspace.terms import Terms
from tests.server.commands.test_against_redis import Redis, redis_port, tree  # noqa: F401 - a fixture
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench

_FORMAT = Error("ERR Bad data format")
_FOREIGN = Error("ERR DUMP payload version or checksum are wrong")


@pytest.fixture(scope="module")
def redis(redis_port: int) -> Iterator[Redis]:  # noqa: F811
    connection = Redis(redis_port, 2)
    connection.run([[b"CONFIG", b"SET", b"list-compress-depth", b"1"]])
    yield connection
    connection.close()


def numbers(generator: random.Random, count: int) -> list[bytes]:
    """Integers around every width of the packed forms."""
    edges = [0, 12, 13, 127, 128, 4095, 4096, 8191, 32767, 32768, 1 << 23, 1 << 31, 1 << 40, (1 << 63) - 1]
    return [
        b"%d" % (generator.choice(edges) * generator.choice([1, -1]) + generator.choice([0, 0, -1, 1]))
        for _ in range(count)
    ]


def texts(generator: random.Random, count: int) -> list[bytes]:
    sizes = [0, 1, 5, 12, 63, 64, 65, 300]
    return [generator.choice([generator.randbytes(size), b"ab" * size]) for size in generator.choices(sizes, k=count)]


def fills(generator: random.Random) -> list[list[bytes]]:
    """Commands that make one key of each kind, in many encodings."""
    count = generator.choice([1, 3, 20, 150, 700])
    items = generator.choice([numbers, texts])(generator, count)
    large = generator.choice([[], [], [generator.randbytes(10_000)], [b"long" * 5000]])
    scores = [b"%.17g" % generator.choice([1, -1, 0.1, 1e300, -2.5, float("inf")]) for _ in items]
    return [
        [b"SET", b"string", generator.choice([*items, *large])],
        [b"RPUSH", b"list", *items, *large, *items],
        [b"SADD", b"set", *items],
        [b"SADD", b"integers", *[b"%d" % generator.randrange(-(1 << 40), 1 << 40) for _ in items]],
        [b"ZADD", b"zset", *[word for pair in zip(scores, items, strict=True) for word in pair]],
        [b"HSET", b"hash", *[word for item in [*items, *large] for word in (item, item[::-1])]],
    ]


KEYS = (b"string", b"list", b"set", b"integers", b"zset", b"hash")
READS = (
    [b"GET", b"string"],
    [b"LRANGE", b"list", b"0", b"-1"],
    [b"SMEMBERS", b"set"],
    [b"SMEMBERS", b"integers"],
    [b"ZRANGE", b"zset", b"0", b"-1", b"WITHSCORES"],
    [b"HGETALL", b"hash"],
)


def settled(replies: list[bytes]) -> list[object]:
    """Replies without the order that sets and hashes do not have."""
    plain = [tree(reply) for reply in replies]
    return [sorted(part[1], key=repr) if at in (2, 3, 5) else part for at, part in enumerate(plain)]  # type: ignore[index]


@pytest.mark.parametrize("seed", range(15))
def test_payloads_of_redis_are_restored_here(redis: Redis, seed: int) -> None:
    commands = fills(random.Random(seed))
    redis.run([[b"FLUSHALL"], *commands])
    bench = Workbench()
    for key in KEYS:
        (dumped,) = redis.run([[b"DUMP", key]])
        payload = tree(dumped)[1]  # type: ignore[index]
        assert bench.run("RESTORE", key, 0, payload) == OK, key
    ours = [bench.wire(*argv) for argv in READS]
    assert [float(s[1]) for s in tree(ours[4])[1][1::2]] == [
        float(s[1]) for s in tree(redis.run([READS[4]])[0])[1][1::2]
    ]  # type: ignore[index]
    theirs = redis.run([list(argv) for argv in READS])
    both = (settled(ours), settled(theirs))
    assert both[0][:4] + both[0][5:] == both[1][:4] + both[1][5:]
    bench.check()


@pytest.mark.parametrize("seed", range(15))
def test_payloads_of_ours_are_restored_by_redis(redis: Redis, seed: int) -> None:
    bench = Workbench()
    for argv in fills(random.Random(seed)):
        bench.run(*argv)
    payloads = [bench.run("DUMP", key) for key in KEYS]
    assert all(isinstance(payload, bytes) for payload in payloads)
    replies = redis.run(
        [[b"FLUSHALL"], *[[b"RESTORE", key, b"0", payload] for key, payload in zip(KEYS, payloads, strict=True)]]
    )  # type: ignore[list-item]
    assert replies == [b"+OK\r\n"] * 7
    theirs = settled(redis.run([list(argv) for argv in READS]))
    ours = settled([bench.wire(*argv) for argv in READS])
    assert theirs[:4] + theirs[5:] == ours[:4] + ours[5:]
    checks = [[b"ZSCORE", b"zset", member] for member in bench.run("ZRANGE", "zset", 0, -1)]  # type: ignore[attr-defined]
    assert [float(tree(reply)[1]) for reply in redis.run(checks)] == [bench.run(*argv) for argv in checks]  # type: ignore[index]


def stream_commands(generator: random.Random) -> list[list[bytes]]:
    """What makes a stream with deleted entries, groups, and things pending."""
    words = [*texts(generator, 8), *numbers(generator, 8), b"x" * 5000]
    commands: list[list[bytes]] = []
    number = 0
    for _ in range(generator.choice([1, 5, 250])):
        number += generator.choice([1, 1, 1, 77, 1 << 40])
        names = generator.choice([[b"temperature", b"at"], [b"f"], generator.choices(words, k=3)])
        pairs = [word for name in names for word in (name, generator.choice(words))]
        ids = generator.choice([b"%d-1", b"5-%d", b"%d-18446744073709551615"]) if number == 1 else b"%d-1"
        commands.append([b"XADD", b"s", ids % (number + 5), *pairs])
        if generator.random() < 0.2:
            commands.append([b"XDEL", b"s", b"%d-1" % (generator.randint(1, number) + 5)])
    for group in (b"g", b"h", b"i")[: generator.randint(0, 3)]:
        commands.append([b"XGROUP", b"CREATE", b"s", group, generator.choice([b"0", b"$", b"7-0"])])
        reading = [[b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", b"20"] for consumer in (b"ann", b"bob")]
        commands += [[*begun, b"STREAMS", b"s", b">"] for begun in reading]
        commands.append([b"XACK", b"s", group, b"6-1", b"7-1", b"9-1"])
        commands.append([b"XGROUP", b"CREATECONSUMER", b"s", group, b"idle"])
    if generator.random() < 0.3:
        commands.append([b"XTRIM", b"s", b"MAXLEN", b"3"])
    if generator.random() < 0.1:
        commands.append([b"XTRIM", b"s", b"MAXLEN", b"0"])
    return commands


def dumped_stream(payload: object) -> list[Any]:
    assert isinstance(payload, bytes)
    kind, plain = value_of(payload)
    assert kind == STREAM and isinstance(plain, list)
    return plain


def shown(redis: Redis, key: bytes) -> list[object]:
    """A stream as the real server shows it, without the layout of its nodes."""
    asked = [[b"XRANGE", key, b"-", b"+"], [b"XLEN", key], [b"XINFO", b"GROUPS", key], [b"XINFO", b"STREAM", key]]
    entries, length, groups, info = map(tree, redis.run(asked))
    return [entries, length, groups, [part for at, part in enumerate(info[1]) if at not in (2, 3, 4, 5)]]  # type: ignore[index]


@pytest.mark.parametrize("seed", range(14))
def test_streams_go_from_a_redis_to_us_and_back(redis: Redis, seed: int) -> None:
    redis.run([[b"FLUSHALL"], *stream_commands(random.Random(seed))])
    (dumped,) = redis.run([[b"DUMP", b"s"]])
    theirs = tree(dumped)[1]  # type: ignore[index]
    bench = Workbench()
    assert bench.run("RESTORE", "s", 0, theirs) == OK
    bench.check()
    ours = bench.run("DUMP", "s")
    assert dumped_stream(ours) == dumped_stream(theirs)
    assert tree(bench.wire("XRANGE", "s", "-", "+")) == tree(redis.run([[b"XRANGE", b"s", b"-", b"+"]])[0])
    assert isinstance(ours, bytes)
    assert redis.run([[b"RESTORE", b"copy", b"0", ours]]) == [b"+OK\r\n"]
    assert shown(redis, b"copy") == shown(redis, b"s")
    (again,) = redis.run([[b"DUMP", b"copy"]])
    assert dumped_stream(tree(again)[1]) == dumped_stream(theirs)  # type: ignore[index]


@pytest.mark.parametrize("seed", range(20, 28))
def test_streams_of_ours_go_to_a_redis(redis: Redis, seed: int) -> None:
    bench = Workbench()
    for argv in stream_commands(random.Random(seed)):
        bench.run(*argv)
    payload = bench.run("DUMP", "s")
    assert isinstance(payload, bytes)
    assert redis.run([[b"FLUSHALL"], [b"RESTORE", b"s", b"0", payload]]) == [b"+OK\r\n"] * 2
    (dumped,) = redis.run([[b"DUMP", b"s"]])
    assert dumped_stream(tree(dumped)[1]) == dumped_stream(payload)  # type: ignore[index]
    # What waits for ann goes on waiting there.
    (pending,) = redis.run([[b"XPENDING", b"s", b"g"]])
    assert tree(pending) == tree(bench.wire("XPENDING", "s", "g"))


def test_streams_in_the_forms_before_and_after_are_read() -> None:
    entries = listpack_of([2, 0, 1, b"f", 0, 2, 0, 0, b"a", 4, 2, 5, -1, b"b", 4])
    node = b"\x01\x10" + (7 << 64 | 1).to_bytes(16, "big") + bytes((len(entries),)) + entries
    pending = b"\x01" + (7 << 64 | 1).to_bytes(16, "big") + (900).to_bytes(8, "little") + b"\x03"
    mine = b"\x01" + (7 << 64 | 1).to_bytes(16, "big")
    # Redis 5: length, last id; a group that has come to the first entry.
    old = b"\x0f" + node + b"\x02\x0c\x00\x01\x01g\x07\x01" + pending
    old += b"\x01\x03ann" + (800).to_bytes(8, "little") + mine
    bench = Workbench()
    assert bench.run("RESTORE", "old", 0, sealed(old, 9)) == OK
    assert bench.run("XRANGE", "old", "-", "+") == [[b"7-1", (b"f", b"a")], [b"12-0", (b"f", b"b")]]
    plain = dumped_stream(bench.run("DUMP", "old"))
    assert plain[2] == 2 and plain[4] == [  # type: ignore[index]
        [
            b"g",
            (7 << 64 | 1).to_bytes(16, "big"),
            1,
            [[b"ann", 800, 800]],
            [[(7 << 64 | 1).to_bytes(16, "big"), 0, 900, 3]],
        ]
    ]
    # Redis 7.2: first id, highest deleted id, entries added; entries read; and when a consumer was last active.
    new = b"\x15" + node + b"\x02\x0c\x00\x07\x01\x08\x00\x09\x01\x01g\x07\x01\x04" + pending
    new += b"\x01\x03ann" + (800).to_bytes(8, "little") + (700).to_bytes(8, "little") + mine
    plain = dumped_stream(sealed(new, 11))
    assert plain[1:3] == [(8 << 64).to_bytes(16, "big"), 9] and plain[4][0][2:4] == [4, [[b"ann", 800, 700]]]  # type: ignore[index]


# What is written by hand: formats that no Redis at hand writes any more.


def sealed(body: bytes, version: int = 10) -> bytes:
    body += version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def test_checksum_is_that_of_jones() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"") == 0


# Around the sizes from which on it is folded: at all, twice, in several blocks.
@pytest.mark.parametrize("size", [4095, 4096, 4103, 9001, 1 << 18, (1 << 18) + 7, (1 << 18) + 4097, 700_001])
def test_checksum_of_much_is_that_of_its_parts(size: int) -> None:
    data = random.Random(size).randbytes(size)
    # What has its own checksum behind it has none; and what is not folded is the sum of what its halves tell.
    assert crc64(data + crc64(data).to_bytes(8, "little")) == 0
    head, tail = data[: size // 2], data[size // 2 :]
    zeros = bytes(len(tail))
    assert crc64(data) == crc64(head + zeros) ^ crc64(tail)


def test_checksum_by_folding_is_that_by_tables() -> None:
    data = random.Random(1).randbytes(5000)
    expected = 0
    for byte in data:
        expected ^= byte
        for _ in range(8):
            expected = expected >> 1 ^ (0x95AC9329AC4BC9B5 if expected & 1 else 0)
    assert crc64(data) == expected


def test_old_formats_are_read() -> None:
    ziplist = bytes.fromhex("1b000000150000000400000361626305f50648ff")
    # length, tail, count, then: "abc" (prevlen 0), 4 as an immediate, 16-bit and 8-bit integers.
    entries = b"\x00\x03abc" + b"\x05\xf5" + b"\x02\xc0\xff\x7f" + b"\x04\xfe\x80" + b"\x03\xf0\xff\xff\xff"
    ziplist = (11 + len(entries)).to_bytes(4, "little") + b"\0\0\0\0" + b"\x05\0" + entries + b"\xff"
    assert ziplist_items(ziplist) == [b"abc", b"4", b"32767", b"-128", b"-1"]
    assert value_of(sealed(b"\x0a" + bytes((len(ziplist),)) + ziplist, 6)) == (
        1,
        [b"abc", b"4", b"32767", b"-128", b"-1"],
    )
    zipmap = b"\x02\x01a\x02\x01bc?\x01d\x01\x00e\xff"
    assert zipmap_items(zipmap) == [b"a", b"bc", b"d", b"e"]
    assert value_of(sealed(b"\x09" + bytes((len(zipmap),)) + zipmap, 6)) == (4, {b"a": b"bc", b"d": b"e"})
    assert value_of(sealed(b"\x03\x02\x01a\x031.5\x01b\xff", 6)) == (3, {b"a": 1.5, b"b": float("-inf")})


def test_fields_with_lifetimes_travel() -> None:
    bench = Workbench()
    bench.run("HSET", "h", "f", 1, "g", 2, "i", 3)
    bench.run("HEXPIRE", "h", 100, "FIELDS", 1, "f")
    bench.run("HEXPIRE", "h", 50, "FIELDS", 1, "g")
    payload = bench.run("DUMP", "h")
    assert isinstance(payload, bytes)
    assert payload[0] == 24
    assert payload[-10:-8] == b"\x0c\x00"
    assert bench.run("RESTORE", "copy", 0, payload) == OK
    assert bench.run("HTTL", "copy", "FIELDS", 3, "f", "g", "i") == [100, 50, -1]
    # As Redis 7.4 keeps a small one: field, value, deadline in turn, 0 for none.
    now_ms = START_MS + OFFSET_MS
    deadline = b"\xf4" + (now_ms + 7000).to_bytes(8, "little") + b"\x09"
    entries = b"\x81f\x02\x05\x01" + deadline + b"\x81g\x02\x06\x01\x00\x01"
    listpack = (7 + len(entries)).to_bytes(4, "little") + b"\x06\0" + entries + b"\xff"
    body = b"\x19" + (now_ms + 7000).to_bytes(8, "little") + bytes((len(listpack),)) + listpack
    assert bench.run("RESTORE", "small", 0, sealed(body, 12)) == OK
    assert bench.run("HTTL", "small", "FIELDS", 2, "f", "g") == [7, -1]
    bench.check()


def test_dump_knows_no_field_that_ran_out() -> None:
    bench = Workbench()
    bench.run("HSET", "h", "f", 1)
    bench.run("HEXPIRE", "h", 1, "FIELDS", 1, "f")
    bench.pass_time(1000)
    assert bench.run("DUMP", "h") is None
    assert bench.run("DUMP", "nosuch") is None


# -- options ----------------------------------------------------------------------------------------------------------

PAYLOAD = sealed(b"\x00\x03abc")


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    return Workbench(request.param)


def test_lifetime_is_given_as_a_span_or_as_a_point_in_time(bench: Workbench) -> None:
    assert bench.run("RESTORE", "a", 500, PAYLOAD) == OK
    assert bench.run("RESTORE", "b", START_MS + OFFSET_MS + 700, PAYLOAD, "ABSTTL") == OK
    assert bench.run("RESTORE", "c", 0, PAYLOAD, "absttl") == OK
    assert [bench.run("PTTL", key) for key in "abc"] == [500, 700, -1]
    assert bench.run("GET", "a") == b"abc"


def test_key_that_exists_is_replaced_only_on_request(bench: Workbench) -> None:
    bench.run("HSET", "a", "f", "v")
    assert bench.run("RESTORE", "a", 0, PAYLOAD) == Error("BUSYKEY Target key name already exists.")
    assert bench.run("RESTORE", "a", 0, b"rubbish") == Error("BUSYKEY Target key name already exists.")
    assert bench.run("RESTORE", "a", 0, PAYLOAD, "REPLACE") == OK
    assert bench.run("GET", "a") == b"abc"


def test_time_that_is_over_leaves_nothing(bench: Workbench) -> None:
    bench.run("SET", "a", "old")
    assert bench.run("RESTORE", "a", 1, PAYLOAD, "ABSTTL", "REPLACE") == OK
    assert bench.run("EXISTS", "a") == 0
    bench.check()


def test_idle_time_and_frequency_are_taken_over_where_the_policy_goes_by_them() -> None:
    bench = Workbench()
    assert bench.run("RESTORE", "a", 0, PAYLOAD, "IDLETIME", 90) == OK
    assert bench.run("OBJECT", "IDLETIME", "a") == 90
    bench.server.keyspace.limit(Terms(0, "lfu"))
    for frequency in (0, 5, 6, 100, 255):
        assert bench.run("RESTORE", "a", 0, PAYLOAD, "FREQ", frequency, "REPLACE") == OK
        assert bench.run("OBJECT", "FREQ", "a") == max(5, frequency)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        ((-1, PAYLOAD), Error("ERR Invalid TTL value, must be >= 0")),
        (("x", PAYLOAD), Error("ERR value is not an integer or out of range")),
        ((0, PAYLOAD, "BAD"), Error("ERR syntax error")),
        ((0, PAYLOAD, "IDLETIME"), Error("ERR syntax error")),
        ((0, PAYLOAD, "IDLETIME", 1, "FREQ", 1), Error("ERR syntax error")),
        ((0, PAYLOAD, "IDLETIME", -1), Error("ERR Invalid IDLETIME value, must be >= 0")),
        ((0, PAYLOAD, "FREQ", 256), Error("ERR Invalid FREQ value, must be >= 0 and <= 255")),
        ((0, PAYLOAD, "FREQ", "x"), Error("ERR value is not an integer or out of range")),
        ((0, b""), _FOREIGN),
        ((0, PAYLOAD[:-1] + b"!"), _FOREIGN),
        ((0, sealed(b"\x00\x03abc", 99)), _FOREIGN),
        ((0, sealed(b"\x00\x04abc")), _FORMAT),
        ((0, sealed(b"\x00\x02abc")), _FORMAT),
        ((0, sealed(b"\x01\x00")), _FORMAT),
        ((0, sealed(b"\x02\x02\x01a\x01a")), _FORMAT),
        ((0, sealed(b"\x05\x01\x01a" + b"\xff" * 8)), _FORMAT),
        ((0, sealed(b"\x01\x81" + b"\xff" * 8)), _FORMAT),
        ((0, sealed(b"\x07\x00")), Error("ERR values of a module cannot be restored")),
        # Streams: an id behind the last one; no such entries; an owner of what is not pending; no owner.
        ((0, sealed(b"\x0f\x00\x01\x00\x00\x00")), _FORMAT),
        ((0, sealed(b"\x0f\x00\x00\x01\x00\x01\x01g\x00\x00\x00\x01\x01c" + bytes(8) + b"\x01" + bytes(16))), _FORMAT),
        ((0, sealed(b"\x0f\x00\x00\x01\x00\x01\x01g\x00\x00\x01" + bytes(24) + b"\x00\x00")), _FORMAT),
    ],
)
def test_bad_input_is_refused(bench: Workbench, words: tuple[object, ...], reply: Error) -> None:
    assert bench.run("RESTORE", "key", *words) == reply  # type: ignore[arg-type]
    assert bench.run("EXISTS", "key") == 0


def test_payload_without_a_checksum_is_accepted() -> None:
    assert value_of(PAYLOAD[:-8] + bytes(8)) == (0, b"abc")


def test_damaged_values_never_raise_anything_else() -> None:
    generator = random.Random(1)
    whole: list[bytes] = []
    bench = Workbench()
    small = [b"XADD s 5-1 f v", b"XADD s 6-1 f w", b"XGROUP CREATE s g 0", b"XREADGROUP GROUP g ann STREAMS s >"]
    for argv in [*fills(generator), *(line.split() for line in small)]:
        bench.run(*argv)
    for key in (*KEYS, b"s", b"s", b"s", b"s"):
        held = bench.base.held(key)
        assert held is not None
        whole.append(payload_of(held.kind, held.value)[:-10])
    for _ in range(1500):
        body = bytearray(generator.choice(whole)[:400])
        body[0] = generator.choice(
            [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]
        )
        for _ in range(generator.randint(0, 4)):
            body[generator.randrange(1, len(body))] = generator.randrange(256)
        reply = bench.run("RESTORE", "key", 0, sealed(bytes(body)), "REPLACE")
        assert reply in (OK, _FORMAT)
    bench.check()


@pytest.mark.parametrize("read", [listpack_items, ziplist_items, zipmap_items])
def test_packed_forms_that_end_too_soon_are_malformed(read: object) -> None:
    for size in range(12):
        with pytest.raises(Malformed):
            read(size.to_bytes(4, "little") + bytes(max(0, size - 4)))  # type: ignore[operator]


def test_compressed_text_must_have_the_length_that_it_says() -> None:
    assert lzf_decompressed(b"\x00a\xe0\x00\x00", 10) == b"a" * 10
    for size in (9, 11):
        with pytest.raises(Malformed):
            lzf_decompressed(b"\x00a\xe0\x00\x00", size)
    with pytest.raises(Malformed):
        lzf_decompressed(b"\x20\x05", 3)


def test_lifetimes_of_restored_fields_are_their_own() -> None:
    kind, value = value_of(payload_of(4, ExpiringHash({b"f": b"1"}, {b"f": 5})))
    assert kind == 4
    assert value == ExpiringHash({b"f": b"1"}, {b"f": 5})
