"""One run: the real dispatch, engine, loader, locks and queue in a world made of one seed.

    clients ──► Session + Dispatch.run_batch, as server/net/connection.py does it
                   └► Engine, Loader, KeyLocks, WriteBehind over Keyspace
                         └► FaultyStore ► MemoryStore
    chaos: evictions, invalidations, FLUSHALL, outages, wall clock, outsiders, crashes

Everything random is drawn from streams derived from the seed, one per source, so that a change in one of them leaves
the others as they were. A run ends with healing: faults stop, stragglers land, what is unsaved is flushed; then memory
and database must agree, and the history must have an explanation (check.py).

What outlives a crash (the store, the disk) is made in `__init__`, what does not (keyspace, engine, dispatch) in `boot`.
With a journal the process crashes by cancelling all that runs and booting again, on the same store and on what the disk
has kept: everything after a kill, what was synced and more or less of the rest after a power loss. What a client had
sent and was not told has an unknown outcome; what it was told has not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, cast

from persistence.engine import Engine
from persistence.errors import JournalError
from persistence.journal_options import JournalOptions
from persistence.journal_recovery import open_journal
from persistence.parked import Parked
from persistence.prefixes import RuleTable
from persistence.quarantine import QUARANTINE_SLACK_S
from persistence.restart import take_up
from persistence.rows import ColumnShape, RelationShape
from persistence.stores.memory import MemoryStore
from protocol.decoder import PENDING, ReplyDecoder, ReplyError
from protocol.encoder import encode_into
from server.acl import Acl
from server.commands.context import Server
from server.control import CachePort
from server.dispatch import Dispatch
from server.keyspace.keyspace import Keyspace
from server.session import Session
from tests.simulation.check import DONE, REFUSED, UNKNOWN, History, Operation, Value, Violation, Words
from tests.simulation.faults import FakeClock, FaultyStore, now
from tests.simulation.loop import Deadlock, SimulatedLoop
from tests.simulation.scenarios import COLUMN, HASH, Scenario, draw
from tests.support.fake_disk import KEEP, LOSE, TEAR, FakeDisk
from tests.support.journals import DIRECTORY, LoopRunner
from tests.support.waiting import finished

_ITEMS: Final = RelationShape(
    "items",
    (ColumnShape("id", "INTEGER", False, False, False), ColumnShape("body", "TEXT", True, False, False)),
    (("id",),),
    False,
)
_USERS: Final = RelationShape(
    "users",
    (
        ColumnShape("id", "INTEGER", False, False, False),
        ColumnShape("a", "TEXT", True, False, False),
        ColumnShape("n", "INTEGER", True, False, False),
    ),
    (("id",),),
    False,
)
# Errors after which it is certain that nothing happened.
_REFUSALS: Final = ("STOREDOWN", "STOREREJECTED", "BUSY", "LOADTIMEOUT")
_OPERATIONS: Final = 12


class FakeServer:
    """The part of the Server protocol that the commands of a simulation use."""

    def __init__(self, keyspace: Keyspace, cache: CachePort, random: Random, clock: FakeClock) -> None:
        self.keyspace = keyspace
        self.cache = cache
        self.random = random
        self.acl = Acl("", "", None, random.randbytes)
        self._clock = clock

    def wall_offset_ms(self) -> int:
        return self._clock.wall_offset_ms()

    def password_is_set(self) -> bool:
        return False


class World:
    """A seed's world. `run` raises Violation, Deadlock or Undecided; `trace` tells what happened when it is kept."""

    def __init__(self, scenario: Scenario, seed: int, keep_trace: bool = False) -> None:
        self.scenario = scenario
        self.seed = seed
        self.trace: list[tuple[float, str]] | None = [] if keep_trace else None
        self.setup = self._stream("setup")
        self.loop = SimulatedLoop(self._stream("loop"), self.setup.random() < 0.5)
        self.clock = FakeClock(self._stream("clock"))
        self.tables = MemoryStore("main")
        self.tables.define(_ITEMS)
        self.tables.define(_USERS)
        self.store = FaultyStore(self.tables, self._stream("store"), self.tell)
        self.rule = scenario.rule(self.setup)
        self.keys = [scenario.key(number + 1) for number in range(self.setup.choice((1, 2, 2, 3)))]
        if scenario.joint and len(self.keys) == 1:
            self.keys.append(scenario.key(2))
        self.initial: dict[bytes, Value] = {}
        self.history = History(self.rule.write == "write-behind")
        self.chaotic = True
        self.disk = FakeDisk()
        self.faults = self._stream("disk")
        self.runner: LoopRunner | None = None
        # Processes that have died; and whether this one serves.
        self.deaths = 0
        self.serves = asyncio.Event()
        self.died: asyncio.Future[None] | None = None
        # What a crash does not end.
        self.survivors: set[asyncio.Task[Any] | None] = set()
        # Commands that run, their clients present or not.
        self.running: set[asyncio.Task[object]] = set()
        # Commands that waited without a task of their own.
        self.parked = 0
        self._numbers = iter(range(1, 1 << 30))
        self._sessions = iter(range(1, 1 << 30))
        self.boot()

    def _stream(self, name: str) -> Random:
        return Random(f"{self.seed}/{name}")

    def boot(self) -> None:
        """Everything that a crash takes away."""
        self.keyspace = Keyspace(1, 1)
        self.memory = self.keyspace.database(0)
        self.engine = Engine(
            RuleTable([self.rule]), {"main": self.store}, self.memory, self.clock, self._stream("engine")
        )
        self.dispatch = Dispatch(self.keyspace, self.engine, self.clock)
        cache = CachePort(self.engine, self.keyspace, self.clock)
        self.server = cast(Server, FakeServer(self.keyspace, cache, self._stream("server"), self.clock))

    def tell(self, text: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace.append((self.loop.time(), text))

    # -- a run --------------------------------------------------------------------------------------------------------

    def run(self) -> History:
        """Live through the seed, then judge it."""
        asyncio.set_event_loop(None)
        with _quiet():
            try:
                self.loop.run_until_complete(self._live())
            except Deadlock as stuck:
                held = sorted(self.engine.locks.held)
                raise Violation(f"somebody waits for ever: {stuck}; locked: {held}") from stuck
            finally:
                for task in asyncio.all_tasks(self.loop):
                    # Judged already; what is left of a failed run must not complain while it is collected.
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                self.loop.close()
        if self.loop.complaints:
            raise Violation("; ".join(self.loop.complaints))
        if self.dispatch.internal_errors:
            raise Violation(f"{self.dispatch.internal_errors} internal errors, see the log")
        if not self.scenario.outsiders:
            self.history.check(self.initial)
        return self.history

    async def _live(self) -> None:
        self._fill()
        self._choose_faults()
        # Half of the nodes find their database; the others must prepare their mappings when they are first needed.
        if self.setup.random() < 0.5:
            now(self._open())
        loop = self.loop
        self.survivors.add(asyncio.current_task())
        await self._serve()
        clients = [loop.create_task(Client(self, number).live()) for number in range(self.setup.randint(3, 6))]
        chaos = loop.create_task(Chaos(self).live())
        self.survivors.update((*clients, chaos))
        await asyncio.gather(*clients)
        self.chaotic = False
        await chaos
        await self._heal()

    # -- lives and deaths ---------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        # The process has started: what the journal remembers is taken up before a client is served.
        self.died = self.loop.create_future()
        if self.scenario.journal:
            runner = self.runner = LoopRunner(self._job_s)
            options = JournalOptions(DIRECTORY, self.scenario.journal, 4096, 1 << 20)
            try:
                journal, recovery = open_journal(self.disk, options, runner, self.clock, "sim")
            except JournalError as error:
                raise Violation(f"the journal cannot be opened after a crash: {error}") from error
            self.engine.use_journal(journal)
            self.dispatch.journal = journal
            self.tell(str(take_up(self.engine, journal, recovery)))
            for queue in self.engine.queues.values():
                await queue.wait_decided(0.3)
        self.serves.set()

    def _job_s(self) -> float:
        # How long a write with its sync takes.
        return self.faults.choice((0.0, 0.001, 0.01))

    async def crash(self) -> None:
        """The process dies, and starts again."""
        journal = self.dispatch.journal
        assert journal is not None and self.runner is not None and self.died is not None
        power_loss = journal.always and self.faults.random() < 0.6
        while not journal.always and journal.durable_seq < journal.next_seq - 1:
            # (Without `always` a reader may see what the tick has not written yet. That is no promise.)
            await journal.wait_durable(journal.next_seq - 1)
        how = self.faults.choice((LOSE, KEEP, TEAR))
        self.disk = self.disk.after_power_loss(how, self.faults) if power_loss else self.disk.after_kill()
        self.tell(f"crash: {'power loss, ' + how if power_loss else 'killed'}")
        self.deaths += 1
        self.history.die()
        self.serves.clear()
        self.runner.ended = True
        self.died.set_result(None)
        doomed = [task for task in asyncio.all_tasks() if task not in self.survivors]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self.running.clear()
        self.boot()
        if self.setup.random() < 0.5:
            await self._open_as_it_is()
        await self._serve()

    async def _open_as_it_is(self) -> None:
        # With the faults of the day.
        problems = await self.engine.open()
        assert not problems, problems

    async def _told(self, session: Session, life: int) -> bool:
        # Replies that tell of what is not durable wait, as in Connection. False: the process has died over it.
        seq, session.hold_seq = session.hold_seq, 0
        if not seq:
            return life == self.deaths
        journal = self.dispatch.journal
        assert journal is not None and self.died is not None
        await asyncio.wait((journal.wait_durable(seq), self.died), return_when=asyncio.FIRST_COMPLETED)
        return life == self.deaths

    async def _open(self) -> None:
        store, self.store.inner = self.store, self.tables
        travel, store._travel = store._travel, _at_once  # type: ignore[method-assign]
        fates, store.load_fates = store.load_fates, {}
        try:
            problems = await self.engine.open()
        finally:
            store._travel = travel  # type: ignore[method-assign]
            store.load_fates = fates
        assert not problems, problems

    def _fill(self) -> None:
        now(self.tables.create_generic())
        for key in self.keys:
            if self.setup.random() < 0.5:
                self.write_row(key, b"500")
            self.initial[key] = self.read_row(key)

    def _choose_faults(self) -> None:
        random = self.setup
        store = self.store
        store.slow_share = random.choice((0.0, 0.1, 0.3))
        store.slow_s = random.choice((0.05, 0.5))
        badness = random.choice((0.0, 0.05, 0.1, 0.3))
        shares = [random.random() for _ in store.write_fates]
        for name, share in zip(store.write_fates, shares, strict=True):
            store.write_fates[name] = badness * share / sum(shares)
        for name in store.load_fates:
            store.load_fates[name] = badness / 6

    # -- the database, seen from beside -------------------------------------------------------------------------------

    def row_key(self, key: bytes) -> tuple[object, ...]:
        """The row that a key names."""
        captures = self.rule.template.captures(key)
        return captures if captures else (key.decode(),)

    def read_row(self, key: bytes) -> Value:
        """What the database holds, as the model's value."""
        row_key = self.row_key(key)
        if self.scenario.kind == HASH:
            row = self.tables.tables["users"].rows.get(row_key)
            return None if row is None else (_bytes(row["a"]), _bytes(row["n"]))
        if self.scenario.kind == COLUMN:
            row = self.tables.tables["items"].rows.get(row_key)
            return None if row is None else _bytes(row["body"])
        row = self.tables.tables["forebay_kv"].rows.get(row_key)
        return None if row is None else _bytes(row["value"])

    def write_row(self, key: bytes, text: bytes | None) -> None:
        """Somebody else's write; None deletes the row."""
        row_key = self.row_key(key)
        if self.scenario.kind == HASH:
            table = self.tables.tables["users"]
            row: dict[str, object] = {"id": row_key[0], "a": "by hand", "n": int(text or b"0")}
        elif self.scenario.kind == COLUMN:
            table = self.tables.tables["items"]
            row = {"id": row_key[0], "body": (text or b"").decode()}
        else:
            table = self.tables.tables["forebay_kv"]
            row = {"key": row_key[0], "kind": "string", "value": text, "expires_at": None, "updated_at": None}
        table.swap(table.rows.get(row_key), None if text is None else row)
        self.tell(f"outside: {key.decode()} is {text!r} now")

    # -- clients ------------------------------------------------------------------------------------------------------

    def session(self) -> Session:
        """A new connection's session."""
        return Session(self.server, next(self._sessions), self.memory)

    def draw(self, random: Random, reads: float) -> list[Words]:
        """A client's next operation."""
        return draw(self.scenario, random, self.keys, next(self._numbers), reads)

    async def send(self, session: Session, operations: list[Operation], patience: Random | None) -> bool:
        """One pipeline, run as a Connection does; with `patience` the client may leave. False: it has left."""
        life = self.deaths
        wire: list[list[bytes]] = []
        owner: list[Operation | None] = []
        for operation in operations:
            lines = _wire(operation.commands)
            wire += lines
            owner += [None] * (len(lines) - 1) + [operation]
        position = 0
        while position < len(wire):
            self.keyspace.tick(self.clock.now_ms())
            out: list[bytes] = []
            first = position
            for operation_or_none in owner[position:]:
                if operation_or_none is not None:
                    self._call(operation_or_none)
                    break
            position = self.dispatch.run_batch(session, wire, position, out)
            if session.hold_seq:
                # All of them have run, and wait for the journal together.
                for operation_or_none in owner[first:position]:
                    self._call(operation_or_none)
            if not await self._told(session, life):
                if session.waiting is not None:
                    session.waiting.close()
                    session.waiting = None
                return False
            for index, reply in zip(range(first, position), _decoded(out), strict=False):
                self._answer(owner[index], reply)
                self._call(owner[index + 1] if index + 1 < position else None)
            if session.waiting is None:
                continue
            self._call(owner[position - 1])
            self.parked += isinstance(session.waiting, Parked)
            task = self.loop.create_task(finished(session))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            if patience is not None and patience.random() < 0.03:
                self.tell(f"c{operations[0].client} leaves")
                session.close()
                return False
            await asyncio.wait((task,))
            if task.cancelled() or not await self._told(session, life):
                return False
            reply = task.result()
            out = []
            encode_into(out, reply, session.protocol)
            self._answer(owner[position - 1], _decoded(out)[0])
        return True

    def _call(self, operation: Operation | None) -> None:
        # Pipelined commands are called one after the other: each after the reply of the one before it.
        if operation is not None and not operation.called:
            operation.called = self.history.stamp()
            operation.called_s = self.loop.time()
            self.history.operations.append(operation)

    def _answer(self, operation: Operation | None, reply: object) -> None:
        if operation is None:
            return
        self._call(operation)
        operation.answered = self.history.stamp()
        operation.answered_s = self.loop.time()
        if isinstance(reply, ReplyError):
            operation.error = str(reply)
            word = operation.error.split(" ")[0]
            if word in _REFUSALS:
                operation.status = REFUSED
            elif word != "STORETIMEOUT":
                raise Violation(f"unexpected error: {operation}")
            return
        operation.status = DONE
        replies = reply if len(operation.commands) > 1 else [reply]
        assert isinstance(replies, list)
        for each in replies:
            if isinstance(each, ReplyError):
                raise Violation(f"unexpected error {each} in {operation}")
        operation.replies = [_plain(words, each) for words, each in zip(operation.commands, replies, strict=True)]

    async def ask(self, client: int, commands: list[Words]) -> Operation:
        """One operation of a client that is not in a hurry."""
        operation = Operation(client, commands, 0, 0.0)
        await self.send(self.session(), [operation], None)
        return operation

    def is_journaled(self) -> bool:
        """May the process crash?"""
        return bool(self.scenario.journal)

    async def admin(self, *words: bytes) -> object:
        """A command that is no part of the history."""
        session = self.session()
        self.keyspace.tick(self.clock.now_ms())
        out: list[bytes] = []
        self.dispatch.run_batch(session, [list(words)], 0, out)
        if session.waiting is not None:
            encode_into(out, await finished(session), session.protocol)
        reply = _decoded(out)[0]
        self.tell(f"{b' '.join(words).decode()} ⇒ {reply!r}")
        return reply

    # -- healing ------------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        self.store.heal()
        self.tell("healed")
        if self.running:
            await asyncio.wait(self.running)
        await asyncio.sleep(self.store.statement_timeout_s + QUARANTINE_SLACK_S + 0.1)
        if self.store.late_commits:
            raise Violation("the simulation's own bug: a commit is later than the quarantine")
        # While the probe that closes the breaker is out, others are still turned away.
        while self.engine.breakers["main"].is_open:
            await self.admin(b"CACHE.LOAD", self.keys[0])
            await asyncio.sleep(self.store.statement_timeout_s)
        await self.admin(b"CACHE.FLUSH", b"TIMEOUT", b"60000")
        if self.engine.unsaved():
            raise Violation(f"{self.engine.unsaved()} unsaved keys after a flush of 60 s on a healthy store")
        self.history.heal()
        if self.scenario.outsiders:
            # Only time tells the cache of what others wrote.
            await asyncio.sleep(max(self.rule.ttl_s, self.rule.negative_ttl_s) * 1.2)
        self._compare_memory()
        await self._read_everything()
        await self._check_idle()

    def _compare_memory(self) -> None:
        # What memory holds, it holds as the database does.
        self.keyspace.tick(self.clock.now_ms())
        for key in self.keys:
            row = self.read_row(key)
            entry = self.memory.held(key)
            if entry is not None and entry.lease is not None and entry.lease.dirty_seq:
                raise Violation(f"{key!r} is marked unsaved, but nothing is queued")
            prefix = self.engine.prefixes[self.rule.name]
            if prefix.is_negative(key, self.memory.now_ms) and row is not None:
                raise Violation(f"{key!r} is remembered as absent, but the database has {row!r}")
            if entry is None or entry.lease is None:
                continue
            if min(entry.deadline_ms, entry.lease.until_ms) <= self.memory.now_ms:
                continue
            held = _plain((b"HGETALL",), entry.value)
            if held != row:
                raise Violation(f"memory holds {held!r} of {key!r}, the database {row!r}")

    async def _read_everything(self) -> None:
        whole = b"HGETALL" if self.scenario.kind == HASH else b"GET"
        for key in self.keys:
            seen = await self.ask(0, [(whole, key)])
            row = self.read_row(key)
            if seen.status != DONE or seen.replies != [row]:
                raise Violation(f"healed, and a client still reads {seen}, but the database has {row!r}")
            if row is not None and self.memory.held(key) is None:
                raise Violation(f"healed, and {key!r} is loaded but not cached")

    async def _check_idle(self) -> None:
        engine = self.engine
        await engine.close(1.0)
        if self.engine.journal is not None:
            if self.engine.journal.stats().unsaved_keys:
                raise Violation("the journal holds keys as unsaved that the database has")
            self.engine.journal.close_nowait()
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me and not task.done()]
        if left:
            raise Violation(f"tasks left over: {left}")
        if engine.locks.held:
            raise Violation(f"locks left over: {engine.locks.held}")
        for entry in self.memory.entries():
            if entry.lease is not None and entry.lease.refreshing:
                raise Violation(f"{entry.key!r} is marked as being refreshed, but nobody loads it")
        if engine.loader.loading() or any(engine.loader.is_writing(key) for key in self.keys):
            raise Violation("the loader thinks that it is loading or that somebody is writing")


