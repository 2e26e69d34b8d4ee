"""Judging a history: is there one order of all operations that explains every reply?

Problem. Each client saw its own replies; between the call and the reply of an operation lies the moment at which it
took effect. A history is linearizable when such moments can be chosen so that a single copy of the data, touched by one
operation at a time, would have given the same replies.

Method. Wing and Gong's search, driven by the replies in the order in which they came (Lowe's "just-in-time
linearization"). A configuration is the data plus the open operations that have already taken effect. At each reply
every configuration is extended by open operations in any order until the one that replied has taken effect;
configurations in which its reply would have been another die. When all are dead, no order exists, and the reply that
killed the last one is where to look. Keys are judged apart, because linearizability is local; keys that a transaction
joins are judged together, which is what makes transactions atomic here.

Outcomes. An operation that was refused has no effect and is left out. One whose outcome is unknown may take effect at
any moment after its call or never, but no later than `healed`: by then every straggler in the database has landed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

Words = tuple[bytes, ...]
# A string's text; a hash's two fields; None: no such key.
Value = bytes | tuple[bytes | None, bytes | None] | None
State = tuple[Value, ...]
# The data, and the open operations that have taken effect already, as bits.
Configuration = tuple[State, int]

# What became of an operation.
DONE: Final = "done"
REFUSED: Final = "refused"
UNKNOWN: Final = "unknown"

# The fields of the hash: one text, one number.
FIELDS: Final = (b"a", b"n")
_READS: Final = (b"GET", b"EXISTS", b"HGET", b"HGETALL")
# Configurations looked at for one reply before we give up.
_MOST_CONFIGURATIONS: Final = 200_000


class Undecided(Exception):
    """The search grew too large."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(eq=False)
class Operation:
    """One command or one transaction of a client. Stamps order calls and replies; times are for people."""

    client: int
    commands: list[Words]
    called: int
    called_s: float
    status: str = UNKNOWN
    # One reply for each command.
    replies: list[object] = field(default_factory=list)
    answered: int = 0
    answered_s: float = 0.0
    error: str = ""

    def keys(self) -> set[bytes]:
        """The keys that it touches."""
        return {words[1] for words in self.commands}

    def reads_only(self) -> bool:
        """Does it change nothing, whatever the data?"""
        return all(words[0] in _READS for words in self.commands)

    def __str__(self) -> str:
        text = "; ".join(b" ".join(words).decode() for words in self.commands)
        if len(self.commands) > 1:
            text = f"[{text}]"
        end = f"{self.answered_s:9.4f}" if self.answered else "        …"
        outcome = self.error or (self.status if self.status != DONE else ", ".join(map(_shown, self.replies)))
        return f"{self.called_s:9.4f} →{end}  c{self.client}  {text}  ⇒  {outcome}"


