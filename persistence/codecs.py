"""How one column's value travels: database ↔ Python ↔ hash field ↔ JSON. Tables below, one row per column type.

PostgreSQL. A few types travel natively; every other type travels as text in the database's own spelling, with casts on
the server (`col::text` on load, `$1::text[]` … `::type` on write), so any type works: numeric, timestamptz, enums …

    type                hash field                          JSON                        exact
    int2 int4 int8      digits                              number                      yes
    bool                `true` `false` (also t f 1 0)       true false                  yes
    text                UTF-8, no NUL                       string                      yes
    varchar             UTF-8, no NUL                       string                      unless it ends with a space
    bytea               raw bytes                           string, base64              yes
    float8              shortest text, `5` not `5.0`        number, "NaN", "Infinity"   yes
    uuid                lower case with hyphens             string                      yes
    json jsonb          its text                            embedded as it is           no: the server rewrites it
    numeric float4      its text                            number with its digits      no: rounded to the column
    all others          its text                            string                      no

SQLite columns hold any type, so a loaded value is shown by what it is (integer, float, text, blob) and a written one is
checked against the declared type's affinity. BOOLEAN holds 0/1: `1`/`0` in a hash, true/false in JSON. JSON columns are
embedded. NUMERIC affinity (DECIMAL, DATE, …) takes text and lets SQLite convert, hence is not exact. The memory store
speaks the same types.

"Exact" means: what `parse` or `read` returns is certainly what a load returns after the write.

Text is Unicode: not UTF-8, a lone surrogate or a NUL is refused (22021), for SQLite too, although SQLite would store a
NUL, because the value would then mean something else in each of its functions.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from persistence.json_text import NumberText, Unfit, check_text, decode_text, json_string, json_text, parse_json
from persistence.rows import ColumnShape


@dataclass(frozen=True, slots=True)
class Codec:
    """One column type. `field`/`parse` serve hashes and plain strings, `dump`/`read` JSON; None never reaches them."""

    name: str  # for error messages
    field: Callable[[object], bytes]
    parse: Callable[[bytes], object]
    dump: Callable[[object], str]
    read: Callable[[object], object]
    exact: bool = True
    # Can it be a key column, and from which captures? "int", "text", "uuid", "bytes", or "" for no.
    key: str = ""
    # PostgreSQL: the array type that parameters travel as, and how a column is selected and a parameter stored.
    array: str = "text[]"
    load: str = "{}"
    store: str = "{}"
    # Integers only.
    low: int = 0
    high: int = 0

    def selected(self, column: str) -> str:
        """The SQL that loads a column."""
        return self.load.replace("{}", column)

    def stored(self, parameter: str) -> str:
        """The SQL that turns a parameter into the column's type."""
        return self.store.replace("{}", parameter)


# --- text --------------------------------------------------------------------------------------------------------


# A method of the type rather than a function around it: a third of the time of a loaded row is spent here.
_text_field: Final = cast(Callable[[object], bytes], str.encode)


def _text_dump(value: object) -> str:
    assert isinstance(value, str)
    return json_string(value)


def _text_read(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, NumberText):
        raise Unfit("22023", "must be a JSON string")
    return check_text(value)


# --- integers ----------------------------------------------------------------------------------------------------

# Far more digits than any integer column has; what is longer is out of range without being computed.
_INTEGER: Final = re.compile(rb"[+-]?[0-9]{1,40}")


_int_field: Final = cast(Callable[[object], bytes], b"%d".__mod__)


def _int_codec(name: str, bits: int, array: str) -> Codec:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def checked(number: int) -> int:
        if low <= number <= high:
            return number
        raise Unfit("22003", f"is out of range for {name}")

    def parse(raw: bytes) -> object:
        if _INTEGER.fullmatch(raw) is None:
            raise Unfit("22P02", f"is not an integer ({name})")
        return checked(int(raw))

    def read(value: object) -> object:
        if type(value) is not int:
            raise Unfit("22P02", f"must be a JSON integer ({name})")
        return checked(value)

    return Codec(name, _int_field, parse, str, read, key="int", array=array, low=low, high=high)


