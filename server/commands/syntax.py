"""The argument tree that COMMAND DOCS returns, read from a command's syntax line.

Redis keeps the tree in one JSON file per command and prints the line from it. Forebay keeps the line, which people read
and write more easily, and derives the tree. The line is what Redis's documentation prints:

    key value [NX | XX] [EX seconds | PX milliseconds] [LIMIT offset count] [GET pattern [GET pattern ...]]

Upper case is a literal token, lower case an argument; `[…]` is optional, `<…>` groups alternatives; an optional part
that ends in `...` and repeats what stands before it means once or more, otherwise (`[arg ...]`) any number of times; a
bare `...` repeats the item before it.

Two steps: `_Reader` turns the line into nodes that mirror its brackets; `_arguments` turns nodes into Arguments, where
a literal takes the required arguments behind it along (`EX seconds` is the integer `seconds` with the token EX, `LIMIT
offset count` a block with the token LIMIT) and stands alone when there are none.

What a line does not say is guessed from names: the types, and the names of blocks and alternatives, which nobody shows.
"""

from __future__ import annotations

import re
from typing import Final

_TOKENS: Final = re.compile(r"\.\.\.|[\[\]<>|]|[^\s\[\]<>|]+?(?=\.\.\.|[\s\[\]<>|]|$)")

_ELLIPSIS: Final = "..."

KEYS: Final = frozenset(
    ("key", "key1", "key2", "newkey", "source", "destination", "destkey", "sourcekey", "destinationkey", "src", "dst")
)
INTEGERS: Final = frozenset(
    (
        "bit", "bytes", "client-id", "consumers", "count", "cursor", "db", "decrement", "destination-db", "end",
        "entries-added", "entries-read", "frequency", "increment", "index", "index1", "index2",
        "iterations", "len", "length", "limit", "maxage", "maxlen", "milliseconds", "min-idle-time", "min-match-len",
        "ms", "n", "num-matches", "numfields", "numkeys", "numlocal", "numreplicas", "offset", "port", "protover",
        "rank", "samples", "seconds", "slot", "start", "stop", "timeout", "ttl", "version", "weight",
    )
)  # fmt: skip
DOUBLES: Final = frozenset(("score", "longitude", "latitude", "radius", "width", "height"))
# Arguments whose type depends on the command.
DOUBLES_BY_COMMAND: Final = {
    "blpop": ("timeout",),
    "brpop": ("timeout",),
    "blmove": ("timeout",),
    "brpoplpush": ("timeout",),
    "blmpop": ("timeout",),
    "bzpopmin": ("timeout",),
    "bzpopmax": ("timeout",),
    "bzmpop": ("timeout",),
    "incrbyfloat": ("increment",),
    "hincrbyfloat": ("increment",),
    "zcount": ("min", "max"),
    "zrangebyscore": ("min", "max"),
    "zrevrangebyscore": ("min", "max"),
    "zremrangebyscore": ("min", "max"),
}
STRINGS_BY_COMMAND: Final = {
    "zrange": ("start", "stop"),
    "zrangestore": ("min", "max"),
    "xrange": ("start", "end"),
    "xrevrange": ("start", "end"),
    "xpending": ("start", "end"),
    "xautoclaim": ("start", "min-idle-time"),
    "xclaim": ("min-idle-time",),
}
INTEGERS_BY_COMMAND: Final = {"setbit": ("value",), "bitfield": ("value",)}


class Argument:
    """One node of the tree. `arguments` is filled for `oneof` and `block` only."""

    __slots__ = ("arguments", "multiple", "multiple_token", "name", "optional", "token", "type")

    def __init__(self, name: str, kind: str, token: str, arguments: list[Argument]) -> None:
        self.name = name
        # key, string, integer, double, pattern, unix-time, pure-token, oneof, block
        self.type = kind
        self.token = token
        self.optional = False
        self.multiple = False
        # The token is repeated with every further value.
        self.multiple_token = False
        self.arguments = arguments


class _Node:
    """A word, or a group of alternatives, each a sequence of nodes."""

    __slots__ = ("alternatives", "ellipsis", "optional", "repeated", "word")

    def __init__(self, word: str, alternatives: list[list[_Node]]) -> None:
        # Empty for a group.
        self.word = word
        self.alternatives = alternatives
        self.optional = False
        # The brackets end in `...`; becomes `repeated` once it is known what is repeated.
        self.ellipsis = False
        self.repeated = False


def parse(syntax: str, command: str = "", has_keys: bool = True) -> list[Argument]:
    """The arguments of a syntax line. ValueError when its brackets do not match.

    `command` and `has_keys` decide types: without keys an argument called `key` is an ordinary string.
    """
    alternatives = _Reader(_TOKENS.findall(syntax)).alternatives("")
    typer = _Typer(command, has_keys)
    if len(alternatives) == 1:
        return _arguments(alternatives[0], typer)
    return [_choice(alternatives, typer)]


# -- the line: nodes that mirror its brackets -------------------------------------------------------------------------


