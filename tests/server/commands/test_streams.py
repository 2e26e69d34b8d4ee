"""Streams, on the database and on staged copies. What Redis replies is compared in test_sequences_against_redis.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persistence.change import STREAM
from protocol.replies import NIL_ARRAY, OK, Error, Map
from server.commands.context import Blocked
from server.commands.spec import COMMANDS
from server.keyspace.values.stream import Stream
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench

NOW = START_MS + OFFSET_MS


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    for entry in workbench.db.entries():
        if isinstance(entry.value, Stream):
            entry.value.check()
    workbench.check()


def ids(reply: object) -> list[bytes]:
    """The ids of a reply of entries."""
    assert isinstance(reply, list)
    return [entry[0] for entry in reply]


def fields(reply: object) -> dict[bytes, object]:
    """A Map as a dict."""
    assert isinstance(reply, Map)
    return dict(zip(reply.flat[::2], reply.flat[1::2], strict=True))  # type: ignore[arg-type]


def filled(bench: Workbench, count: int = 5) -> None:
    """The stream `x` with the entries 1-0, 2-0 …"""
    for at in range(1, count + 1):
        bench.run("XADD", "x", f"{at}-0", "f", at)


# -- entries ----------------------------------------------------------------------------------------------------------


def test_ids_follow_the_clock_and_never_go_back(bench: Workbench) -> None:
    assert bench.run("XADD", "x", "*", "f", "v") == b"%d-0" % NOW
    assert bench.run("XADD", "x", "*", "f", "v") == b"%d-1" % NOW
    bench.pass_time(1)
    assert bench.run("XADD", "x", "*", "f", "v") == b"%d-0" % (NOW + 1)
    assert bench.run("XADD", "x", f"{NOW + 9}-7", "f", "v") == b"%d-7" % (NOW + 9)
    assert bench.run("XADD", "x", "*", "f", "v") == b"%d-8" % (NOW + 9)
    assert bench.run("XADD", "x", f"{NOW + 9}-*", "f", "v") == b"%d-9" % (NOW + 9)
    assert bench.run("XADD", "x", f"{NOW + 10}-*", "f", "v") == b"%d-0" % (NOW + 10)


def test_ids_that_do_not_rise_are_refused(bench: Workbench) -> None:
    assert bench.run("XADD", "x", "0-0", "f", "v") == Error("ERR The ID specified in XADD must be greater than 0-0")
    assert bench.run("EXISTS", "x") == 0
    assert bench.run("XADD", "x", "0-*", "f", "v") == b"0-1"
    bench.run("XADD", "x", "5-5", "f", "v")
    too_small = Error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    for number in ("5-5", "5-4", "4-*", "5"):
        assert bench.run("XADD", "x", number, "f", "v") == too_small
    last = 18446744073709551615
    assert bench.run("XADD", "x", f"6-{last}", "f", "v") == b"6-%d" % last
    assert bench.run("XADD", "x", "6-*", "f", "v") == too_small
    assert bench.run("XADD", "x", f"{last}-{last}", "f", "v") == b"%d-%d" % (last, last)
    exhausted = Error("ERR The stream has exhausted the last possible ID, unable to add more items")
    assert bench.run("XADD", "x", "*", "f", "v") == exhausted


def test_nomkstream_makes_no_stream(bench: Workbench) -> None:
    assert bench.run("XADD", "x", "NOMKSTREAM", "*", "f", "v") is None
    assert bench.run("EXISTS", "x") == 0


def test_ranges_take_both_ends_unless_told_otherwise(bench: Workbench) -> None:
    filled(bench)
    assert ids(bench.run("XRANGE", "x", "2", "4")) == [b"2-0", b"3-0", b"4-0"]
    assert ids(bench.run("XRANGE", "x", "(2", "(4-0")) == [b"3-0"]
    assert ids(bench.run("XRANGE", "x", "-", "+", "COUNT", 2)) == [b"1-0", b"2-0"]
    assert ids(bench.run("XREVRANGE", "x", "+", "-", "COUNT", 2)) == [b"5-0", b"4-0"]
    assert bench.run("XRANGE", "x", "-", "+", "COUNT", 0) is NIL_ARRAY
    assert bench.run("XRANGE", "none", "-", "+") == []
    assert bench.run("XRANGE", "x", "4", "2") == []


def test_entries_keep_their_words_in_order(bench: Workbench) -> None:
    bench.run("XADD", "x", "1-1", "b", "1", "a", "2", "b", "3")
    assert bench.wire("XRANGE", "x", "-", "+") == (
        b"*1\r\n*2\r\n$3\r\n1-1\r\n*6\r\n$1\r\nb\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n3\r\n"
    )


def test_deleting_leaves_an_empty_stream_and_its_marks(bench: Workbench) -> None:
    filled(bench, 2)
    assert bench.run("XDEL", "x", "1-0", "2-0", "3-0") == 2
    assert bench.run("XLEN", "x") == 0
    assert bench.run("TYPE", "x").wire == b"+stream\r\n"  # type: ignore[attr-defined]
    described = fields(bench.run("XINFO", "STREAM", "x"))
    assert described[b"last-generated-id"] == described[b"max-deleted-entry-id"] == b"2-0"
    assert described[b"entries-added"] == 2
    assert described[b"first-entry"] is None


def test_trimming_exactly_and_about(bench: Workbench) -> None:
    filled(bench, 350)
    assert bench.run("XTRIM", "x", "MAXLEN", "~", 200) == 100
    assert bench.run("XTRIM", "x", "MAXLEN", "~", 200) == 0
    assert bench.run("XTRIM", "x", "MINID", "~", "250", "LIMIT", 50) == 0
    assert bench.run("XTRIM", "x", "MINID", "120") == 19
    assert bench.run("XTRIM", "x", "MAXLEN", "=", 10) == 221
    assert ids(bench.run("XRANGE", "x", "-", "+"))[0] == b"341-0"
    assert bench.run("XADD", "x", "MAXLEN", 3, "*", "f", "v") == b"%d-0" % NOW
    assert bench.run("XLEN", "x") == 3
    refusal = Error("ERR syntax error, LIMIT cannot be used without the special ~ option")
    assert bench.run("XTRIM", "x", "MAXLEN", 1, "LIMIT", 1) == refusal


def test_setid_moves_the_end(bench: Workbench) -> None:
    filled(bench, 2)
    assert bench.run("XSETID", "x", "9-9", "ENTRIESADDED", 7, "MAXDELETEDID", "1-5") == OK
    assert bench.run("XADD", "x", "9-*", "f", "v") == b"9-10"
    described = fields(bench.run("XINFO", "STREAM", "x"))
    assert described[b"entries-added"] == 8
    assert bench.run("XSETID", "x", "9-9") == Error(
        "ERR The ID specified in XSETID is smaller than the target stream top item"
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def test_read_of_several_streams(bench: Workbench) -> None:
    filled(bench, 3)
    bench.run("XADD", "y", "1-1", "f", "v")
    reply = bench.run("XREAD", "COUNT", 1, "STREAMS", "x", "none", "y", "1-0", "0", "1-1")
    assert reply == [[b"x", [[b"2-0", (b"f", b"2")]]]]
    bench.context.protocol = 3
    assert bench.run("XREAD", "STREAMS", "x", "2") == Map([(b"x", [[b"3-0", (b"f", b"3")]])])


def test_plus_reads_the_last_entry(bench: Workbench) -> None:
    filled(bench, 3)
    assert bench.run("XREAD", "STREAMS", "x", "+") == [[b"x", [[b"3-0", (b"f", b"3")]]]]
    bench.run("XDEL", "x", "3-0")
    assert bench.run("XREAD", "STREAMS", "x", "+") == [[b"x", [[b"2-0", (b"f", b"2")]]]]
    assert bench.run("XREAD", "STREAMS", "none", "+") is NIL_ARRAY


def test_read_that_waits_asks_again_from_the_moment_of_asking(bench: Workbench) -> None:
    filled(bench, 3)
    blocked = bench.run("XREAD", "COUNT", 5, "BLOCK", 100, "STREAMS", "x", "none", "$", "$")
    assert isinstance(blocked, Blocked)
    assert (blocked.keys, blocked.kind, blocked.timeout_ms) == ([b"x", b"none"], STREAM, 100)
    assert blocked.argv is not None
    filled(bench, 4)
    assert bench.run(*blocked.argv) == [[b"x", [[b"4-0", (b"f", b"4")]]]]
    assert bench.run("XREAD", "STREAMS", "x", "$") is NIL_ARRAY


# -- groups -----------------------------------------------------------------------------------------------------------


def test_group_shares_entries_out(bench: Workbench) -> None:
    filled(bench)
    assert bench.run("XGROUP", "CREATE", "x", "g", 0) == OK
    assert bench.run("XGROUP", "CREATE", "x", "g", 0) == Error("BUSYGROUP Consumer Group name already exists")
    assert bench.run("XREADGROUP", "GROUP", "g", "c", "COUNT", 2, "STREAMS", "x", ">") == [
        [b"x", [[b"1-0", (b"f", b"1")], [b"2-0", (b"f", b"2")]]]
    ]
    assert bench.run("XREADGROUP", "GROUP", "g", "d", "COUNT", 1, "STREAMS", "x", ">") == [
        [b"x", [[b"3-0", (b"f", b"3")]]]
    ]
    assert bench.run("XPENDING", "x", "g") == [3, b"1-0", b"3-0", [[b"c", b"2"], [b"d", b"1"]]]
    assert bench.run("XACK", "x", "g", "1-0", "1-0", "9-9") == 1
    assert bench.run("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", 0) == [[b"x", [[b"2-0", (b"f", b"2")]]]]
    [group] = [fields(each) for each in bench.run("XINFO", "GROUPS", "x")]  # type: ignore[attr-defined]
    assert (group[b"entries-read"], group[b"lag"], group[b"pending"]) == (3, 2, 2)


def test_noack_leaves_nothing_pending(bench: Workbench) -> None:
    filled(bench)
    bench.run("XGROUP", "CREATE", "x", "g", "$")
    filled(bench, 7)
    reply = bench.run("XREADGROUP", "GROUP", "g", "c", "NOACK", "STREAMS", "x", ">")
    assert isinstance(reply, list) and ids(reply[0][1]) == [b"6-0", b"7-0"]
    assert bench.run("XPENDING", "x", "g") == [0, None, None, NIL_ARRAY]


def test_group_or_key_that_is_missing(bench: Workbench) -> None:
    filled(bench)
    missing = Error("NOGROUP No such key 'x' or consumer group 'g'")
    assert bench.run("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">") == Error(
        "NOGROUP No such key 'x' or consumer group 'g' in XREADGROUP with GROUP option"
    )
    assert bench.run("XPENDING", "x", "g") == missing
    assert bench.run("XCLAIM", "x", "g", "c", 0, "1-0") == missing
    assert bench.run("XAUTOCLAIM", "x", "g", "c", 0, 0) == missing
    assert bench.run("XACK", "x", "g", "1-0") == 0
    assert bench.run("XGROUP", "DESTROY", "x", "g") == 0
    assert bench.run("XGROUP", "SETID", "x", "g", 0) == Error("NOGROUP No such consumer group 'g' for key name 'x'")
    assert bench.run("XGROUP", "CREATE", "none", "g", 0) != OK
    assert bench.run("XGROUP", "CREATE", "none", "g", "$", "MKSTREAM") == OK
    assert bench.run("XLEN", "none") == 0


def test_idle_entries_change_hands(bench: Workbench) -> None:
    filled(bench, 3)
    bench.run("XGROUP", "CREATE", "x", "g", 0)
    bench.run("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">")
    bench.pass_time(1000)
    assert bench.run("XPENDING", "x", "g", "IDLE", 1001, "-", "+", 10) == []
    assert bench.run("XPENDING", "x", "g", "-", "+", 1) == [[b"1-0", b"c", 1000, 1]]
    assert bench.run("XCLAIM", "x", "g", "d", 1001, "1-0") == []
    assert bench.run("XCLAIM", "x", "g", "d", 1000, "1-0", "7-7") == [[b"1-0", (b"f", b"1")]]
    assert bench.run("XCLAIM", "x", "g", "d", 0, "2-0", "IDLE", 5, "RETRYCOUNT", 9, "JUSTID") == [b"2-0"]
    assert bench.run("XPENDING", "x", "g", "-", "+", 10, "d") == [[b"1-0", b"d", 0, 2], [b"2-0", b"d", 5, 9]]
    bench.run("XDEL", "x", "2-0")
    assert bench.run("XAUTOCLAIM", "x", "g", "e", 0, 0, "COUNT", 2) == [b"3-0", [[b"1-0", (b"f", b"1")]], [b"2-0"]]
    assert bench.run("XAUTOCLAIM", "x", "g", "e", 0, "3-0", "JUSTID") == [b"0-0", [b"3-0"], []]
    assert bench.run("XGROUP", "DELCONSUMER", "x", "g", "e") == 2
    assert bench.run("XPENDING", "x", "g") == [0, None, None, NIL_ARRAY]


def test_reader_that_waits_changes_nothing_but_its_own_making(bench: Workbench) -> None:
    bench.run("XGROUP", "CREATE", "x", "g", "$", "MKSTREAM")
    asked = ["XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "x", ">"]
    blocked = bench.run(*asked)
    assert isinstance(blocked, Blocked) and blocked.heeds_loss and blocked.argv is None
    before = bench.db.mutations
    # Run again and again, it must not look like news to others who wait for the key.
    assert isinstance(bench.run(*asked), Blocked)
    assert bench.db.mutations == before
    assert bench.run("XGROUP", "CREATECONSUMER", "x", "g", "c") == 0


def test_consumers_are_described(bench: Workbench) -> None:
    filled(bench)
    bench.run("XGROUP", "CREATE", "x", "g", 0)
    bench.run("XGROUP", "CREATECONSUMER", "x", "g", "lazy")
    bench.run("XREADGROUP", "GROUP", "g", "busy", "COUNT", 2, "STREAMS", "x", ">")
    bench.pass_time(50)
    reply = bench.run("XINFO", "CONSUMERS", "x", "g")
    assert isinstance(reply, list)
    assert [fields(each) for each in reply] == [
        {b"name": b"busy", b"pending": 2, b"idle": 50, b"inactive": 50},
        {b"name": b"lazy", b"pending": 0, b"idle": 50, b"inactive": -1},
    ]
    full = fields(bench.run("XINFO", "STREAM", "x", "FULL", "COUNT", 1))
    assert ids(full[b"entries"]) == [b"1-0"]
    [group] = [fields(each) for each in full[b"groups"]]  # type: ignore[attr-defined]
    assert (group[b"pel-count"], group[b"pending"]) == (2, [[b"1-0", b"busy", NOW, 1]])


def test_keys_are_found_behind_the_word_streams(bench: Workbench) -> None:
    keys_of = COMMANDS["xreadgroup"].keys_of
    words = b"XREADGROUP GROUP streams STREAMS COUNT 1 BLOCK 0 NOACK streams a b 0 0".split()
    assert keys_of(words) == [b"a", b"b"]
    assert keys_of(b"XREADGROUP GROUP g c STREAMS a b 0".split()) == []
    assert keys_of(b"XREADGROUP GROUP g c COUNT".split()) == []


def test_stream_goes_through_the_general_commands(bench: Workbench) -> None:
    filled(bench)
    bench.run("XGROUP", "CREATE", "x", "g", 0)
    bench.run("COPY", "x", "y")
    bench.run("XREADGROUP", "GROUP", "g", "c", "STREAMS", "y", ">")
    assert bench.run("XPENDING", "x", "g") == [0, None, None, NIL_ARRAY]
    bench.run("RENAME", "y", "z")
    assert bench.run("XLEN", "z") == 5
    assert bench.run("OBJECT", "ENCODING", "z") == b"stream"
