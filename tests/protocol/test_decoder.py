"""The client's side: replies in, requests out."""

import pytest

from protocol.decoder import PENDING, ReplyDecoder, ReplyError, pack_command
from protocol.errors import ProtocolError


def test_replies_come_one_by_one_and_then_pending() -> None:
    decoder = ReplyDecoder()
    assert decoder.get() is PENDING
    decoder.feed(b"+OK\r\n:1\r\n$3\r\na")
    assert decoder.get() == b"OK"
    assert decoder.get() == 1
    assert decoder.get() is PENDING
    decoder.feed(b"bc\r\n$-1\r\n_\r\n*-1\r\n")
    assert [decoder.get() for _ in range(5)] == [b"abc", None, None, None, PENDING]


def test_an_error_reply_is_returned_also_inside_an_array() -> None:
    decoder = ReplyDecoder()
    decoder.feed(b"-ERR no\r\n*2\r\n:1\r\n-WRONGTYPE x\r\n")
    error = decoder.get()
    assert isinstance(error, ReplyError)
    assert str(error) == "ERR no"
    array = decoder.get()
    assert isinstance(array, list)
    assert array[0] == 1
    assert isinstance(array[1], ReplyError)


def test_resp3_types() -> None:
    decoder = ReplyDecoder()
    decoder.feed(b"%1\r\n$1\r\nk\r\n#t\r\n~1\r\n*1\r\n:1\r\n,1.5\r\n>2\r\n+a\r\n+b\r\n=5\r\ntxt:x\r\n")
    assert decoder.get() == {b"k": True}
    assert decoder.get() == [[1]]
    assert decoder.get() == 1.5
    assert decoder.get() == [b"a", b"b"]
    assert decoder.get() == b"x"


def test_what_is_no_reply_raises() -> None:
    decoder = ReplyDecoder()
    decoder.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(ProtocolError):
        decoder.get()


def test_pack_command() -> None:
    assert pack_command("SET", b"k\r\n", "é", 10, -1, 1.5) == (
        b"*6\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n\xc3\xa9\r\n$2\r\n10\r\n$2\r\n-1\r\n$3\r\n1.5\r\n"
    )
    assert pack_command() == b"*0\r\n"


@pytest.mark.parametrize("arg", [True, None, [b"x"], bytearray(b"x")])
def test_pack_command_refuses_other_types(arg: object) -> None:
    with pytest.raises(TypeError, match="None" if arg is None else type(arg).__name__):
        pack_command("SET", arg)  # type: ignore[arg-type]
