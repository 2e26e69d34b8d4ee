"""Clients, and an oracle that remembers what they were told.

Clients speak to the node over real sockets and draw their commands from a seed: hashes and strings, reads, blind and
looking writes, counters, deletions, transactions over two keys. Every operation goes into a History with its outcome:

    done       answered: it took effect between its call and its reply, and later readers see it or something newer
    refused    -STOREDOWN, -STOREREJECTED, -LOADTIMEOUT, -BUSY: it never takes effect
    unknown    -STORETIMEOUT: it may take effect once, at any moment until healing, or never

The judgement is the simulation's (tests/simulation/check.py): there must be one order of all operations that explains
every reply. That includes "no value that nobody wrote", "nothing older than what was acknowledged before the read
began", "a counter counts once". What the database holds at the end is added as one more read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from protocol.decoder import PENDING, ReplyDecoder, ReplyError, pack_command
from tests.simulation.check import DONE, REFUSED, UNKNOWN, History, Operation, Value, Words

# Errors after which it is certain that nothing happened.
REFUSALS: Final = ("STOREDOWN", "STOREREJECTED", "BUSY", "LOADTIMEOUT")
# Longer than anything may take: whoever waits so long waits for ever.
_PATIENCE_S: Final = 20.0
_PIECE: Final = 1 << 16


class Client:
    """One connection; commands one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = ReplyDecoder()

    @classmethod
    async def connect(cls, port: int) -> Client:
        """A client of the node at this port."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, *words: bytes | str | int) -> object:
        """One command and its reply; error replies are returned."""
        return (await self.pipeline([words]))[0]

    async def pipeline(self, commands: Sequence[Sequence[bytes | str | int]]) -> list[object]:
        """Commands sent at once, and their replies."""
        self._writer.write(b"".join([pack_command(*words) for words in commands]))
        async with asyncio.timeout(_PATIENCE_S):
            return [await self._reply() for _ in commands]

    async def _reply(self) -> object:
        while (reply := self._decoder.get()) is PENDING:
            piece = await self._reader.read(_PIECE)
            assert piece, "the node closed a client's connection"
            self._decoder.feed(piece)
        return reply

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@dataclass(frozen=True)
class Family:
    """Keys of one prefix. `hash`: rows as hashes, else the generic table's strings."""

    head: str
    hash: bool
    behind: bool
    count: int = 8

    def names(self) -> list[bytes]:
        """The keys that clients use."""
        return [f"{self.head}{number}".encode() for number in range(1, self.count + 1)]


ACCOUNTS: Final = Family("account:", hash=True, behind=False)
PAGES: Final = Family("page:", hash=False, behind=False)
SESSIONS: Final = Family("session:", hash=True, behind=True)
NOTES: Final = Family("note:", hash=False, behind=True)
FAMILIES: Final = (ACCOUNTS, PAGES, SESSIONS, NOTES)


def draw(family: Family, random: Random, numbers: itertools.count[int]) -> list[Words]:
    """The next operation: one command, or the two of a transaction. Numbers make every written value unique."""
    keys = family.names()
    key = random.choice(keys)
    point = random.random()
    if family.hash:
        if point < 0.1:
            place = random.randrange(0, len(keys) - 1, 2)
            return [(b"HINCRBY", keys[place], b"n", b"1"), (b"HINCRBY", keys[place + 1], b"n", b"-1")]
        if point < 0.3:
            return [(b"HSET", key, b"a", b"a%d" % next(numbers))]
        if point < 0.45:
            return [(b"HINCRBY", key, b"n", b"1")]
        if point < 0.5:
            return [(b"DEL", key)]
        return [(b"HGET", key, b"a")] if point < 0.6 else [(b"HGETALL", key)]
    if point < 0.25:
        return [(b"SET", key, b"%d" % (next(numbers) * 1000))]
    if point < 0.45:
        return [(b"INCR", key)]
    if point < 0.52:
        return [(b"DEL", key)]
    return [(b"EXISTS", key)] if point < 0.57 else [(b"GET", key)]


