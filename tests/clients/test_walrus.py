"""walrus: containers, models with indexes, autocompletion, its cache, time series, and what it does in Lua."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

walrus = pytest.importorskip("walrus", reason="walrus is not installed (extra `clients`)")

# It calls redis-py by names that are going out of use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def db(port: int) -> Iterator[Any]:
    opened = walrus.Database(port=port)
    yield opened
    opened.close()


def test_containers_behave_as_python_s(db: Any) -> None:
    h = db.Hash("h")
    h.update(name="Ada", born=1815)
    assert h["name"] == b"Ada"
    assert dict(h) == {b"name": b"Ada", b"born": b"1815"}
    del h["born"]
    assert "born" not in h
    numbers = db.List("l")
    numbers.extend(range(5))
    assert numbers[1:3] == [b"1", b"2"]
    numbers[0] = "zero"
    assert numbers.popleft() == b"zero"
    assert len(numbers) == 4
    s, t = db.Set("s"), db.Set("t")
    s.add("a", "b", "c")
    t.add("b", "d")
    assert (s & t) == {b"b"}
    assert (s | t) == {b"a", b"b", b"c", b"d"}
    assert (s - t) == {b"a", b"c"}
    z = db.ZSet("z")
    z.add({"x": 1, "y": 2, "z": 3})
    assert z.score("y") == 2.0
    assert z.incr("x", 9) == 10.0
    assert [name for name, _ in z.range(0, -1, with_scores=True)] == [b"y", b"z", b"x"]
    hll = db.HyperLogLog("hll")
    hll.add(*[str(number) for number in range(100)])
    assert 95 <= len(hll) <= 105
    bits = db.bit_field("bits")
    assert bits.set("u8", 0, 200).incrby("u8", 0, 100, "SAT").execute() == [0, 255]


def test_models_are_found_by_their_indexes(db: Any) -> None:
    class Person(walrus.Model):  # type: ignore[misc, name-defined]
        __database__ = db
        name = walrus.TextField(primary_key=True)
        age = walrus.IntegerField(index=True)
        about = walrus.TextField(fts=True)

    for name, age, about in (("Ada", 36, "wrote programs"), ("Alan", 41, "broke codes"), ("Grace", 85, "programs too")):
        Person.create(name=name, age=age, about=about)
    assert Person.load("Ada").age == 36
    assert [each.name for each in Person.query(Person.age > 40, order_by=Person.age)] == ["Alan", "Grace"]
    assert sorted(each.name for each in Person.query(Person.about.search("programs"))) == ["Ada", "Grace"]
    Person.load("Ada").delete()
    assert sorted(each.name for each in Person.all()) == ["Alan", "Grace"]


def test_autocompletion_offers_titles(db: Any) -> None:
    complete = db.autocomplete()
    for title in ("red apple", "red onion", "green apple"):
        complete.store(title, title)
    assert sorted(complete.search("red")) == ["red apple", "red onion"]
    assert sorted(complete.search("app")) == ["green apple", "red apple"]
    complete.remove("red apple")
    assert list(complete.search("app")) == ["green apple"]


def test_cached_function_and_rate_limit(db: Any) -> None:
    cache = db.cache()
    calls: list[int] = []

    @cache.cached(timeout=60)  # type: ignore[untyped-decorator]
    def square(number: int) -> int:
        calls.append(number)
        return number * number

    assert [square(4), square(4)] == [16, 16]
    square.bust(4)
    assert square(4) == 16
    assert calls == [4, 4]
    limit = db.rate_limit("logins", limit=3, per=3600)
    assert [limit.limit("ada") for _ in range(4)] == [False, False, False, True]


def test_time_series_is_read_by_consumer_groups(db: Any) -> None:
    series = db.time_series("readers", ["temperature", "humidity"])
    series.create()
    for number in range(10):
        series.temperature.add({"value": str(number)})
        series.humidity.add({"value": str(-number)})
    got = series.read()
    assert len(got) == 20
    assert sorted({message.stream for message in got}) == ["humidity", "temperature"]
    for message in got:
        (series.temperature if message.stream == "temperature" else series.humidity).ack(message.message_id)
    assert series.read() == []


def test_array_and_lock_are_scripts(db: Any) -> None:
    array = db.Array("array")
    array.extend(["a", "b", "c", "d"])
    assert array[1] == b"b"
    assert array.pop(0) == b"a"
    assert list(array) == [b"b", b"c", b"d"]
    lock = db.lock("resource", ttl=20_000)
    assert lock.acquire() is True
    assert db.lock("resource", ttl=20_000, lock_id="a rival's").acquire(block=False) is False
    assert lock.release() is True
