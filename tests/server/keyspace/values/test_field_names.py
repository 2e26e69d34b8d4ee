"""Names of fields that small hashes share: one object each, and what is saved by that is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.keyspace.keyspace import Keyspace
from server.keyspace.values.field_names import MOST, SMALL, FieldNames, saved_by
from server.keyspace.weights import BYTES_OVERHEAD
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def anew(name: bytes) -> bytes:
    """Another object with the same bytes, as each command that arrives has its own."""
    return bytes(bytearray(name))


def record(names: FieldNames, fields: list[bytes]) -> dict[bytes, bytes]:
    """A hash with these fields, as HSET makes one."""
    return dict.fromkeys(names.shared_all([anew(field) for field in fields]), b"value")


def test_hashes_have_the_same_objects_for_the_same_names() -> None:
    names = FieldNames()
    first, second = record(names, [b"city", b"street"]), record(names, [b"street", b"city"])
    assert {id(name) for name in first} == {id(name) for name in second}
    assert names.shared(anew(b"city")) is next(iter(first))
    assert len(names) == 2


def test_what_is_saved_is_told_to_the_byte() -> None:
    names = FieldNames()
    hashes = [record(names, [b"city", b"street"]) for _ in range(100)]
    assert names.survey() == 99 * (2 * BYTES_OVERHEAD + len(b"citystreet"))
    del hashes[10:]
    assert names.survey() == 9 * (2 * BYTES_OVERHEAD + len(b"citystreet"))


def test_names_that_no_hash_has_are_forgotten() -> None:
    names = FieldNames()
    kept = record(names, [b"city"])
    gone = record(names, [b"street"])
    names.survey()
    assert len(names) == 2
    gone.clear()
    names.survey()
    assert len(names) == 1
    assert names.survey() == 0
    assert names.shared(anew(b"city")) is next(iter(kept))


def test_full_table_takes_no_names_and_then_forgets_those_of_one_hash() -> None:
    names = FieldNames()
    common = [record(names, [b"city"]) for _ in range(2)]
    maps = [record(names, [b"%d" % (number + 100)]) for number in range(MOST + 10)]
    assert len(names) == MOST
    late = anew(b"late")
    assert names.shared(late) is late
    assert names.shared(anew(b"late")) is not late
    names.survey()
    assert len(names) == 1
    assert names.shared(anew(b"city")) is next(iter(common[1]))
    assert len(maps) == MOST + 10


def test_names_of_somebody_else_are_told_by_their_references() -> None:
    owned = [anew(b"city"), b"c"]
    before = saved_by(owned)
    copies = [{owned[0]: b"value", owned[1]: b"value"} for _ in range(50)]
    assert saved_by(owned) - before == len(copies) * (BYTES_OVERHEAD + 4)


def test_every_command_that_makes_a_field_shares_its_name(bench: Workbench) -> None:
    for key in ("one", "two"):
        bench.run("HSET", key, "a field", "1")
        bench.run("HSET", key, "second", "1")
        bench.run("HSET", key, "third", "1", "fourth", "1")
        bench.run("HSETNX", key, "fifth", "1")
        bench.run("HINCRBY", key, "sixth", "1")
        bench.run("HINCRBYFLOAT", key, "seventh", "1.5")
        bench.run("HINCRBY", f"of {key}", "eighth", "1")
        bench.run("HSET", f"whole {key}", "ninth", "1", "tenth", "1")
    for head in ("", "of ", "whole "):
        first, second = (dict_of(bench, head + key) for key in ("one", "two"))
        assert {id(name) for name in first} == {id(name) for name in second}


def dict_of(bench: Workbench, key: str) -> dict[bytes, bytes]:
    """A hash as memory has it."""
    entry = bench.db.held(key.encode())
    assert entry is not None
    assert isinstance(entry.value, dict)
    return entry.value


def test_large_hash_keeps_its_names_to_itself(bench: Workbench) -> None:
    words = [word for number in range(SMALL + 1) for word in (f"field {number}", "value")]
    bench.run("HSET", "map", *words)
    assert len(bench.db.names) == 0
    bench.run("HSET", "map", "another", "value")
    assert len(bench.db.names) == 0
    bench.run("HSET", "record", "another", "value")
    assert len(bench.db.names) == 1


def test_keyspace_tells_what_is_shared() -> None:
    keyspace = Keyspace(1, 1)
    database = keyspace.database(0)
    hashes = [record(database.names, [b"city", b"street"]) for _ in range(100)]
    before = keyspace.used()
    keyspace.survey(0)
    assert before - keyspace.used() == (len(hashes) - 1) * (2 * BYTES_OVERHEAD + 10)
