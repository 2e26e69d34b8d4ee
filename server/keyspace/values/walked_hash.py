"""WalkedHash: a large hash from which somebody draws fields at random, or through which somebody walks.

A hash is a plain dictionary, which finds its k-th field only by walking there: five milliseconds for a million fields.
The first HRANDFIELD or HSCAN of a large one puts this in its place, which is still that dictionary, with an index of
its fields (`places.py`), eight bytes each, kept up to date by the two methods that handlers change a hash with.
"""

from __future__ import annotations

from server.keyspace.values.places import Places


class WalkedHash(dict[bytes, bytes]):
    """Fields with values, and an index of the fields."""

    __slots__ = ("places",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        super().__init__(fields)
        self.places = Places(self)

    def __setitem__(self, field: bytes, value: bytes) -> None:
        if field not in self:
            self.places.added(field)
        super().__setitem__(field, value)

    def pop(self, field: bytes, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        """Take a field out: its value; `default` when it is absent."""
        if field not in self:
            return default
        value = super().pop(field)
        self.places.removed(field)
        return value

    def parts(self) -> list[object]:
        """The containers that the hash consists of, for taking it apart."""
        return [self, *self.places.parts()]