class Client:
    """Operations one after the other, some of them in pipelines."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number + 1
        self.random = world._stream(f"client {number}")
        self.reads = self.random.choice((0.2, 0.5, 0.8))
        self.pause_s = self.random.choice((0.002, 0.02, 0.1))

    async def live(self) -> None:
        random = self.random
        world = self.world
        life = world.deaths
        session = world.session()
        left = _OPERATIONS
        while left > 0:
            await asyncio.sleep(random.expovariate(1 / self.pause_s))
            count = min(left, random.choice((1, 1, 1, 1, 2, 4)))
            left -= count
            batch = [Operation(self.number, world.draw(random, self.reads), 0, 0.0) for _ in range(count)]
            await world.serves.wait()
            if life != world.deaths:
                # Its connection went with the process.
                life = world.deaths
                session = world.session()
            if not await world.send(session, batch, random):
                session = world.session()


class Chaos:
    """What happens by itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world._stream("chaos")
        self.pause_s = self.random.choice((0.005, 0.05, 0.5))

    async def live(self) -> None:
        random = self.random
        world = self.world
        while world.chaotic:
            await asyncio.sleep(random.expovariate(1 / self.pause_s))
            if world.is_journaled() and random.random() < 0.2:
                await self._carry_forward()
            key = random.choice(world.keys)
            point = random.random()
            if point < 0.5:
                self._evict(key)
            elif point < 0.53:
                await world.admin(b"CACHE.BUMP", world.rule.name.encode())
            elif point < 0.65:
                await world.admin(b"CACHE.INVALIDATE", key)
            elif point < 0.75:
                await world.admin(b"CACHE.LOAD", key)
            elif point < 0.8:
                await world.admin(b"FLUSHALL")
            elif point < 0.85:
                await world.admin(b"CACHE.FLUSH", b"TIMEOUT", b"100")
            elif point < 0.9:
                world.clock.set_wall(random.choice((-3_600_000, -700, 700, 3_600_000)))
            elif point < 0.93:
                await self._outage()
            elif world.is_journaled():
                await world.crash()
            elif world.scenario.outsiders:
                world.write_row(key, random.choice((None, b"%d" % random.randrange(1000))))

    def _evict(self, key: bytes) -> None:
        entry = self.world.memory.held(key)
        if entry is not None and not (entry.lease is not None and entry.lease.dirty_seq):
            if self.world.engine.unsaved_seq(key):
                raise Violation(f"{key!r} may be evicted, but has an unsaved change")
            self.world.memory.drop(key)
            self.world.tell(f"evicted {key.decode()}")

    async def _carry_forward(self) -> None:
        # As if everything lay in segments that are to go.
        journal = self.world.dispatch.journal
        assert journal is not None
        for queue in self.world.engine.queues.values():
            carried = await queue.carry_forward(journal.next_seq)
            self.world.tell(f"{carried} unsaved changes are recorded once more")

    async def _outage(self) -> None:
        store = self.world.store
        store.is_down = True
        self.world.tell("outage begins")
        await asyncio.sleep(self.random.random() * 0.3)
        store.is_down = False
        self.world.tell("outage ends")


def _wire(commands: list[Words]) -> list[list[bytes]]:
    if len(commands) == 1:
        return [list(commands[0])]
    if all(words[0] == b"GET" for words in commands) and commands[0][1] < commands[1][1]:
        return [[b"MGET", *[words[1] for words in commands]]]
    return [[b"MULTI"], *[list(words) for words in commands], [b"EXEC"]]


def _decoded(out: list[bytes]) -> list[object]:
    decoder = ReplyDecoder()
    decoder.feed(b"".join(out))
    replies: list[object] = []
    while (reply := decoder.get()) is not PENDING:
        replies.append(reply)
    return replies


def _plain(words: Words, reply: object) -> object:
    # HGETALL as the model has it: the two fields that are no part of the key.
    if words[0] == b"HGETALL":
        if isinstance(reply, list):
            reply = dict(zip(reply[::2], reply[1::2], strict=True))
        if isinstance(reply, dict):
            return (reply.get(b"a"), reply.get(b"n")) if reply else None
    return reply


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


async def _at_once() -> None:
    pass


@contextmanager
def _quiet() -> Iterator[None]:
    # A sick store is what we are here for; nobody wants to read of it five thousand times.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


__all__ = ["UNKNOWN", "Chaos", "Client", "World"]
