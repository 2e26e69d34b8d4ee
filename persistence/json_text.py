"""JSON and text as clients send them, checked: what PostgreSQL would refuse later is refused here.

Numbers with a fraction keep their digits (a numeric column must not pass through a float), names must be unique (which
of two would be the column's value?), NaN is not JSON.
"""

from __future__ import annotations

import json


class Unfit(Exception):
    """A value that does not fit its column; the mapping adds the column's name and raises RowRejected."""

    def __init__(self, sqlstate: str, reason: str) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate
        self.reason = reason


class NumberText(str):
    """A JSON number with a fraction or an exponent, in the digits that the client wrote."""

    __slots__ = ()


_JSON_STRING = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def json_string(text: str) -> str:
    """A JSON string literal, non-ASCII characters as themselves."""
    return _JSON_STRING.encode(text)


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise Unfit("22030", "a JSON name occurs twice")
    return names


def _no_constant(text: str) -> object:
    raise Unfit("22032", f"{text} is not JSON")


_JSON_READER = json.JSONDecoder(
    parse_float=NumberText,
    parse_constant=_no_constant,
    object_pairs_hook=_unique_names,
)


def parse_json(raw: bytes) -> object:
    """JSON as objects: dict, list, str, int, NumberText, bool, None. Names must be unique; NaN is refused."""
    text = decode_text(raw)
    try:
        return _JSON_READER.decode(text)
    except ValueError:  # also an integer of more than 4300 digits
        raise Unfit("22032", "is not JSON") from None
    except RecursionError:
        raise Unfit("22032", "is nested too deeply") from None


def json_text(value: object) -> str:
    """What `parse_json` returned, as compact JSON with every number's digits as they came."""
    try:
        return _write(value)
    except RecursionError:
        raise Unfit("22032", "is nested too deeply") from None


def _write(value: object) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, NumberText):
        return str(value)
    if isinstance(value, str):
        return json_string(check_text(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join([_write(item) for item in value]) + "]"
    assert isinstance(value, dict)
    return "{" + ",".join([_write(name) + ":" + _write(item) for name, item in value.items()]) + "}"


def check_text(text: str) -> str:
    """`text`, if a text column can hold it."""
    if "\0" in text:
        raise Unfit("22021", "text cannot hold a NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit("22021", "holds a lone surrogate, which is not a character") from None
    return text


def decode_text(raw: bytes) -> str:
    """UTF-8 without NUL as text."""
    if b"\0" in raw:
        raise Unfit("22021", "text cannot hold a NUL")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unfit("22021", "is not UTF-8") from None