class Oracle:
    """What was asked and answered, by strategy (write-behind answers DEL before it has looked)."""

    def __init__(self, initial: dict[bytes, Value]) -> None:
        self._initial = initial
        self.histories = {False: History(blind_deletes=False), True: History(blind_deletes=True)}

    def operations(self, *statuses: str, behind: bool | None = None) -> list[Operation]:
        """The operations that ended so, of one strategy or of both."""
        found = [
            each for key, history in self.histories.items() if behind in (None, key) for each in history.operations
        ]
        return [each for each in found if each.answered and each.status in (statuses or (DONE, REFUSED, UNKNOWN))]

    async def run(self, client: Client, number: int, family: Family, commands: list[Words]) -> Operation:
        """One operation of a client."""
        history = self.histories[family.behind]
        loop = asyncio.get_running_loop()
        operation = Operation(number, commands, history.stamp(), loop.time())
        history.operations.append(operation)
        if len(commands) == 1:
            answer = await client.call(*commands[0])
        else:
            answer = (await client.pipeline([(b"MULTI",), *commands, (b"EXEC",)]))[-1]
        operation.answered = history.stamp()
        operation.answered_s = loop.time()
        _judge(operation, answer)
        return operation

    def add_row(self, family: Family, key: bytes, value: Value) -> None:
        """What the database holds, as a read that nobody doubts."""
        history = self.histories[family.behind]
        operation = Operation(0, [(b"HGETALL" if family.hash else b"GET", key)], history.stamp(), 0.0, DONE, [value])
        operation.answered = history.stamp()
        operation.error = f"{value!r} in the database"
        history.operations.append(operation)

    def heal(self) -> None:
        """Nothing of unknown outcome can take effect any more."""
        for history in self.histories.values():
            history.heal()

    def check(self) -> None:
        """Raises Violation unless every reply has an explanation."""
        for history in self.histories.values():
            history.check(self._initial)


def _judge(operation: Operation, answer: object) -> None:
    if isinstance(answer, ReplyError):
        operation.error = str(answer)
        word = operation.error.split(" ")[0]
        assert word in REFUSALS or word == "STORETIMEOUT", f"unexpected error: {operation}"
        operation.status = REFUSED if word in REFUSALS else UNKNOWN
        return
    operation.status = DONE
    replies = answer if len(operation.commands) > 1 else [answer]
    assert isinstance(replies, list), f"unexpected reply: {answer!r} to {operation}"
    assert not any(isinstance(each, ReplyError) for each in replies), f"{replies} to {operation}"
    operation.replies = [plain(words, each) for words, each in zip(operation.commands, replies, strict=True)]


def plain(words: Words, reply: object) -> object:
    """A reply as the oracle's model has it: a hash is its two fields that are no part of the key."""
    if words[0] == b"HGETALL" and isinstance(reply, list):
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return (fields.get(b"a"), fields.get(b"n")) if fields else None
    return reply


class Load:
    """Clients that go on until they are told to stop."""

    def __init__(self, oracle: Oracle, port: int, seed: int, clients: int) -> None:
        self._oracle = oracle
        self._port = port
        self._seed = seed
        self._stopping = False
        self._numbers = itertools.count(1)
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let them go."""
        self._tasks = [asyncio.create_task(self._live(number)) for number in range(1, self._clients + 1)]

    async def stop(self) -> None:
        """Let everybody finish the operation under way; raises what went wrong."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def end(self) -> None:
        """Stop at once, whatever the clients are doing."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what has gone wrong until now."""
        for task in self._tasks:
            if task.done() and not self._stopping:
                task.result()
                raise AssertionError("a client has stopped")

    async def _live(self, number: int) -> None:
        random = Random(f"{self._seed}/{number}")
        client = await Client.connect(self._port)
        try:
            while not self._stopping:
                family = random.choice(FAMILIES)
                await self._oracle.run(client, number, family, draw(family, random, self._numbers))
                # A client thinks. Without that, a test is the machine's speed, not the number of things that happened.
                await asyncio.sleep(random.expovariate(1 / 0.008))
        finally:
            client.close()
