"""What the fake adds to the contract: faults on demand, and which URL opens which store."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from persistence.breaker import Breaker
from persistence.errors import MappingRejected, RowRejected, StoreDown, StoreTimeout
from persistence.managed import ManagedPrefix
from persistence.mapping import DELETE, REPLACE, Mapping, MappingError, RowOp, build_mapping
from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.rows import ColumnShape, RelationShape
from persistence.stores.memory import AFTER, BEFORE, MemoryStore
from persistence.stores.postgres import PostgresStore
from persistence.stores.registry import open_store
from persistence.stores.sqlite import SqliteStore
from server.clock import SystemClock

SHAPE = RelationShape(
    "t",
    (ColumnShape("id", "INTEGER", False, False, False), ColumnShape("n", "INTEGER", True, False, False)),
    (("id",),),
    False,
)
RULE = PrefixRule(Template("t:{id:int}"), store="main", table="t", value="hash", read=READ_THROUGH, write=WRITE_THROUGH)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore("main")
    made.define(SHAPE)
    return made


def mapping_of(store: MemoryStore) -> Mapping:
    return build_mapping(RULE, SHAPE, store.dialect)


def replace(mapping: Mapping, number: int, n: object) -> RowOp:
    return RowOp(mapping, REPLACE, (number,), ("n",), (n,))


async def test_a_fault_before_an_operation_prevents_it(store: MemoryStore) -> None:
    mapping = mapping_of(store)

    async def fault(moment: str, operation: str) -> None:
        if (moment, operation) == (BEFORE, "apply"):
            raise StoreDown("on demand")

    store.fault = fault
    with pytest.raises(StoreDown):
        await store.apply([replace(mapping, 1, 1)], False)
    assert await store.load_many(mapping, [(1,)]) == {}


async def test_a_fault_after_a_write_leaves_it_done(store: MemoryStore) -> None:
    mapping = mapping_of(store)

    async def fault(moment: str, operation: str) -> None:
        if (moment, operation) == (AFTER, "apply"):
            raise StoreTimeout("the answer was lost")

    store.fault = fault
    with pytest.raises(StoreTimeout):
        await store.apply([replace(mapping, 1, 1)], False)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 1)}


async def test_a_load_sees_the_rows_of_the_moment_before_its_delay(store: MemoryStore) -> None:
    # The race that epochs are for: the old row is read, a write overtakes, the old row arrives.
    mapping = mapping_of(store)
    await store.apply([replace(mapping, 1, 1)], False)

    async def fault(moment: str, operation: str) -> None:
        if (moment, operation) == (AFTER, "load_many"):
            store.fault = None
            await store.apply([replace(mapping, 1, 2)], False)

    store.fault = fault
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 1)}
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 2)}


async def test_every_operation_is_announced_before_and_after(store: MemoryStore) -> None:
    mapping = mapping_of(store)
    moments: list[tuple[str, str]] = []

    async def fault(moment: str, operation: str) -> None:
        moments.append((moment, operation))

    store.fault = fault
    await store.ping()
    await store.describe("t")
    await store.create_generic()
    await store.load_many(mapping, [(1,)])
    await store.apply([RowOp(mapping, DELETE, (1,))], False)
    await store.reap_generic(0, 1)
    names = ("ping", "describe", "create_generic", "load_many", "apply", "reap_generic")
    assert moments == [(moment, name) for name in names for moment in (BEFORE, AFTER)]


async def test_a_refused_transaction_restores_what_earlier_rows_of_it_changed(store: MemoryStore) -> None:
    mapping = mapping_of(store)
    table = store.define(SHAPE, check=lambda row: row["n"] != 13)
    await store.apply([replace(mapping, 1, 1), replace(mapping, 2, 2)], False)
    before = {key: dict(row) for key, row in table.rows.items()}
    ops = [replace(mapping, 1, 5), RowOp(mapping, DELETE, (2,)), replace(mapping, 3, 3), replace(mapping, 9, 13)]
    with pytest.raises(RowRejected):
        await store.apply(ops, False)
    assert table.rows == before


async def test_the_fake_runs_no_sql(store: MemoryStore) -> None:
    with pytest.raises(MappingRejected):
        await store.describe_query("SELECT 1", 1)
    custom = PrefixRule(Template("t:{id:int}"), store="main", table="t", value="hash", load="SELECT 1")
    with pytest.raises(MappingError, match="runs no SQL"):
        build_mapping(custom, SHAPE, store.dialect)


def test_a_url_names_its_store(tmp_path: Path) -> None:
    assert isinstance(open_store("a", "postgresql://u@h/d", 4, 1.0), PostgresStore)
    assert isinstance(open_store("a", "postgres://u@h/d", 4, 1.0), PostgresStore)
    assert isinstance(open_store("a", "memory:", 4, 1.0), MemoryStore)
    assert isinstance(open_store("a", f"sqlite:///{tmp_path}/x.db", 4, 1.0), SqliteStore)
    with pytest.raises(ValueError, match="unknown kind of store 'mysql'"):
        open_store("a", "mysql://h/d", 4, 1.0)


async def test_a_sqlite_path_is_relative_with_three_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in (("sqlite:///near.db", "near.db"), (f"sqlite:///{tmp_path}/far.db", "far.db")):
        store = open_store("a", url, 2, 1.0)
        await store.create_generic()
        await store.close(1.0)
        assert (tmp_path / path).exists()


async def test_a_table_of_ours_whose_creation_is_not_answered_makes_no_write_unknown(store: MemoryStore) -> None:
    async def lose_the_answer(moment: str, operation: str) -> None:
        if (moment, operation) == (AFTER, "create_generic"):
            raise StoreTimeout("no answer in time")

    rule = PrefixRule(Template("kv:{id}"), store="main", write="write-behind")
    prefix = ManagedPrefix(rule, store, Breaker("main", SystemClock(), Random(0)))
    store.fault = lose_the_answer
    with pytest.raises(StoreDown, match="no answer in time"):
        await prefix.prepare()
    store.fault = None
    assert (await prefix.prepare()).writes_members is False