# --- floats ------------------------------------------------------------------------------------------------------

_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_FLOAT_WORDS: Final = {
    "inf": math.inf,
    "infinity": math.inf,
    "nan": math.nan,
}


def float_text(value: float) -> str:
    """The shortest text that reads back as the same float, without a trailing `.0`; words as PostgreSQL writes them."""
    if math.isfinite(value):
        text = repr(value)
        return text[:-2] if text.endswith(".0") else text
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _parse_float(text: str) -> float:
    if _FLOAT.fullmatch(text) is not None:
        number = float(text)
        if math.isinf(number):
            raise Unfit("22003", "is out of range for a float")
        return number
    sign = -1.0 if text.startswith("-") else 1.0
    word = _FLOAT_WORDS.get(text.lstrip("+-").lower() if text[:2] not in ("+-", "-+", "++", "--") else "")
    if word is None:
        raise Unfit("22P02", "is not a number")
    return sign * word


def _float_field(value: object) -> bytes:
    assert isinstance(value, float)
    return float_text(value).encode()


def _float_parse(raw: bytes) -> object:
    return _parse_float(decode_text(raw))


def _float_dump(value: object) -> str:
    assert isinstance(value, float)
    text = float_text(value)
    return text if math.isfinite(value) else f'"{text}"'


def _float_read(value: object) -> object:
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Unfit("22003", "is out of range for a float") from None
    if isinstance(value, NumberText):
        return _parse_float(value)
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return _parse_float(value)
    raise Unfit("22P02", "must be a JSON number")


# --- booleans ----------------------------------------------------------------------------------------------------

_BOOLS: Final = {b"true": True, b"t": True, b"1": True, b"false": False, b"f": False, b"0": False}


def _bool_field(value: object) -> bytes:
    return b"true" if value else b"false"


def _bool_parse(raw: bytes) -> object:
    value = _BOOLS.get(raw.lower())
    if value is None:
        raise Unfit("22P02", "is not a boolean (true, false)")
    return value


def _bool_dump(value: object) -> str:
    return "true" if value else "false"


def _bool_read(value: object) -> object:
    if isinstance(value, bool):
        return value
    raise Unfit("22P02", "must be true or false")


# --- bytes, uuid, JSON columns, numbers that travel as text ------------------------------------------------------


