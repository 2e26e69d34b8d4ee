"""What a handler may return, independent of the protocol version the client speaks.

| value | RESP3 | RESP2 |
|---|---|---|
| ``bytes`` | bulk string | same |
| ``int`` | integer | same |
| ``bool`` | boolean | integer 1 or 0 |
| ``float`` | double | bulk string |
| ``None`` | null | nil bulk string |
| ``NIL_ARRAY`` | null | nil array |
| ``list``, ``tuple`` | array | same |
| `Status`, `Error` | simple string, error | same |
| `Map` | map | array of keys and values in turn |
| `SetOf`, `Push` | set, push | array |
| `Verbatim`, `BigNumber` | verbatim string, big number | bulk string |
| `Ready` | what it holds, which is encoded already; never inside another reply | same |
| ``NO_REPLY`` | nothing at all; never inside another reply | same |

Everything else is a mistake of the handler, ``str`` included: which bytes a text is has to be decided where it is made.
The conversion for RESP2 happens in `encoder` and nowhere else.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

# One of the values above. A recursive union would say so, but list is invariant: no handler's list[bytes] would fit it.
Reply: TypeAlias = object


# A simple string or error ends at its first line break, so none may be inside; Redis puts spaces there too.
def _one_line(text: str | bytes) -> bytes:
    if isinstance(text, str):
        # surrogateescape gives back the bytes of a client that were not UTF-8; other surrogates have no bytes at all.
        try:
            raw = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "backslashreplace")
    else:
        raw = text
    return raw.rstrip(b"\r\n").replace(b"\r", b" ").replace(b"\n", b" ")


class Status:
    """A simple string such as OK; ``wire`` is its encoding. Compared by content."""

    __slots__ = ("wire",)

    def __init__(self, text: str | bytes) -> None:
        self.wire: Final = b"+" + _one_line(text) + b"\r\n"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Status) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"Status({self.wire[1:-2]!r})"


class Error:
    """An error reply: a code in capitals, a space, and a sentence ("ERR no such key"). Compared by content.

    Line breaks become spaces here, so whatever is quoted inside cannot forge a second reply. ``wire`` is the encoding.
    """

    __slots__ = ("message", "wire")

    def __init__(self, message: str | bytes) -> None:
        line = _one_line(message)
        self.message: Final = line.decode("utf-8", "surrogateescape")
        self.wire: Final = b"-" + line + b"\r\n"

    @property
    def code(self) -> str:
        """The first word, such as ERR or WRONGTYPE."""
        return self.message.split(" ", 1)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Error) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"Error({self.message!r})"


class Sentinel:
    """A reply that exists once and is compared by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def __repr__(self) -> str:
        return self.name


class Map:
    """Keys and values in order, from a mapping or from pairs; ``flat`` holds them in turn. O(n) to build."""

    __slots__ = ("flat",)

    def __init__(self, items: Mapping[bytes, object] | Iterable[tuple[object, object]]) -> None:
        flat: list[object] = []
        pairs: Iterable[tuple[object, object]] = items.items() if isinstance(items, Mapping) else items
        for key, value in pairs:
            flat.append(key)
            flat.append(value)
        self.flat: Final = flat

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Map) and self.flat == other.flat

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Map({list(zip(self.flat[::2], self.flat[1::2], strict=True))!r})"


class SetOf:
    """Members without order; that they are distinct is the handler's word. O(n) to build."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[object]) -> None:
        self.items: Final[list[object]] = list(items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetOf) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SetOf({self.items!r})"


class Push:
    """A message nobody asked for at this moment: its kind first (b"message", b"invalidate"), then its parts."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[object]) -> None:
        self.items: Final[list[object]] = list(items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Push) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Push({self.items!r})"


class Elements:
    """So many elements that are read, once, while they are written. ``kind`` is what it is under RESP3: an array
    (``*``), a set (``~``), or a map (``%``, keys and values in turn, both counted)."""

    __slots__ = ("count", "items", "kind")

    def __init__(self, items: Iterable[object], count: int, kind: bytes = b"*") -> None:
        self.items: Final = items
        self.count: Final = count
        self.kind: Final = kind


class Ready:
    """A whole reply in wire form, in chunks."""

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Put a chunk behind the others."""
        self.chunks.append(chunk)
        self.size += len(chunk)


class Verbatim:
    """Text to be shown as it is; ``format`` has three characters ("txt", "mkd"). ValueError for any other length."""

    __slots__ = ("format", "text")

    def __init__(self, text: str | bytes, format: str = "txt") -> None:
        if len(format) != 3 or not format.isascii():
            raise ValueError(f"a verbatim format has three ASCII characters, not {format!r}")
        self.text: Final = text.encode() if isinstance(text, str) else text
        self.format: Final = format.encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verbatim) and self.text == other.text and self.format == other.format

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Verbatim({self.text!r}, {self.format.decode()!r})"


class BigNumber:
    """An integer of any size; plain ``int`` replies are for 64 bits."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value: Final = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BigNumber) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"BigNumber({self.value})"


OK: Final = Status("OK")
PONG: Final = Status("PONG")
QUEUED: Final = Status("QUEUED")
NIL_ARRAY: Final = Sentinel("NIL_ARRAY")
NO_REPLY: Final = Sentinel("NO_REPLY")