class _Reader:
    """Recursive descent over the words of one line."""

    __slots__ = ("at", "words")

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.at = 0

    def alternatives(self, closing: str) -> list[list[_Node]]:
        """Sequences separated by `|`, up to and with the closing bracket, or the end of the line."""
        sequence: list[_Node] = []
        found = [sequence]
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == closing:
                return found
            if word == "|":
                sequence = []
                found.append(sequence)
            elif word == _ELLIPSIS:
                self._repeat(sequence, closing)
            elif word == "[":
                sequence.append(self._optional(sequence))
            elif word == "<":
                group = _Node("", self.alternatives(">"))
                _fold_repetition(group)
                sequence.append(group)
            elif word in "]>":
                raise ValueError(f"syntax line: unexpected {word!r}")
            else:
                sequence.append(_Node(word, []))
        if closing:
            raise ValueError(f"syntax line: missing {closing!r}")
        return found

    def _optional(self, before: list[_Node]) -> _Node:
        group = _Node("", self.alternatives("]"))
        group.optional = True
        last = group.alternatives[-1]
        if last and last[-1].word == _ELLIPSIS:
            last.pop()
            group.ellipsis = True
            if len(group.alternatives) == 1 and _take_repeated(before, last):
                # `key [key ...]`: the group in hand stands for both.
                group.optional = False
            group.repeated = True
        else:
            _fold_repetition(group)
        return group

    def _repeat(self, sequence: list[_Node], closing: str) -> None:
        if not sequence:
            raise ValueError("syntax line: nothing before '...'")
        if closing == "]" and self.at < len(self.words) and self.words[self.at] == "]":
            # Belongs to the brackets, which take it off again.
            sequence.append(_Node(_ELLIPSIS, []))
        else:
            sequence[-1].repeated = True


def _take_repeated(before: list[_Node], repeated: list[_Node]) -> bool:
    # Is what an optional `... ` group repeats the tail of what stands before it? Then the tail is taken off.
    count = len(repeated)
    if count and len(before) >= count and _spelled(before[-count:]) == _spelled(repeated):
        del before[-count:]
        return True
    return False


def _fold_repetition(group: _Node) -> None:
    # `[A | B [A | B ...]]`: the alternatives repeated as the tail of the last one mean that the whole group repeats.
    last = group.alternatives[-1]
    if len(group.alternatives) < 2 or not last or not last[-1].ellipsis:
        return
    tail = last[-1]
    rest = [*group.alternatives[:-1], last[:-1]]
    if _spelled_choice(rest) == _spelled_choice(tail.alternatives):
        last.pop()
        group.repeated = True


def _spelled(nodes: list[_Node]) -> str:
    return " ".join(
        node.word or f"{'[' if node.optional else '<'}{_spelled_choice(node.alternatives)}{node.repeated}"
        for node in nodes
    )


def _spelled_choice(alternatives: list[list[_Node]]) -> str:
    return "|".join(_spelled(sequence) for sequence in alternatives)


# -- the tree ---------------------------------------------------------------------------------------------------------


class _Typer:
    """Guesses an argument's type from its name and its command."""

    __slots__ = ("doubles", "has_keys", "integers", "strings")

    def __init__(self, command: str, has_keys: bool) -> None:
        self.has_keys = has_keys
        self.doubles: tuple[str, ...] = DOUBLES_BY_COMMAND.get(command, ())
        self.integers: tuple[str, ...] = INTEGERS_BY_COMMAND.get(command, ())
        self.strings: tuple[str, ...] = STRINGS_BY_COMMAND.get(command, ())

    def type_of(self, name: str) -> str:
        if name in self.doubles:
            return "double"
        if name in self.strings:
            return "string"
        if self.has_keys and name in KEYS:
            return "key"
        if name.startswith("unix-time"):
            return "unix-time"
        if name in INTEGERS or name in self.integers:
            return "integer"
        if name in DOUBLES:
            return "double"
        return "pattern" if name == "pattern" else "string"


def _is_literal(node: _Node) -> bool:
    # `*`, `=`, `~` and `$` are literals too.
    return node.word != "" and node.word == node.word.upper()


def _arguments(nodes: list[_Node], typer: _Typer) -> list[Argument]:
    found: list[Argument] = []
    at = 0
    while at < len(nodes):
        node = nodes[at]
        at += 1
        if not _is_literal(node):
            found.append(_argument(node, typer))
            continue
        taken: list[Argument] = []
        while at < len(nodes) and not _is_literal(nodes[at]) and not nodes[at].optional:
            taken.append(_argument(nodes[at], typer))
            at += 1
        found.append(_with_token(node, taken))
    return found


def _with_token(literal: _Node, taken: list[Argument]) -> Argument:
    token = literal.word
    if not taken:
        argument = Argument(token.lower(), "pure-token", token, [])
        argument.multiple = literal.repeated
        return argument
    if len(taken) == 1 and not taken[0].token:
        taken[0].token = token
        return taken[0]
    return Argument(token.lower(), "block", token, taken)


def _argument(node: _Node, typer: _Typer) -> Argument:
    if node.word:
        argument = Argument(node.word, typer.type_of(node.word), "", [])
    else:
        argument = _choice(node.alternatives, typer)
    if node.optional:
        argument.optional = True
    if node.repeated:
        argument.multiple = True
        argument.multiple_token = argument.token != ""
    return argument


def _choice(alternatives: list[list[_Node]], typer: _Typer) -> Argument:
    choices = [_single(_arguments(sequence, typer)) for sequence in alternatives]
    if len(choices) == 1:
        return choices[0]
    return Argument(_joined(choices), "oneof", "", choices)


def _single(arguments: list[Argument]) -> Argument:
    # One argument is itself; several that belong together are a block.
    if not arguments:
        raise ValueError("syntax line: an empty alternative")
    if len(arguments) == 1:
        return arguments[0]
    return Argument(_joined(arguments), "block", "", arguments)


def _joined(arguments: list[Argument]) -> str:
    return "-".join(argument.name for argument in arguments)
