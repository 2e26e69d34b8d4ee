"""Sorted sets, on the database and on staged copies."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import pytest

from persistence.change import DELETE, WRITE
from protocol.replies import NIL_ARRAY, Error
from server import errors
from server.keyspace.overlay import Overlay
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def run(bench: Workbench, line: str) -> object:
    """One command, written as a line."""
    return bench.run(*line.split(" "))


def pairs(bench: Workbench, key: str = "z") -> list[object]:
    """Members and scores in turn."""
    reply = bench.run("ZRANGE", key, 0, -1, "WITHSCORES")
    assert isinstance(reply, list)
    return reply


# -- ZADD -------------------------------------------------------------------------------------------------------------


def test_zadd_counts_new_members(bench: Workbench) -> None:
    assert run(bench, "ZADD z 1 a 2 b 3 a") == 2
    assert run(bench, "ZADD z 1 a 5 c 2 b") == 1
    assert pairs(bench) == [b"a", 1.0, b"b", 2.0, b"c", 5.0]


def test_zadd_keeps_the_lifetime(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a")
    run(bench, "EXPIRE z 10")
    run(bench, "ZADD z 2 a 3 b")
    assert run(bench, "TTL z") == 10


@pytest.mark.parametrize(
    ("options", "reply", "left"),
    [
        ("NX", 1, [b"a", 1.0, b"b", 2.0, b"c", 9.0]),
        ("XX", 0, [b"b", 1.0, b"a", 3.0]),
        ("GT", 1, [b"b", 2.0, b"a", 3.0, b"c", 9.0]),
        ("lt", 1, [b"a", 1.0, b"b", 1.0, b"c", 9.0]),
        ("XX GT", 0, [b"b", 2.0, b"a", 3.0]),
        ("CH", 3, [b"b", 1.0, b"a", 3.0, b"c", 9.0]),
        ("XX LT ch", 1, [b"a", 1.0, b"b", 1.0]),
    ],
)
def test_zadd_with_conditions(bench: Workbench, options: str, reply: int, left: list[object]) -> None:
    run(bench, "ZADD z 1 a 2 b")
    assert run(bench, f"ZADD z {options} 3 a 1 b 9 c") == reply
    assert pairs(bench) == left


def test_zadd_xx_makes_nothing(bench: Workbench) -> None:
    assert run(bench, "ZADD z XX 1 a") == 0
    assert run(bench, "ZADD z XX INCR 1 a") is None
    assert run(bench, "EXISTS z") == 0


def test_zadd_incr(bench: Workbench) -> None:
    assert run(bench, "ZADD z INCR 1.5 a") == 1.5
    assert run(bench, "ZADD z INCR 2 a") == 3.5
    assert run(bench, "ZADD z INCR NX 2 a") is None
    assert run(bench, "ZADD z INCR GT -1 a") is None
    assert run(bench, "ZADD z INCR LT -1 a") == 2.5
    assert run(bench, "ZADD z INCR CH 0 a") == 2.5
    assert run(bench, "ZINCRBY z 0.5 a") == 3.0
    assert run(bench, "ZINCRBY z 7 b") == 7.0


def test_a_sum_that_is_no_number_is_refused(bench: Workbench) -> None:
    run(bench, "ZADD z inf a")
    assert run(bench, "ZINCRBY z -inf a") == Error("ERR resulting score is not a number (NaN)")
    assert run(bench, "ZADD z INCR -inf a") == Error("ERR resulting score is not a number (NaN)")
    assert run(bench, "ZSCORE z a") == inf


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "ERR wrong number of arguments for 'zadd' command"),
        ("1 a 2", "ERR syntax error"),
        ("NX CH", "ERR syntax error"),
        ("NX XX 1 a", "ERR XX and NX options at the same time are not compatible"),
        ("NX GT 1 a", "ERR GT, LT, and/or NX options at the same time are not compatible"),
        ("LT GT 1 a", "ERR GT, LT, and/or NX options at the same time are not compatible"),
        ("INCR 1 a 2 b", "ERR INCR option supports a single increment-element pair"),
        ("1 a x b", "ERR value is not a valid float"),
        ("nan a", "ERR value is not a valid float"),
        ("1e400 a", "ERR value is not a valid float"),
        ("1e-400 a", "ERR value is not a valid float"),
    ],
)
def test_zadd_refuses_and_changes_nothing(bench: Workbench, arguments: str, text: str) -> None:
    assert run(bench, f"ZADD z {arguments}") == Error(text)
    assert run(bench, "EXISTS z") == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+5", 5.0), (".5", 0.5), ("5.", 5.0), ("0x10", 16.0), ("0x1.8p1", 3.0), ("-0", -0.0), ("5e-324", 5e-324),
        ("-Infinity", -inf), ("INF", inf), ("0e99999", 0.0), ("1E3", 1000.0),
    ],
)  # fmt: skip
def test_scores_are_written_as_in_c(bench: Workbench, text: str, value: float) -> None:
    assert run(bench, f"ZADD z {text} m") == 1
    assert repr(run(bench, "ZSCORE z m")) == repr(value)


def test_scores_are_doubles_in_resp3_and_texts_in_resp2(bench: Workbench) -> None:
    run(bench, "ZADD z 0.1 a 3 b inf c -0 d 1e20 e")
    assert bench.wire("ZSCORE", "z", "a") == b"$3\r\n0.1\r\n"
    assert bench.wire("ZRANGE", "z", "0", "1", "WITHSCORES") == b"*4\r\n$1\r\nd\r\n$2\r\n-0\r\n$1\r\na\r\n$3\r\n0.1\r\n"
    assert bench.wire("ZMSCORE", "z", "c", "x", "e") == b"*3\r\n$3\r\ninf\r\n$-1\r\n$5\r\n1e+20\r\n"
    assert bench.wire("ZPOPMIN", "z", "1") == b"*2\r\n$1\r\nd\r\n$2\r\n-0\r\n"
    bench.context.protocol = 3
    assert bench.wire("ZSCORE", "z", "b") == b",3\r\n"
    assert bench.wire("ZRANGE", "z", "0", "0", "WITHSCORES") == b"*1\r\n*2\r\n$1\r\na\r\n,0.1\r\n"
    assert bench.wire("ZPOPMIN", "z") == b"*2\r\n$1\r\na\r\n,0.1\r\n"
    assert bench.wire("ZPOPMIN", "z", "1") == b"*1\r\n*2\r\n$1\r\nb\r\n,3\r\n"
    assert bench.wire("ZRANDMEMBER", "z", "2", "WITHSCORES").startswith(b"*2\r\n*2\r\n$1\r\n")
    assert bench.wire("ZRANK", "z", "c", "WITHSCORE") == b"*2\r\n:1\r\n,inf\r\n"
    # Only ZSCAN sends scores as text under both.
    assert bench.wire("ZSCAN", "z", "0", "MATCH", "e") == b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\ne\r\n$5\r\n1e+20\r\n"


# -- single members ---------------------------------------------------------------------------------------------------


def test_zrem_removes_the_set_with_its_last_member(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a 2 b")
    assert run(bench, "ZREM z x") == 0
    assert run(bench, "ZREM z a a x") == 1
    assert run(bench, "ZCARD z") == 1
    assert run(bench, "ZREM z b") == 1
    assert run(bench, "EXISTS z") == 0
    assert run(bench, "ZREM z b") == 0


def test_ranks(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a 1 b 0 c 5 d")
    assert [run(bench, f"ZRANK z {member}") for member in "cabdx"] == [0, 1, 2, 3, None]
    assert [run(bench, f"ZREVRANK z {member}") for member in "cabdx"] == [3, 2, 1, 0, None]
    assert run(bench, "ZRANK z d WITHSCORE") == [3, 5.0]
    assert run(bench, "ZREVRANK z d withscore") == [0, 5.0]
    assert run(bench, "ZRANK z x WITHSCORE") is NIL_ARRAY
    assert run(bench, "ZRANK absent x WITHSCORE") is NIL_ARRAY
    assert run(bench, "ZRANK absent x") is None
    assert run(bench, "ZRANK z d SCORE") == errors.SYNTAX
    assert run(bench, "ZREVRANK z d WITHSCORE more") == errors.wrong_arity("zrevrank")


def test_reading_an_absent_sorted_set(bench: Workbench) -> None:
    assert run(bench, "ZCARD z") == 0
    assert run(bench, "ZSCORE z a") is None
    assert run(bench, "ZMSCORE z a b") == [None, None]
    assert run(bench, "ZRANDMEMBER z") is None
    assert run(bench, "ZRANDMEMBER z 3") == []
    assert run(bench, "ZSCAN z 0 no such option") == [b"0", []]
    assert run(bench, "ZPOPMIN z") == run(bench, "ZPOPMAX z 5") == []
    assert run(bench, "ZMPOP 2 z y MIN") is NIL_ARRAY
    for command in ("ZRANGE z 0 -1", "ZRANGEBYSCORE z 0 1", "ZRANGEBYLEX z - +", "ZREVRANGE z 0 1", "ZUNION 1 z"):
        assert run(bench, command) == []
    for command in ("ZCOUNT z 0 1", "ZLEXCOUNT z - +", "ZREMRANGEBYRANK z 0 1", "ZINTERCARD 1 z"):
        assert run(bench, command) == 0


# -- the ends ---------------------------------------------------------------------------------------------------------


def test_popping_from_the_ends(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a 2 b 2 c 3 d 4 e")
    assert run(bench, "ZPOPMIN z") == [b"a", 1.0]
    assert run(bench, "ZPOPMAX z 2") == [b"e", 4.0, b"d", 3.0]
    assert run(bench, "ZPOPMAX z 0") == []
    assert run(bench, "ZPOPMAX z 9") == [b"c", 2.0, b"b", 2.0]
    assert run(bench, "EXISTS z") == 0
    assert run(bench, "ZPOPMIN z -1") == errors.NOT_POSITIVE
    assert run(bench, "ZPOPMIN z 1 2") == errors.SYNTAX


@pytest.mark.parametrize("protocol", [2, 3])
def test_zmpop_takes_from_the_first_that_has_members(bench: Workbench, protocol: int) -> None:
    bench.context.protocol = protocol
    run(bench, "ZADD z 1 a 2 b 3 c")
    run(bench, "ZADD y 1 a")
    assert run(bench, "ZMPOP 3 x z y MIN") == [b"z", [[b"a", 1.0]]]
    assert run(bench, "ZMPOP 2 z y max COUNT 5") == [b"z", [[b"c", 3.0], [b"b", 2.0]]]
    assert run(bench, "ZMPOP 2 z y MAX") == [b"y", [[b"a", 1.0]]]
    assert run(bench, "ZMPOP 2 z y MAX") is NIL_ARRAY


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("0 z MIN", "ERR numkeys should be greater than 0"),
        ("x z MIN", "ERR numkeys should be greater than 0"),
        ("2 z MIN", "ERR syntax error"),
        ("1 z MIDDLE", "ERR syntax error"),
        ("1 z MIN COUNT", "ERR syntax error"),
        ("1 z MIN COUNT 0", "ERR count should be greater than 0"),
        ("1 z MIN COUNT x", "ERR count should be greater than 0"),
        ("1 z MIN COUNT 1 COUNT 1", "ERR syntax error"),
    ],
)
def test_zmpop_refuses(bench: Workbench, arguments: str, text: str) -> None:
    assert run(bench, f"ZMPOP {arguments}") == Error(text)


# -- ranges -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(bench: Workbench) -> Workbench:
    """a … e with the scores 1 … 5."""
    run(bench, "ZADD z 1 a 2 b 3 c 4 d 5 e")
    return bench


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("ZRANGE z 0 -1", "abcde"),
        ("ZRANGE z 1 2", "bc"),
        ("ZRANGE z -2 100", "de"),
        ("ZRANGE z -100 0", "a"),
        ("ZRANGE z 3 1", ""),
        ("ZRANGE z 5 9", ""),
        ("ZRANGE z 0 1 REV", "ed"),
        ("ZREVRANGE z 1 -1", "dcba"),
        ("ZRANGE z 2 4 BYSCORE", "bcd"),
        ("ZRANGE z (2 (4 BYSCORE", "c"),
        ("ZRANGE z 4 2 BYSCORE REV", "dcb"),
        ("ZRANGE z +inf -inf BYSCORE REV LIMIT 1 2", "dc"),
        ("ZRANGE z (inf +inf BYSCORE", ""),
        ("ZRANGEBYSCORE z -inf (3", "ab"),
        ("ZRANGEBYSCORE z 1 5 LIMIT 1 2", "bc"),
        ("ZRANGEBYSCORE z 1 5 LIMIT 1 -1", "bcde"),
        ("ZRANGEBYSCORE z 1 5 LIMIT 9 2", ""),
        ("ZRANGEBYSCORE z 1 5 LIMIT -1 2", ""),
        ("ZRANGEBYSCORE z 1 5 LIMIT 0 0", ""),
        ("ZREVRANGEBYSCORE z (5 2 limit 1 9223372036854775807", "cb"),
        ("ZREVRANGEBYSCORE z 2 5", ""),
        ("ZRANGE z 0 -1 LIMIT 0 -1", "abcde"),
    ],
)
def test_ranges_by_rank_and_score(letters: Workbench, command: str, found: str) -> None:
    assert run(letters, command) == [letter.encode() for letter in found]
    name, key, *rest = command.split(" ")
    if name == "ZRANGE":
        assert letters.run("ZRANGESTORE", "y", key, *rest) == len(found)
        assert letters.run("ZRANGE", "y", 0, -1) == sorted(letter.encode() for letter in found)
        assert letters.run("EXISTS", "y") == bool(found)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("ZRANGEBYLEX z - +", "abcde"),
        ("ZRANGEBYLEX z [b (d", "bc"),
        ("ZRANGEBYLEX z (b [d LIMIT 1 9", "d"),
        ("ZRANGEBYLEX z + -", ""),
        ("ZREVRANGEBYLEX z + (c", "ed"),
        ("ZREVRANGEBYLEX z + - LIMIT 3 1", "b"),
        ("ZRANGE z [d - BYLEX REV LIMIT 0 2", "dc"),
        ("ZRANGE z ( [zz BYLEX", "abcde"),
    ],
)
def test_ranges_by_text(bench: Workbench, command: str, found: str) -> None:
    run(bench, "ZADD z 0 a 0 b 0 c 0 d 0 e")
    assert run(bench, command) == [letter.encode() for letter in found]


def test_ranges_with_scores(letters: Workbench) -> None:
    flat = [b"b", 2.0, b"c", 3.0]
    commands = ("ZRANGE z 1 2 WITHSCORES", "ZRANGE z 2 3 BYSCORE withscores", "ZRANGEBYSCORE z 2 3 WITHSCORES")
    for command in commands:
        assert run(letters, command) == flat
    assert run(letters, "ZREVRANGEBYSCORE z 3 2 WITHSCORES LIMIT 0 1") == [b"c", 3.0]
    letters.context.protocol = 3
    for command in commands:
        assert run(letters, command) == [[b"b", 2.0], [b"c", 3.0]]


def test_counting(letters: Workbench) -> None:
    assert run(letters, "ZCOUNT z 2 4") == 3
    assert run(letters, "ZCOUNT z (2 (4") == 1
    assert run(letters, "ZCOUNT z 4 2") == 0
    assert run(letters, "ZCOUNT z -inf +inf") == 5
    assert run(letters, "ZLEXCOUNT z - +") == 5
    assert run(letters, "ZLEXCOUNT z + -") == 0


def test_removing_ranges(letters: Workbench) -> None:
    assert run(letters, "ZREMRANGEBYRANK z 3 1") == 0
    assert run(letters, "ZREMRANGEBYRANK z -1 -1") == 1
    assert run(letters, "ZREMRANGEBYSCORE z (1 2") == 1
    assert run(letters, "ZRANGE z 0 -1") == [b"a", b"c", b"d"]
    assert run(letters, "ZREMRANGEBYLEX z - +") == 3
    assert run(letters, "EXISTS z") == 0


SCORES_NOT_FLOATS = Error("ERR min or max is not a float")
TEXTS_NOT_VALID = Error("ERR min or max not valid string range item")
LIMIT_BY_RANK = Error("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
SCORES_BY_TEXT = Error("ERR syntax error, WITHSCORES not supported in combination with BYLEX")


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("ZRANGE z a 1", errors.NOT_INTEGER),
        ("ZRANGE z 0 1 BYSCORE BYLEX", errors.SYNTAX),
        ("ZRANGE z 0 1 REV REV", errors.SYNTAX),
        ("ZRANGE z 0 1 LIMIT 1", errors.SYNTAX),
        ("ZRANGE z 0 1 LIMIT x 1", errors.NOT_INTEGER),
        ("ZRANGE z 0 1 LIMIT 0 1", LIMIT_BY_RANK),
        ("ZREVRANGE z 0 1 LIMIT 0 1", LIMIT_BY_RANK),
        ("ZREVRANGE z 0 1 BYSCORE", errors.SYNTAX),
        ("ZRANGEBYSCORE z 0 1 REV", errors.SYNTAX),
        ("ZRANGE z [a [b BYLEX WITHSCORES", SCORES_BY_TEXT),
        ("ZRANGEBYLEX z [a [b WITHSCORES", SCORES_BY_TEXT),
        ("ZRANGEBYSCORE z a 1", SCORES_NOT_FLOATS),
        ("ZRANGEBYSCORE z 0 nan", SCORES_NOT_FLOATS),
        ("ZCOUNT z 0 ((1", SCORES_NOT_FLOATS),
        ("ZREMRANGEBYSCORE z 0 1x", SCORES_NOT_FLOATS),
        ("ZRANGEBYLEX z a [b", TEXTS_NOT_VALID),
        ("ZLEXCOUNT z -x +", TEXTS_NOT_VALID),
        ("ZREMRANGEBYLEX z [a b", TEXTS_NOT_VALID),
        ("ZRANGESTORE y z 0 1 WITHSCORES", errors.SYNTAX),
    ],
)
def test_ranges_refuse(letters: Workbench, command: str, refusal: Error) -> None:
    assert run(letters, command) == refusal
    # The arguments are judged before the key is looked at.
    assert run(letters, command.replace(" z ", " absent ")) == refusal
    assert run(letters, "ZCARD z") == 5


# -- random members ---------------------------------------------------------------------------------------------------


def test_zrandmember(bench: Workbench) -> None:
    bench.run("ZADD", "z", *[word for at in range(20) for word in (at, f"m{at}")])
    everything = {b"m%d" % at for at in range(20)}
    assert {run(bench, "ZRANDMEMBER z") for _ in range(400)} == everything
    for count, size in ((0, 0), (5, 5), (15, 15), (100, 20)):
        drawn = bench.run("ZRANDMEMBER", "z", count)
        assert isinstance(drawn, list)
        assert len(set(drawn)) == len(drawn) == size
    drawn = run(bench, "ZRANDMEMBER z -50 WITHSCORES")
    assert isinstance(drawn, list)
    assert len(drawn) == 100
    assert all(member == b"m%d" % score for member, score in zip(drawn[::2], drawn[1::2], strict=True))


def test_zrandmember_refuses_a_reply_that_nobody_could_take(bench: Workbench) -> None:
    bench.run("ZADD", "z", 1, "x" * 1000)
    assert run(bench, "ZRANDMEMBER z -1000000000") == errors.OUT_OF_RANGE
    assert run(bench, "ZRANDMEMBER z -9223372036854775807") == errors.OUT_OF_RANGE
    assert run(bench, "ZRANDMEMBER z 9223372036854775807 WITHSCORES") == errors.OUT_OF_RANGE
    assert run(bench, "ZRANDMEMBER z 1 WITHSCORE") == errors.SYNTAX
    assert run(bench, "ZRANDMEMBER z 1 WITHSCORES more") == errors.SYNTAX
    assert run(bench, "ZRANDMEMBER z x") == errors.NOT_INTEGER


# -- algebra ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def several(bench: Workbench) -> Workbench:
    """Two sorted sets and a set."""
    run(bench, "ZADD z 1 a 2 b 3 c")
    run(bench, "ZADD y 10 b 20 c 30 d")
    run(bench, "SADD s c e")
    return bench


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ("UNION 2 z y", [b"a", 1.0, b"b", 12.0, b"c", 23.0, b"d", 30.0]),
        ("UNION 3 z y s", [b"a", 1.0, b"e", 1.0, b"b", 12.0, b"c", 24.0, b"d", 30.0]),
        ("UNION 2 z y AGGREGATE MAX", [b"a", 1.0, b"b", 10.0, b"c", 20.0, b"d", 30.0]),
        ("UNION 2 z y WEIGHTS 2 0.5 aggregate min", [b"a", 2.0, b"b", 4.0, b"c", 6.0, b"d", 15.0]),
        ("UNION 2 z absent", [b"a", 1.0, b"b", 2.0, b"c", 3.0]),
        ("UNION 1 s WEIGHTS inf", [b"c", inf, b"e", inf]),
        ("UNION 2 z z", [b"a", 2.0, b"b", 4.0, b"c", 6.0]),
        ("INTER 2 z y", [b"b", 12.0, b"c", 23.0]),
        ("INTER 3 z y s", [b"c", 24.0]),
        ("INTER 2 z y WEIGHTS 1 -1", [b"c", -17.0, b"b", -8.0]),
        ("INTER 2 z absent", []),
        ("INTER 2 z z WEIGHTS 1 2 AGGREGATE MAX", [b"a", 2.0, b"b", 4.0, b"c", 6.0]),
        ("DIFF 2 z y", [b"a", 1.0]),
        ("DIFF 2 y s", [b"b", 10.0, b"d", 30.0]),
        ("DIFF 2 s y", [b"e", 1.0]),
        ("DIFF 2 z z", []),
        ("DIFF 1 absent", []),
    ],
)
def test_algebra(several: Workbench, arguments: str, result: list[object]) -> None:
    assert run(several, f"Z{arguments} WITHSCORES") == result
    assert run(several, f"Z{arguments}") == result[::2]
    name, rest = arguments.split(" ", 1)
    # Over something else, and over one of the sources.
    run(several, "SET d text EX 100")
    assert run(several, f"Z{name}STORE d {rest}") == len(result) // 2
    assert run(several, "EXISTS d") == bool(result)
    assert pairs(several, "d") == result
    assert run(several, "TTL d") in (-1, -2)
    assert run(several, f"Z{name}STORE z {rest}") == len(result) // 2
    assert pairs(several) == result


def test_what_is_no_number_becomes_zero(bench: Workbench) -> None:
    run(bench, "ZADD z inf a 0 b")
    run(bench, "ZADD y -inf a 1 b")
    assert run(bench, "ZUNION 2 z y WITHSCORES") == [b"a", 0.0, b"b", 1.0]
    assert run(bench, "ZINTER 2 z y WITHSCORES") == [b"a", 0.0, b"b", 1.0]
    assert run(bench, "ZUNION 1 z WEIGHTS 0 WITHSCORES") == [b"a", 0.0, b"b", 0.0]
    assert run(bench, "ZINTER 1 z WEIGHTS inf WITHSCORES") == [b"b", 0.0, b"a", inf]


def test_zintercard(several: Workbench) -> None:
    assert run(several, "ZINTERCARD 2 z y") == 2
    assert run(several, "ZINTERCARD 2 z y LIMIT 1") == 1
    assert run(several, "ZINTERCARD 3 z y s LIMIT 0") == 1
    assert run(several, "ZINTERCARD 1 z LIMIT -1") == Error("ERR LIMIT can't be negative")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ZUNION 0 z", "ERR at least 1 input key is needed for 'zunion' command"),
        ("ZINTERSTORE d -1 z", "ERR at least 1 input key is needed for 'zinterstore' command"),
        ("ZDIFF x z", "ERR value is not an integer or out of range"),
        ("ZUNION 2 z", "ERR syntax error"),
        ("ZUNION 1 z WEIGHTS", "ERR syntax error"),
        ("ZUNION 1 z WEIGHTS x", "ERR weight value is not a float"),
        ("ZUNION 2 z y WEIGHTS 1", "ERR syntax error"),
        ("ZUNION 1 z AGGREGATE", "ERR syntax error"),
        ("ZUNION 1 z AGGREGATE AVG", "ERR syntax error"),
        ("ZDIFF 1 z WEIGHTS 1", "ERR syntax error"),
        ("ZUNIONSTORE d 1 z WITHSCORES", "ERR syntax error"),
        ("ZDIFFSTORE d 1 z AGGREGATE SUM", "ERR syntax error"),
        ("ZINTERCARD 1 z WITHSCORES", "ERR syntax error"),
        ("ZUNION 2 z k", "WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ZUNIONSTORE d 1 k", "WRONGTYPE Operation against a key holding the wrong kind of value"),
    ],
)
def test_algebra_refuses(several: Workbench, command: str, text: str) -> None:
    run(several, "SET k v")
    run(several, "SET d kept")
    assert run(several, command) == Error(text)
    assert run(several, "GET d") == b"kept"


# -- scanning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 512, 513, 2000])
def test_zscan_walks_through_a_sorted_set_once(bench: Workbench, size: int) -> None:
    bench.run("ZADD", "z", *[word for at in range(size) for word in (at / 2, at)])
    found: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        reply = bench.run("ZSCAN", "z", cursor, "COUNT", 100)
        assert isinstance(reply, list)
        cursor, flat = reply
        assert not found.keys() & set(flat[::2])
        found.update(zip(flat[::2], flat[1::2], strict=True))
        if cursor == b"0":
            break
    assert found == {b"%d" % at: (b"%d" if at % 2 == 0 else b"%.1f") % (at / 2) for at in range(size)}


def test_zscan_refuses(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a")
    assert run(bench, "ZSCAN z 0 COUNT 0") == errors.SYNTAX
    assert run(bench, "ZSCAN z 0 TYPE zset") == errors.SYNTAX
    assert run(bench, "ZSCAN z x") == errors.INVALID_CURSOR
    assert run(bench, "ZSCAN z 0 NOVALUES") == Error("ERR NOVALUES option can only be used in HSCAN")


# -- what is recorded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "members"),
    [
        ("ZADD z 1 m1 5 m2 7 new", {b"m2", b"new"}),
        ("ZADD z XX 9 new 8 m3", {b"m3"}),
        ("ZADD z GT 0 m3", None),
        ("ZINCRBY z 1 m4", {b"m4"}),
        ("ZINCRBY z 0 m4", None),
        ("ZREM z m1 x m2", {b"m1", b"m2"}),
        ("ZPOPMIN z", {b"m0"}),
        ("ZPOPMAX z 2", {b"m9", b"m8"}),
        ("ZREMRANGEBYRANK z 1 2", {b"m1", b"m2"}),
        ("ZREMRANGEBYSCORE z 20 30", None),
        ("ZMPOP 1 z MAX", {b"m9"}),
    ],
)
def test_changes_name_the_members_that_changed(command: str, members: set[bytes] | None) -> None:
    bench = Workbench(staged=True)
    overlay = bench.context.db
    assert isinstance(overlay, Overlay)
    bench.run("ZADD", "z", *[word for at in range(10) for word in (at, f"m{at}")])
    overlay.changes.clear()
    run(bench, command)
    if members is None:
        assert overlay.changes == {}
    else:
        assert overlay.changes[b"z"].verb == WRITE
        assert overlay.changes[b"z"].members == members
    overlay.changes.clear()
    run(bench, "ZREMRANGEBYRANK z 0 -1")
    assert overlay.changes[b"z"].verb == DELETE


def test_a_staged_change_does_not_touch_the_value_it_began_with() -> None:
    bench = Workbench()
    run(bench, "ZADD z 1 a 2 b")
    run(bench, "ZRANK z a")
    bench.context.db = Overlay(bench.base)
    run(bench, "ZADD z 5 a 0 c")
    run(bench, "ZPOPMAX z")
    bench.context.db = bench.base
    assert pairs(bench) == [b"a", 1.0, b"b", 2.0]


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["ZADD k 1 a", "ZADD k INCR 1 a", "ZINCRBY k 1 a", "ZREM k a", "ZCARD k", "ZSCORE k a", "ZMSCORE k a", "ZRANK k a",
     "ZREVRANK k a", "ZPOPMIN k", "ZPOPMAX k 1", "ZMPOP 2 absent k MIN", "ZRANDMEMBER k", "ZRANDMEMBER k 1",
     "ZRANGE k 0 1", "ZREVRANGE k 0 1", "ZRANGEBYSCORE k 0 1", "ZREVRANGEBYSCORE k 0 1", "ZRANGEBYLEX k - +",
     "ZREVRANGEBYLEX k + -", "ZCOUNT k 0 1", "ZLEXCOUNT k - +", "ZRANGESTORE d k 0 1", "ZREMRANGEBYRANK k 0 1",
     "ZREMRANGEBYSCORE k 0 1", "ZREMRANGEBYLEX k - +", "ZUNION 1 k", "ZINTER 1 k", "ZDIFF 1 k", "ZINTERCARD 1 k",
     "ZUNIONSTORE d 1 k", "ZSCAN k 0"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["string", "hash"])
def test_another_type_is_refused(bench: Workbench, command: str, kind: str) -> None:
    run(bench, "SET k v" if kind == "string" else "HSET k f v")
    assert run(bench, command) == errors.WRONG_TYPE
    assert bench.wire("TYPE", "k") == b"+%s\r\n" % kind.encode()


def test_sorted_sets_are_renamed_copied_and_typed(bench: Workbench) -> None:
    run(bench, "ZADD z 1 a 2 b")
    assert bench.wire("TYPE", "z") == b"+zset\r\n"
    run(bench, "RENAME z y")
    assert run(bench, "COPY y x") == 1
    run(bench, "ZADD x 9 a")
    assert pairs(bench, "y") == [b"a", 1.0, b"b", 2.0]
    assert pairs(bench, "x") == [b"b", 2.0, b"a", 9.0]


def test_weights_follow_changes() -> None:
    bench = Workbench()
    for step in range(60):
        bench.run("ZADD", "z", step, step, step % 9, "x" * step)
        bench.run("ZINCRBY", "z", 1, step % 5)
        bench.run("ZADD", "z", "XX", "CH", step, step - 1, 1, "absent")
        bench.run("ZREM", "z", step - 7, "x" * (step % 5))
        bench.run("ZPOPMIN", "z", step % 3)
        bench.run("ZRANGESTORE", "y", "z", 0, step)
        bench.run("ZREMRANGEBYSCORE", "y", step, "+inf")
        bench.check()
    bench.run("DEL", "z", "y")
    assert bench.base.used_bytes() == 0
