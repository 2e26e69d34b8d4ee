"""Prefix rules: which keys belong to which table and strategy, and how a key names a row.

A rule is written as a key template, `order:{tenant:int}:{id:int}`. Its literal head (`order:`) is the prefix; among the
rules whose head begins a key, the longest head wins. The captures are the row's key columns.

A capture accepts only the canonical spelling of its type (`7`, never `007` or `+7`), because two spellings of one row
would be two cache entries of one row, and one of them would go stale.

Matching costs one slice and one dictionary look-up per *distinct head length*: a thousand prefixes cost what a few do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

CACHE_ASIDE: Final = "cache-aside"
READ_THROUGH: Final = "read-through"
REFRESH_AHEAD: Final = "refresh-ahead"
WRITE_THROUGH: Final = "write-through"
WRITE_BEHIND: Final = "write-behind"
WRITE_AROUND: Final = "write-around"

READ_STRATEGIES: Final = (CACHE_ASIDE, READ_THROUGH, REFRESH_AHEAD)
WRITE_STRATEGIES: Final = (CACHE_ASIDE, WRITE_THROUGH, WRITE_BEHIND, WRITE_AROUND)

# The words that `warm` takes besides SQL.
NO_WARM_UP: Final = "none"
HOT_KEYS: Final = "hot-keys"

CAPTURE_TYPES: Final = ("str", "int", "uuid")

_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z0-9_]+))?\}")
# A bigint has at most 19 digits; longer ones cannot be a key column and are left unmapped.
_INT = rb"(0|-?[1-9][0-9]{0,18})"
_UUID = rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
# Fewer digits than this are in range for sure.
_SURE_DIGITS: Final = 19
_ZERO: Final = ord("0")
_BIGINT_MIN: Final = -(1 << 63)
_BIGINT_MAX: Final = (1 << 63) - 1

Captures = tuple[str | int, ...]


class TemplateError(ValueError):
    """A key template that cannot be read; the message names the template and what is wrong with it."""


class Template:
    """A key template, compiled. `head` is the literal beginning, `names` and `types` the captures in order."""

    __slots__ = ("_ints", "_pattern", "head", "is_number", "names", "text", "types")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: tuple[str, ...] = ()
        self.types: tuple[str, ...] = ()
        first = text.find("{")
        self.head = (text if first < 0 else text[:first]).encode()
        if not self.head:
            raise TemplateError(f"{text!r}: a template must begin with a literal head, for example 'user:{{id:int}}'")
        pattern = b""
        position = 0
        names: list[str] = []
        types: list[str] = []
        for match in _CAPTURE.finditer(text):
            literal = text[position : match.start()]
            self._check_literal(literal)
            if names and not literal:
                raise TemplateError(f"{text!r}: two captures need a literal between them")
            name, kind = match.group(1), match.group(2) or "str"
            if kind not in CAPTURE_TYPES:
                raise TemplateError(f"{text!r}: unknown capture type {kind!r}; known are {', '.join(CAPTURE_TYPES)}")
            if name in names:
                raise TemplateError(f"{text!r}: the capture {name!r} occurs twice")
            names.append(name)
            types.append(kind)
            position = match.end()
            pattern += re.escape(literal.encode())
            stop = self._up_to(text[position : position + 1].encode())
            pattern += {"int": _INT, "uuid": _UUID}.get(kind, b"(" + stop + b")")
        tail = text[position:]
        self._check_literal(tail)
        if names:
            pattern += re.escape(tail.encode())
        self.names = tuple(names)
        self.types = tuple(types)
        self._ints = tuple(kind == "int" for kind in types)
        # Without captures every key that begins with the head belongs to the rule (the generic table).
        self._pattern = re.compile(pattern, re.DOTALL) if names else None
        # The commonest form, a head and one number.
        self.is_number = self.types == ("int",) and not tail

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    # Text up to the next literal's first character.
    def _up_to(self, character: bytes) -> bytes:
        if len(character) > 1:
            # All its bytes count, because é and ê begin with the same one.
            return b"(?:(?!" + re.escape(character) + b").)+"
        return b"[^" + re.escape(character) + b"]+" if character else b".+"

    def _check_literal(self, literal: str) -> None:
        if "{" in literal or "}" in literal:
            raise TemplateError(f"{self.text!r}: a capture is written {{name}} or {{name:type}}")

    def captures(self, key: bytes) -> Captures | None:
        """The values that `key` gives to the captures, or None when it does not fit. O(length of key)."""
        if self._pattern is None:
            return ()
        if self.is_number:
            digits = key[len(self.head) :]
            # As the pattern would read it; a sign, or so many digits that they may be out of range, it reads itself.
            if digits.isdigit() and len(digits) < _SURE_DIGITS and digits[0] != _ZERO and key.startswith(self.head):
                return (int(digits),)
        match = self._pattern.fullmatch(key)
        if match is None:
            return None
        values: list[str | int] = []
        for is_int, raw in zip(self._ints, match.groups(), strict=True):
            if is_int:
                number = int(raw)
                if not _BIGINT_MIN <= number <= _BIGINT_MAX:
                    return None
                values.append(number)
            else:
                try:
                    values.append(raw.decode())
                except UnicodeDecodeError:
                    return None
                if b"\0" in raw:
                    return None
        return tuple(values)

    def key(self, captures: Captures) -> bytes:
        """The key that these captures spell: the inverse of `captures`."""
        values = iter(captures)
        return _CAPTURE.sub(lambda _: str(next(values)), self.text).encode()


@dataclass(frozen=True, slots=True)
class PrefixRule:
    """One `[prefix."…"]` section, checked. Durations are seconds, sizes bytes; names as in config.example.toml."""

    template: Template
    store: str = ""
    read: str = CACHE_ASIDE
    write: str = CACHE_ASIDE
    table: str = ""
    value: str = "json"  # json | hash | column | set | zset
    column: str = ""  # with value = "column"; with "set" and "zset" the column of the members
    score: str = ""  # with value = "zset"
    columns: tuple[tuple[str, str], ...] = ()  # (field, column); empty means all
    load: str = ""
    upsert: str = ""
    delete: str = ""
    ttl_s: float = 300.0  # 0 means none
    ttl_jitter: float = 0.1
    negative_ttl_s: float = 5.0  # 0 means off
    refresh_at: float = 0.8
    load_timeout_s: float = 2.0
    load_batch: int = 256
    write_delay_s: float = 1.0
    write_batch: int = 1000
    # (A rule whose budget alone has changed is the same rule: what is cached under it stays.)
    max_dirty: int = field(default=64 << 20, compare=False)
    on_full: str = "block"  # block | reject | write-through
    retry_limit: int = 5
    on_dead: str = "drop"  # drop | keep
    early_expiry: float = 0.0  # XFetch's beta; 0 means off
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    load_soft_timeout_s: float = 0.0  # 0 means off
    invalidate: str = "none"  # none | notify
    tags: tuple[str, ...] = ()
    warm: str = "none"  # none | hot-keys | SQL
    unmapped: str = "memory"  # memory | reject

    @property
    def name(self) -> str:
        """The template as the configuration spells it: how logs, errors and CACHE.* name the rule."""
        return self.template.text

    @property
    def loads(self) -> bool:
        """Does a read that misses ask the store?"""
        return self.read != CACHE_ASIDE

    @property
    def saves(self) -> bool:
        """Does a write reach the store?"""
        return self.write != CACHE_ASIDE

    @property
    def has_children(self) -> bool:
        """Is a key many rows, its members, rather than one?"""
        return self.value in ("set", "zset")

    @property
    def form(self) -> str:
        """What a value is, in words: `hash`, `json`, a column's name, `set of item`, `zset of player by points`."""
        if not self.has_children:
            return self.column or self.value
        return f"{self.value} of {self.column}" + (f" by {self.score}" if self.score else "")

    @property
    def generic(self) -> bool:
        """Is the store's `forebay_kv` table used?"""
        return not self.table and not self.load