def _bytes_field(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _bytes_parse(raw: bytes) -> object:
    return raw


def _bytes_dump(value: object) -> str:
    assert isinstance(value, bytes)
    return '"' + base64.b64encode(value).decode() + '"'


def _bytes_read(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, NumberText):
        raise Unfit("22023", "must be a JSON string in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Unfit("22023", "is not base64") from None


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


def _check_uuid(text: str) -> str:
    if _UUID.fullmatch(text) is None:
        raise Unfit("22P02", "is not a uuid")
    return str(UUID(text))


def _uuid_parse(raw: bytes) -> object:
    return _check_uuid(decode_text(raw))


def _uuid_read(value: object) -> object:
    if not isinstance(value, str):
        raise Unfit("22P02", "must be a JSON string (uuid)")
    return _check_uuid(value)


def _json_parse(raw: bytes) -> object:
    parse_json(raw)
    return raw.decode()


def _json_dump(value: object) -> str:
    assert isinstance(value, str)
    return value


def _json_read(value: object) -> object:
    return json_text(value)


def _number_dump(value: object) -> str:
    assert isinstance(value, str)
    # The words: NaN and the infinities.
    return f'"{value}"' if value[-1:].isalpha() else value


def _number_read(value: object) -> object:
    if type(value) is int or isinstance(value, NumberText):
        return str(value)
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return value
    raise Unfit("22P02", "must be a JSON number")


# --- the tables --------------------------------------------------------------------------------------------------


def _cast(type_name: str) -> str:
    # A qualified name comes quoted from the catalog; a bare one is a built-in type.
    return type_name if "." in type_name else 'pg_catalog."' + type_name.replace('"', '""') + '"'


def _as_text(
    type_name: str,
    parse: Callable[[bytes], object] = decode_text,
    dump: Callable[[object], str] = _text_dump,
    read: Callable[[object], object] = _text_read,
    exact: bool = False,
    key: str = "",
) -> Codec:
    store = "{}::" + _cast(type_name)
    return Codec(type_name, _text_field, parse, dump, read, exact, key, load="{}::text", store=store)


_POSTGRES: Final = {
    "int2": _int_codec("int2", 16, "int2[]"),
    "int4": _int_codec("int4", 32, "int4[]"),
    "int8": _int_codec("int8", 64, "int8[]"),
    "bool": Codec("bool", _bool_field, _bool_parse, _bool_dump, _bool_read, array="bool[]"),
    "text": Codec("text", _text_field, decode_text, _text_dump, _text_read, key="text"),
    # Not exact: an assignment to varchar(n) silently drops spaces that do not fit.
    "varchar": Codec("varchar", _text_field, decode_text, _text_dump, _text_read, exact=False, key="text"),
    "bytea": Codec("bytea", _bytes_field, _bytes_parse, _bytes_dump, _bytes_read, key="bytes", array="bytea[]"),
    "float8": Codec("float8", _float_field, _float_parse, _float_dump, _float_read, array="float8[]"),
    "uuid": _as_text("uuid", _uuid_parse, read=_uuid_read, exact=True, key="uuid"),
    "json": _as_text("json", _json_parse, _json_dump, _json_read),
    "jsonb": _as_text("jsonb", _json_parse, _json_dump, _json_read),
    "numeric": _as_text("numeric", dump=_number_dump, read=_number_read),
    "float4": _as_text("float4", dump=_number_dump, read=_number_read),
}

# Wall-clock milliseconds in a timestamptz; only forebay_kv has one.
POSTGRES_MILLISECONDS: Final = Codec(
    "timestamptz",
    _int_field,
    _POSTGRES["int8"].parse,
    str,
    _POSTGRES["int8"].read,
    array="int8[]",
    load="(extract(epoch from {}) * 1000)::int8",
    store="to_timestamp({} / 1000.0)",
)


def _any_field(value: object) -> bytes:
    """A SQLite value by what it is."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, bytes):
        return value
    assert isinstance(value, float)
    return float_text(value).encode()


def _any_dump(value: object) -> str:
    if isinstance(value, str):
        return json_string(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return _bytes_dump(value)
    return _float_dump(value)


def _any_parse(raw: bytes) -> object:
    # A column without a type keeps what it is given: text if it can be text.
    try:
        return decode_text(raw)
    except Unfit:
        return raw


def _any_read(value: object) -> object:
    if isinstance(value, NumberText):
        return _parse_float(value)
    if isinstance(value, str):
        return check_text(value)
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    raise Unfit("22P02", "must be a JSON string or number")


def _real(value: object) -> object:
    assert isinstance(value, float)
    if math.isnan(value):
        raise Unfit("22003", "SQLite cannot hold NaN")
    # SQLite has no negative zero.
    return value + 0.0


def _real_parse(raw: bytes) -> object:
    return _real(_float_parse(raw))


def _real_read(value: object) -> object:
    return _real(_float_read(value))


def _flag_field(value: object) -> bytes:
    return _any_field(value)


def _flag_parse(raw: bytes) -> object:
    return int(bool(_bool_parse(raw)))


def _flag_dump(value: object) -> str:
    if value == 0:
        return "false"
    return "true" if value == 1 else _any_dump(value)


def _flag_read(value: object) -> object:
    return int(bool(_bool_read(value)))


def _embedded_dump(value: object) -> str:
    # Nothing but a constraint keeps a SQLite column from holding text that is not JSON; that is shown as a string.
    if isinstance(value, str):
        try:
            parse_json(value.encode())
        except Unfit:
            return json_string(value)
        return value
    return _any_dump(value)


def _loose_number_read(value: object) -> object:
    if type(value) is int or isinstance(value, NumberText):
        return str(value)
    return _text_read(value)


_SQLITE_BY_NAME: Final = {
    "BOOLEAN": Codec("BOOLEAN", _flag_field, _flag_parse, _flag_dump, _flag_read),
    "BOOL": Codec("BOOLEAN", _flag_field, _flag_parse, _flag_dump, _flag_read),
    "JSON": Codec("JSON", _any_field, _json_parse, _embedded_dump, _json_read, exact=False),
    "UUID": Codec("UUID", _any_field, _uuid_parse, _any_dump, _uuid_read, key="uuid"),
}

_SQLITE_INTEGER: Final = _int_codec("INTEGER", 64, "")
_SQLITE_TEXT: Final = Codec("TEXT", _any_field, decode_text, _any_dump, _text_read, key="text")
_SQLITE_BLOB: Final = Codec("BLOB", _any_field, _bytes_parse, _any_dump, _bytes_read, key="bytes")
_SQLITE_ANY: Final = Codec("ANY", _any_field, _any_parse, _any_dump, _any_read)
_SQLITE_NUMERIC: Final = Codec("NUMERIC", _any_field, decode_text, _any_dump, _loose_number_read, exact=False)
_SQLITE_REAL: Final = Codec("REAL", _any_field, _real_parse, _any_dump, _real_read)

# An INTEGER column may hold anything, so what it holds is shown as in the others.
_SQLITE_LOOSE_INTEGER: Final = Codec(
    "INTEGER",
    _any_field,
    _SQLITE_INTEGER.parse,
    _any_dump,
    _SQLITE_INTEGER.read,
    key="int",
    low=_SQLITE_INTEGER.low,
    high=_SQLITE_INTEGER.high,
)

# SQLite's own rules, in its order: https://www.sqlite.org/datatype3.html#determination_of_column_affinity
_SQLITE_AFFINITIES: Final = (
    (("INT",), _SQLITE_LOOSE_INTEGER),
    (("CHAR", "CLOB", "TEXT"), _SQLITE_TEXT),
    (("BLOB",), _SQLITE_BLOB),
    (("REAL", "FLOA", "DOUB"), _SQLITE_REAL),
)


def _sqlite_codec(declared: str) -> Codec:
    name = declared.upper().split("(")[0].strip()
    if name in ("", "ANY"):
        return _SQLITE_ANY
    known = _SQLITE_BY_NAME.get(name)
    if known is not None:
        return known
    for words, codec in _SQLITE_AFFINITIES:
        if any(word in name for word in words):
            return codec
    return _SQLITE_NUMERIC


def codec_for(column: ColumnShape, dialect: str) -> Codec:
    """The codec of a column, by its type in the store's own words."""
    if dialect == "postgresql":
        return _POSTGRES.get(column.type) or _as_text(column.type)
    return _sqlite_codec(column.type)


def key_value(codec: Codec, capture: str | int) -> object | None:
    """What a capture is in a key column of this type, or None when no row can have that key."""
    if codec.key == "int":
        return capture if isinstance(capture, int) and codec.low <= capture <= codec.high else None
    text = str(capture)
    if codec.key == "bytes":
        return text.encode()
    # varchar(n) would drop the spaces that do not fit and write another row.
    if codec.name == "varchar" and text.endswith(" "):
        return None
    return text


# By the array type that a PostgreSQL column travels in: what the driver makes of one value.
_NATIVE_TYPES: Final[dict[str, type]] = {
    "int2[]": int,
    "int4[]": int,
    "int8[]": int,
    "bool[]": bool,
    "float8[]": float,
    "bytea[]": bytes,
    "text[]": str,
}


def native_types(dialect: str, place: int, columns: Iterable[tuple[str, Codec]]) -> tuple[tuple[int, type, str], ...]:
    """Of columns that stand in a record from that place on: (place, Python type that the driver returns, name); none
    where a driver returns what it finds."""
    if dialect != "postgresql":
        return ()
    return tuple([(at, _NATIVE_TYPES[codec.array], name) for at, (name, codec) in enumerate(columns, place)])


def is_exact(codec: Codec, value: object) -> bool:
    """Does a load return exactly `value` after it was written?"""
    return codec.exact or value is None or (codec.name == "varchar" and str(value)[-1:] != " ")


def is_verbatim(codec: Codec) -> bool:
    """Is every string that `parse` takes what `field` makes of it again?"""
    return codec.parse in (decode_text, _bytes_parse)
