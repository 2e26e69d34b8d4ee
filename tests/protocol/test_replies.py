"""What a handler may return: one line stays one line, and equal content is equal."""

import pytest

from protocol.replies import NIL_ARRAY, NO_REPLY, OK, PONG, QUEUED, BigNumber, Error, Map, Push, SetOf, Status, Verbatim


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        ("ERR plain", b"-ERR plain\r\n"),
        (b"ERR bytes \xff", b"-ERR bytes \xff\r\n"),
        ("ERR a\r\n+OK\r\nb", b"-ERR a  +OK  b\r\n"),
        (b"ERR a\nb", b"-ERR a b\r\n"),
        ("ERR trailing\r\n", b"-ERR trailing\r\n"),
        (b"ERR \xff".decode("utf-8", "surrogateescape"), b"-ERR \xff\r\n"),
        ("ERR \ud800", b"-ERR \\ud800\r\n"),
        ("ERR é", b"-ERR \xc3\xa9\r\n"),
    ],
)
def test_an_error_is_one_line_whatever_it_quotes(message: str | bytes, wire: bytes) -> None:
    assert Error(message).wire == wire
    assert "\n" not in Error(message).message
    assert Error(Error(message).message).wire == wire


def test_error_code_is_the_first_word() -> None:
    assert Error("WRONGTYPE Operation").code == "WRONGTYPE"
    assert Error("NOAUTH").code == "NOAUTH"


def test_a_status_is_one_line() -> None:
    assert Status("a\r\nb").wire == b"+a  b\r\n"
    assert (OK.wire, PONG.wire, QUEUED.wire) == (b"+OK\r\n", b"+PONG\r\n", b"+QUEUED\r\n")


def test_a_map_keeps_the_order_of_a_mapping_and_of_pairs() -> None:
    assert Map({b"b": 1, b"a": 2}).flat == [b"b", 1, b"a", 2]
    assert Map((key, None) for key in (b"x", b"y")).flat == [b"x", None, b"y", None]
    assert Map({b"b": 1}) == Map([(b"b", 1)])


def test_a_set_and_a_push_take_any_iterable() -> None:
    assert SetOf({b"a"}).items == [b"a"]
    assert Push(iter([b"message", 1])).items == [b"message", 1]
    assert SetOf([1]) != Push([1])


@pytest.mark.parametrize("format", ["", "text", "é12"])
def test_a_verbatim_format_has_three_characters(format: str) -> None:
    with pytest.raises(ValueError, match="three"):
        Verbatim("x", format)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Status("OK"), OK, PONG),
        (Error("ERR x"), Error(b"ERR x"), Error("ERR y")),
        (Verbatim("x"), Verbatim(b"x"), Verbatim("x", "mkd")),
        (BigNumber(5), BigNumber(5), BigNumber(6)),
    ],
)
def test_equality_and_hash_go_by_content(one: object, same: object, other: object) -> None:
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "something else"


@pytest.mark.parametrize("reply", [Map({}), SetOf([]), Push([])])
def test_mutable_replies_have_no_hash(reply: object) -> None:
    with pytest.raises(TypeError):
        hash(reply)


def test_every_reply_shows_its_content() -> None:
    replies = [
        OK,
        Error("ERR x"),
        Map({b"k": 1}),
        SetOf([1]),
        Push([2]),
        Verbatim("t"),
        BigNumber(7),
        NIL_ARRAY,
        NO_REPLY,
    ]
    assert list(map(repr, replies)) == [
        "Status(b'OK')",
        "Error('ERR x')",
        "Map([(b'k', 1)])",
        "SetOf([1])",
        "Push([2])",
        "Verbatim(b't', 'txt')",
        "BigNumber(7)",
        "NIL_ARRAY",
        "NO_REPLY",
    ]