class RuleTable:
    """All rules, by longest literal head. Immutable: a reload builds a new one."""

    __slots__ = ("_heads", "_innermost", "_lengths", "rules")

    def __init__(self, rules: list[PrefixRule]) -> None:
        # In matching order: longest head first.
        self.rules = sorted(rules, key=lambda rule: (-len(rule.template.head), rule.name))
        self._heads: dict[bytes, PrefixRule] = {}
        for rule in self.rules:
            head = rule.template.head
            other = self._heads.setdefault(head, rule)
            if other is not rule:
                raise TemplateError(f"{rule.name!r} and {other.name!r} have the same head {head.decode()!r}")
        self._lengths = sorted({len(head) for head in self._heads}, reverse=True)
        # In order, what begins with a head comes right behind it.
        heads = sorted(self._heads)
        following = [*heads, b""][1:]
        self._innermost = {head for head, after in zip(heads, following, strict=True) if not after.startswith(head)}

    def is_innermost(self, head: bytes) -> bool:
        """Does every key that begins with this rule's head match this rule, because no longer head begins so?"""
        return head in self._innermost

    def match(self, key: bytes) -> PrefixRule | None:
        """The rule whose literal head is the longest that begins `key`. The template may still not fit."""
        heads = self._heads
        for length in self._lengths:
            rule = heads.get(key[:length])
            if rule is not None:
                return rule
        return None
