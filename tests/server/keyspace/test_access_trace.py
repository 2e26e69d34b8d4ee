"""The access trace: which keys are noted, what of them, and what is forgotten."""

from __future__ import annotations

import random
from itertools import pairwise
from zlib import crc32

from persistence.change import NEVER, STRING
from server.keyspace.access_trace import Access, AccessTrace, sampled_tables
from server.keyspace.keyspace import Keyspace
from server.keyspace.placement import Placement, Share
from server.keyspace.shard import TABLES
from server.keyspace.terms import Terms


def test_tables_are_spread_evenly_and_at_least_one_is_sampled() -> None:
    assert sampled_tables(0.0, TABLES) == frozenset()
    assert len(sampled_tables(0.00001, TABLES)) == 1
    assert len(sampled_tables(0.999, TABLES)) == TABLES - 2
    quarter = sorted(sampled_tables(0.25, TABLES))
    assert {after - before for before, after in pairwise(quarter)} == {3, 4}


def test_ring_keeps_the_newest_in_order() -> None:
    trace = AccessTrace(frozenset((0,)), capacity=10)
    for number in range(25):
        trace.note(b"%d" % number, number, number % 2 == 0)
    assert len(trace) == 10
    assert list(trace.accesses()) == [
        Access(crc32(b"%d" % number), number, 0, number % 2 == 0) for number in range(15, 25)
    ]
    trace.use(None)
    assert list(trace.accesses()) == []


def test_what_was_noted_stays_while_the_prefixes_have_their_numbers() -> None:
    trace = AccessTrace(frozenset((0,)))
    shares = [Share("a:{id}", b"a:", None), Share("b:", b"b:", None)]
    trace.use(Placement(shares))
    trace.note(b"b:1", 10, True)
    trace.use(Placement([Share("a:{id}", b"a:", Terms(100_000, "lru")), shares[1]]))
    assert [access.prefix for access in trace.accesses()] == [2]
    trace.use(Placement([shares[1]]))
    assert len(trace) == 0


def test_access_has_the_number_of_its_prefix_and_a_weight_that_fits() -> None:
    trace = AccessTrace(frozenset((0,)))
    trace.use(Placement([Share("a:b:", b"a:b:", None), Share("a:{id}", b"a:", None)]))
    for key in (b"a:b:1", b"a:1", b"other", b"a"):
        trace.note(key, 1 << 40, True)
    assert [access.prefix for access in trace.accesses()] == [1, 2, 0, 0]
    assert {access.weight for access in trace.accesses()} == {(1 << 32) - 1}


def test_hits_and_newcomers_of_sampled_tables_are_noted_and_of_no_others() -> None:
    for terms in (Terms(), Terms(10_000_000, "s3-fifo"), Terms(10_000_000, "lru")):
        keyspace = Keyspace(2, 4, random.Random(1), 0.25)
        keyspace.limit(terms)
        assert keyspace.trace is not None
        database = keyspace.database(0)
        expected = []
        for number in range(400):
            key = b"key:%d" % number
            database.put(key, STRING, b"v", NEVER, b"set")
            database.find(key)
            database.find(b"missing:%d" % number)
            # Looking at a key without using it is no access.
            database.peek(key)
            if database.table_of(key) in keyspace.trace.tables:
                expected += [(crc32(key), False), (crc32(key), True)]
            # Only database 0 is sampled.
            keyspace.database(1).put(key, STRING, b"v", NEVER, b"set")
        assert [(access.fingerprint, access.hit) for access in keyspace.trace.accesses()] == expected
        assert 100 < len(expected) < 300


def test_prefix_with_shards_of_its_own_is_noted_too() -> None:
    keyspace = Keyspace(1, 4, random.Random(1), 0.25)
    keyspace.partition([Share("a:", b"a:", Terms(1_000_000, "lru"))])
    assert keyspace.trace is not None
    for number in range(400):
        keyspace.database(0).put(b"a:%d" % number, STRING, b"v", NEVER, b"set")
        keyspace.database(0).find(b"a:%d" % number)
    noted = list(keyspace.trace.accesses())
    assert {access.prefix for access in noted} == {1}
    assert sum(access.hit for access in noted) * 2 == len(noted) > 100