def _shown(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else "nil" if reply is None else str(reply)


def play(value: Value, words: Words) -> tuple[Value, object]:
    """One command on one key: the value afterwards, and the reply. The specification, in twenty lines."""
    verb = words[0]
    if verb == b"GET":
        return value, value
    if verb == b"EXISTS":
        return value, int(value is not None)
    if verb == b"DEL":
        return None, int(value is not None)
    if verb == b"GETDEL":
        return None, value
    if verb == b"SET":
        return words[2], b"OK"
    if verb == b"SETNX":
        return (words[2], 1) if value is None else (value, 0)
    if verb == b"INCR":
        assert value is None or isinstance(value, bytes)
        total = int(value or b"0") + 1
        return b"%d" % total, total
    if verb == b"HGETALL":
        return value, value
    fields = value if isinstance(value, tuple) else (None, None)
    index = FIELDS.index(words[2])
    if verb == b"HGET":
        return value, fields[index]
    if verb == b"HSET":
        return _with(fields, index, words[3]), int(fields[index] is None)
    assert verb == b"HINCRBY"
    total = int(fields[index] or b"0") + int(words[3])
    return _with(fields, index, b"%d" % total), total


def _with(fields: tuple[bytes | None, bytes | None], index: int, text: bytes) -> Value:
    return (text, fields[1]) if index == 0 else (fields[0], text)


class History:
    """All operations of one run, and the judgement."""

    def __init__(self, blind_deletes: bool) -> None:
        # Write-behind answers DEL before anybody has looked for the row: 1 says only that it is gone now.
        self.blind_deletes = blind_deletes
        self.operations: list[Operation] = []
        self.healed = 0
        # Moments at which the process died.
        self.deaths: list[int] = []
        self._stamp = 0

    def stamp(self) -> int:
        """The next number in the order of events."""
        self._stamp += 1
        return self._stamp

    def die(self) -> None:
        """The process dies: what it had not answered has taken effect by now, or never will."""
        self.deaths.append(self.stamp())

    def heal(self) -> None:
        """Nothing that is still under way can take effect after this moment."""
        self.healed = self.stamp()

    def check(self, initial: dict[bytes, Value]) -> None:
        """Raise Violation unless the history is linearizable."""
        counted = [each for each in self.operations if each.status != REFUSED]
        for keys in _components(counted):
            own = [each for each in counted if not each.keys().isdisjoint(keys)]
            _Search(self, sorted(keys), own).run(tuple(initial.get(key) for key in sorted(keys)))


def _components(operations: Iterable[Operation]) -> list[set[bytes]]:
    # Keys that some operation touches together.
    found: list[set[bytes]] = []
    for operation in operations:
        keys = operation.keys()
        joined = [each for each in found if not each.isdisjoint(keys)]
        if len(joined) == 1 and keys <= joined[0]:
            continue
        found = [each for each in found if each.isdisjoint(keys)]
        found.append(keys.union(*joined))
    return found


class _Search:
    """The search over one set of keys."""

    def __init__(self, history: History, keys: list[bytes], operations: list[Operation]) -> None:
        self.history = history
        self.keys = keys
        self.operations = operations
        self._places = {key: place for place, key in enumerate(keys)}
        self._calls = [[(self._places[words[1]], words) for words in each.commands] for each in operations]
        # Operations that only read: bits by index.
        self._reads = 0
        for index, operation in enumerate(operations):
            if operation.reads_only():
                self._reads |= 1 << index
        self._effects: dict[tuple[State, int], State | None] = {}

    def run(self, initial: State) -> None:
        events: list[tuple[int, bool, int]] = []
        for index, operation in enumerate(self.operations):
            if operation.status == DONE:
                events.append((operation.answered, True, index))
            elif self._reads >> index & 1:
                # Nobody saw what it read.
                continue
            events.append((operation.called, False, index))
        # Operations of unknown outcome have had their last chance, of those that died with the process at its death.
        events += [(moment, True, -1) for moment in (*self.history.deaths, self.history.healed)]
        configurations: set[Configuration] = {(initial, 0)}
        opened: list[int] = []
        for _, answered, index in sorted(events):
            if not answered:
                opened.append(index)
            elif index >= 0:
                survivors = self._explain(configurations, opened, index)
                if not survivors:
                    raise Violation(self._report(index, configurations))
                configurations = survivors
                opened.remove(index)
            else:
                # What took effect stays, what did not never will; nothing else is open at this moment.
                configurations = {(state, 0) for state, _ in self._explain(configurations, opened, -1)}
                opened.clear()

    def _explain(self, configurations: set[Configuration], opened: list[int], index: int) -> set[Configuration]:
        # The configurations in which this operation has taken effect; with -1, all that can be reached.
        bit = 1 << index if index >= 0 else 0
        reads = [each for each in opened if self._reads >> each & 1]
        writes = [each for each in opened if not self._reads >> each & 1]
        stack = [(state, self._read(state, effective, reads)) for state, effective in configurations]
        seen = set(stack)
        survivors: set[Configuration] = set()
        while stack:
            state, effective = stack.pop()
            if effective & bit:
                survivors.add((state, effective & ~bit))
                continue
            for each in writes:
                if effective >> each & 1:
                    continue
                after = self._apply(state, each)
                if after is None:
                    continue
                further = (after, self._read(after, effective | 1 << each, reads))
                if further not in seen:
                    seen.add(further)
                    stack.append(further)
            if len(seen) > _MOST_CONFIGURATIONS:
                raise Undecided(f"more than {_MOST_CONFIGURATIONS} configurations")
        return survivors if bit else seen

    def _read(self, state: State, effective: int, reads: list[int]) -> int:
        # A read that fits takes effect as early as it can: it changes nothing, so waiting gains nothing.
        for each in reads:
            if not effective >> each & 1 and self._apply(state, each) is not None:
                effective |= 1 << each
        return effective

    def _apply(self, state: State, index: int) -> State | None:
        # The state after an operation; None when it would have replied something else.
        effect = (state, index)
        if effect in self._effects:
            return self._effects[effect]
        operation = self.operations[index]
        known = operation.status == DONE
        values = list(state)
        after: State | None = None
        for position, (place, words) in enumerate(self._calls[index]):
            values[place], reply = play(values[place], words)
            if known and reply != operation.replies[position]:
                loose = self.history.blind_deletes and words[0] == b"DEL" and operation.replies[position] == 1
                if not loose:
                    break
        else:
            after = tuple(values)
        self._effects[effect] = after
        return after

    def _report(self, index: int, configurations: set[Configuration]) -> str:
        states = sorted({str(dict(zip(self.keys, state, strict=True))) for state, _ in configurations})[:5]
        possible = " | ".join(states)
        return f"not linearizable: no order explains\n  {self.operations[index]}\npossible before it: {possible}"
