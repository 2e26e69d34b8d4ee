"""Every type under both protocols, by the byte and back through hiredis."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.decoder import ReplyDecoder
from protocol.encoder import BULK_HEADERS, INTEGERS, LARGE, bulk, double_text, encode, encode_into, integer
from protocol.replies import NIL_ARRAY, NO_REPLY, OK, BigNumber, Error, Map, Push, SetOf, Status, Verbatim

# reply, RESP2, RESP3
GOLDEN: list[tuple[object, bytes, bytes]] = [
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"abc", b"$3\r\nabc\r\n", b"$3\r\nabc\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    (0, b":0\r\n", b":0\r\n"),
    (1023, b":1023\r\n", b":1023\r\n"),
    (1024, b":1024\r\n", b":1024\r\n"),
    (-1, b":-1\r\n", b":-1\r\n"),
    (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (True, b":1\r\n", b"#t\r\n"),
    (False, b":0\r\n", b"#f\r\n"),
    (None, b"$-1\r\n", b"_\r\n"),
    (NIL_ARRAY, b"*-1\r\n", b"_\r\n"),
    (NO_REPLY, b"", b""),
    (OK, b"+OK\r\n", b"+OK\r\n"),
    (Status("Background saving started"), b"+Background saving started\r\n", b"+Background saving started\r\n"),
    (Error("ERR no"), b"-ERR no\r\n", b"-ERR no\r\n"),
    (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
    (3.0, b"$1\r\n3\r\n", b",3\r\n"),
    (0.1, b"$3\r\n0.1\r\n", b",0.1\r\n"),
    (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
    (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
    (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    ((b"a", 1), b"*2\r\n$1\r\na\r\n:1\r\n", b"*2\r\n$1\r\na\r\n:1\r\n"),
    ([None, [True, []]], b"*2\r\n$-1\r\n*2\r\n:1\r\n*0\r\n", b"*2\r\n_\r\n*2\r\n#t\r\n*0\r\n"),
    ([[1], 2, [3]], b"*3\r\n*1\r\n:1\r\n:2\r\n*1\r\n:3\r\n", b"*3\r\n*1\r\n:1\r\n:2\r\n*1\r\n:3\r\n"),
    ([OK, Error("ERR x"), NIL_ARRAY], b"*3\r\n+OK\r\n-ERR x\r\n*-1\r\n", b"*3\r\n+OK\r\n-ERR x\r\n_\r\n"),
    (Map({b"k": 1.0}), b"*2\r\n$1\r\nk\r\n$1\r\n1\r\n", b"%1\r\n$1\r\nk\r\n,1\r\n"),
    (Map([(b"k", Map([]))]), b"*2\r\n$1\r\nk\r\n*0\r\n", b"%1\r\n$1\r\nk\r\n%0\r\n"),
    (SetOf([b"m"]), b"*1\r\n$1\r\nm\r\n", b"~1\r\n$1\r\nm\r\n"),
    (
        Push([b"message", b"c", b"v"]),
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nv\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nv\r\n",
    ),
    (Verbatim("hé"), b"$3\r\nh\xc3\xa9\r\n", b"=7\r\ntxt:h\xc3\xa9\r\n"),
    (Verbatim(b"# x", "mkd"), b"$3\r\n# x\r\n", b"=7\r\nmkd:# x\r\n"),
    (BigNumber(2**70), b"$22\r\n1180591620717411303424\r\n", b"(1180591620717411303424\r\n"),
]


@pytest.mark.parametrize(("reply", "resp2", "resp3"), GOLDEN, ids=lambda value: repr(value)[:40])
def test_golden(reply: object, resp2: bytes, resp3: bytes) -> None:
    for protocol, expected in ((2, resp2), (3, resp3)):
        assert encode(reply, protocol) == expected
        out: list[bytes] = []
        assert encode_into(out, reply, protocol) == len(expected)
        assert b"".join(out) == expected
        assert len(out) == (1 if expected else 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, b"0"),
        (-0.0, b"-0"),
        (-2.0, b"-2"),
        (1e15, b"1000000000000000"),
        (1e16, b"10000000000000000"),
        (1e17, b"1e+17"),
        (1.5e17, b"1.5e+17"),
        (1e20, b"1e+20"),
        (0.0001, b"0.0001"),
        (0.00001, b"1e-05"),
        (1e-7, b"1e-07"),
        (5e-324, b"5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (0.30000000000000004, b"0.30000000000000004"),
    ],
)
def test_double_text(value: float, text: bytes) -> None:
    assert double_text(value) == text


@given(st.floats(allow_nan=False))
def test_double_text_reads_back_the_same_and_is_no_longer_than_c_would_write(value: float) -> None:
    text = double_text(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert len(text) <= len(b"%.17g" % value)


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, LARGE - 1, LARGE, LARGE + 1])
def test_bulk_lengths_around_the_tables(length: int) -> None:
    value = b"x" * length
    expected = b"$%d\r\n%s\r\n" % (length, value)
    assert bulk(value) == expected
    assert encode(value, 2) == expected
    out: list[bytes] = []
    assert encode_into(out, [value, value], 3) == 4 + 2 * len(expected)
    assert b"".join(out) == b"*2\r\n" + expected * 2


def test_tables_hold_what_their_index_says() -> None:
    assert all(header == b"$%d\r\n" % n for n, header in enumerate(BULK_HEADERS))
    assert all(ready == b":%d\r\n" % n for n, ready in enumerate(INTEGERS))
    assert [integer(n) for n in (-1, 0, len(INTEGERS) - 1, len(INTEGERS))] == [
        b":-1\r\n",
        b":0\r\n",
        b":1023\r\n",
        b":1024\r\n",
    ]


def test_large_values_are_handed_over_uncopied_between_joined_small_ones() -> None:
    large = b"x" * LARGE
    out: list[bytes] = []
    size = encode_into(out, [b"a", large, b"b", 1, large], 2)
    assert [len(chunk) for chunk in out] == [19, LARGE, 21, LARGE, 2]
    assert out[1] is large
    assert out[3] is large
    assert size == sum(map(len, out))
    assert b"".join(out) == encode([b"a", large, b"b", 1, large], 2)


def test_a_single_large_value_is_handed_over_uncopied() -> None:
    large = b"x" * (LARGE * 2)
    out = [b"before"]
    assert encode_into(out, large, 3) == len(large) + 10
    assert out[2] is large
    assert b"".join(out) == b"before" + bulk(large)


@pytest.mark.parametrize("length", [0, 1, 64, 1023, 1024, LARGE])
@pytest.mark.parametrize("count", [7, 8, 300])
def test_items_of_one_length_are_encoded_as_any_others(length: int, count: int) -> None:
    items: list[object] = [bytes([65 + at % 26]) * length for at in range(count)]
    expected = b"".join(b"$%d\r\n%b\r\n" % (length, item) for item in items)
    assert encode(items, 2) == b"*%d\r\n%b" % (count, expected)
    assert encode(SetOf(items), 3) == b"~%d\r\n%b" % (count, expected)
    out: list[bytes] = []
    assert encode_into(out, [items, 1], 2) == len(b"".join(out))
    assert b"".join(out) == b"*2\r\n*%d\r\n%b:1\r\n" % (count, expected)


@pytest.mark.parametrize("odd", [b"longer", b"", 7, None, OK, 1.5, [b"abc"], (b"a", b"b", b"c"), Error("ERR x")])
def test_one_item_of_another_kind_among_those_of_one_length(odd: object) -> None:
    items: list[object] = [b"abc"] * 9
    items[4] = odd
    assert encode(items, 2) == b"*9\r\n" + b"".join(encode(item, 2) for item in items)


@pytest.mark.parametrize("protocol", [2, 3])
def test_nesting_is_not_limited_by_the_stack(protocol: int) -> None:
    reply: object = 1
    for _ in range(100_000):
        reply = [reply]
    assert encode(reply, protocol) == b"*1\r\n" * 100_000 + b":1\r\n"
    # Taken apart by hand: the interpreter would free it recursively.
    while isinstance(reply, list):
        reply = reply.pop()


@pytest.mark.parametrize("reply", ["text", {"a": 1}, {1}, object(), bytearray(b"x"), 1j, [b"fine", "text"]])
def test_what_is_no_reply_is_a_type_error_that_leaves_the_output_alone(reply: object) -> None:
    out: list[bytes] = []
    with pytest.raises(TypeError, match=r"str|dict|set|object|bytearray|complex"):
        encode(reply, 3)
    with pytest.raises(TypeError):
        encode_into(out, reply, 2)
    assert out == []


def test_no_reply_inside_an_array_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="NO_REPLY"):
        encode([NO_REPLY], 2)


SCALARS = st.one_of(
    st.binary(max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.integers(LARGE - 2, LARGE + 2).map(lambda n: b"v" * n),
)
REPLIES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.binary(max_size=5), inner, max_size=4).map(Map),
        st.lists(inner, max_size=5).map(SetOf),
    ),
    max_leaves=20,
)


def expected(reply: object, protocol: int) -> object:
    """What a client ought to see."""
    if isinstance(reply, list):
        return [expected(item, protocol) for item in reply]
    if isinstance(reply, SetOf):
        return [expected(item, protocol) for item in reply.items]
    if isinstance(reply, Map):
        flat = [expected(item, protocol) for item in reply.flat]
        return dict(zip(flat[::2], flat[1::2], strict=True)) if protocol == 3 else flat
    if protocol == 2:
        if isinstance(reply, float):
            return double_text(reply)
        if isinstance(reply, bool):
            return int(reply)
    return reply


@settings(max_examples=500, deadline=None)
@given(reply=REPLIES, protocol=st.sampled_from([2, 3]))
def test_round_trip_through_hiredis(reply: object, protocol: int) -> None:
    decoder = ReplyDecoder()
    wire = encode(reply, protocol)
    decoder.feed(wire)
    decoded = decoder.get()
    assert repr(decoded) == repr(expected(reply, protocol))
    out: list[bytes] = []
    assert encode_into(out, reply, protocol) == len(wire)
    assert b"".join(out) == wire
