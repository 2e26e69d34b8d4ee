"""Does the simulation see anything? Taking out one protection must be caught within 1,000 seeds (testing.md, 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from persistence.change import DELETE, Change
from persistence.engine import Engine
from persistence.flights import Convoy, Flight, ParkedLoad, Watch
from persistence.journal_records import Item
from persistence.loader import Loader
from persistence.locks import KeyLocks
from persistence.managed import ManagedPrefix, Target
from persistence.pending import Saved
from persistence.plan import Commit
from persistence.queue_log import QueueLog
from persistence.seams import View
from persistence.short_load import ShortLoad
from persistence.short_through import ShortThrough, ThroughWrite
from persistence.short_write import ShortWrite
from persistence.stores.base import Stamp, Store
from persistence.undurable import Undurable
from persistence.write_behind import WriteBehind
from protocol.quick import COMPILED
from server.dispatch import Dispatch
from server.session import Session
from tests.simulation.faults import FaultyStore
from tests.simulation.run import run_seed, seeds

MOST_SEEDS = 1000

pytestmark = pytest.mark.skipif(COMPILED, reason="methods of compiled classes cannot be replaced")

Patch = pytest.MonkeyPatch


def install_although_fenced(patch: Patch) -> None:
    """A load installs what it read, whatever was written since."""

    def all_of_it(self: Loader, prefix: ManagedPrefix, batch: list[Flight]) -> list[Flight]:
        return batch

    patch.setattr(Loader, "_to_be_kept", all_of_it)


def trust_unknown_outcomes(patch: Patch) -> None:
    """After an unknown outcome the key is loaded, cached and written as any other."""
    distrust = Engine.distrust

    def forget(self: Engine, target: Target) -> None:
        distrust(self, target)
        self.quarantine.drop(target.key)

    patch.setattr(Engine, "distrust", forget)


def flush_again_at_once(patch: Patch) -> None:
    """A flush whose outcome is unknown is sent again at once, and newer values after it."""

    def straggling(store: Store) -> int:
        return 0

    patch.setattr("persistence.flusher.straggling_ms", straggling)


def clear_the_mark_of_newer_writes(patch: Patch) -> None:
    """A flush that lands takes the key for saved, even when it was written meanwhile."""
    saved = Engine._saved

    def careless(self: Engine, landed: Saved) -> None:
        target = landed.pending.target
        queue = self.queue_of(target.prefix)
        newer = queue.backlogs[target.prefix].pendings.pop(target.key)
        if newer is not None:
            queue.backlogs[target.prefix].bytes -= newer.bytes
        entry = self.memory.held(target.key)
        if entry is not None and entry.lease is not None:
            entry.lease.dirty_seq = landed.pending.seq
        saved(self, landed)

    patch.setattr(Engine, "_saved", careless)


def forget_tombstones(patch: Patch) -> None:
    """A DEL that is not saved yet is not looked up before a load."""
    unsaved = WriteBehind.unsaved

    def without_deletes(self: WriteBehind, target: Target) -> Change | None:
        change = unsaved(self, target)
        return None if change is not None and change.verb == DELETE else change

    patch.setattr(WriteBehind, "unsaved", without_deletes)


def join_fenced_flights(patch: Patch) -> None:
    """Readers share a load that was under way when the key was written."""

    def fence(self: Loader, key: bytes) -> None:
        flight = self._flights.get(key)
        if flight is not None:
            flight.fenced = True
        for watch in self._watches.get(key, ()):
            watch.broken = True

    patch.setattr(Loader, "fence", fence)


def write_without_locks(patch: Patch) -> None:
    """Writes of one key run beside each other."""

    async def acquire(self: KeyLocks, keys: Iterable[bytes]) -> list[bytes]:
        return []

    patch.setattr(KeyLocks, "acquire", acquire)


def read_together_without_looking_back(patch: Patch) -> None:
    """Keys that are read together are answered as they came in, whatever was written meanwhile."""
    watch = Loader.watch

    def blind(self: Loader, keys: Iterable[bytes]) -> Watch:
        return watch(self, ())

    patch.setattr(Loader, "watch", blind)


def park_without_looking_back(patch: Patch) -> None:
    """A parked read of several keys is answered with what came in, whatever was written meanwhile."""
    stage = ShortLoad.stage

    def blind(self: ShortLoad, parked: ParkedLoad, keys: list[bytes], view: View) -> bool:
        parked.fences = self._engine.loader.fences
        for flight in parked.flights:
            flight.fenced = False
        return stage(self, parked, keys, view)

    patch.setattr(ShortLoad, "stage", blind)


def land_convoys_although_fenced(patch: Patch) -> None:
    """Keys that one command misses together are kept as they came, whatever was written meanwhile."""

    def ignore(self: Convoy, key: bytes) -> None:
        pass

    patch.setattr(Convoy, "fence", ignore)


def set_through_without_a_lock(patch: Patch) -> None:
    """A plain SET on the short road of write-through does not keep others from writing its key."""
    send, give_back = ShortThrough.send, KeyLocks.give_back

    def unlocked(self: ShortThrough, write: ThroughWrite) -> None:
        send(self, write)
        del self._engine.locks.held[write.key]

    def lenient(self: KeyLocks, key: bytes) -> None:
        if key in self.held:
            give_back(self, key)

    patch.setattr(ShortThrough, "send", unlocked)
    patch.setattr(KeyLocks, "give_back", lenient)


def skip_the_claim(patch: Patch) -> None:
    """A flush without an answer, or from before a crash, is taken for lost without asking the database."""

    async def claim(self: FaultyStore, stamp: Stamp) -> bool:
        return False

    patch.setattr(FaultyStore, "claim", claim)


def believe_every_claim(patch: Patch) -> None:
    """A flush without an answer, or from before a crash, is taken for committed without asking the database."""

    async def claim(self: FaultyStore, stamp: Stamp) -> bool:
        return True

    patch.setattr(FaultyStore, "claim", claim)


def end_the_batch_before_it_lands(patch: Patch) -> None:
    """The journal hears that a flush was committed when it is sent."""
    begin = QueueLog.begin

    async def hasty(self: QueueLog, items: Sequence[Item]) -> Stamp | None:
        stamp = await begin(self, items)
        if self._journal is not None and stamp is not None:
            self._journal.end_batch(stamp.batch, True)
        return stamp

    def end(self: QueueLog, stamp: Stamp | None, applied: bool) -> None:
        pass

    patch.setattr(QueueLog, "begin", hasty)
    patch.setattr(QueueLog, "end", end)


def answer_before_it_is_durable(patch: Patch) -> None:
    """Replies do not wait for the journal."""

    def hold(self: Dispatch, session: Session, commit: Commit) -> None:
        pass

    patch.setattr(Dispatch, "_hold_own", hold)
    patch.setattr(Undurable, "newest", lambda self, keys: 0)
    patch.setattr(ShortWrite, "set", lambda self, key, value, written: 0)


def merge_recovered_members_as_values(patch: Patch) -> None:
    """What is recovered of a key's members is taken for the whole value."""
    patch.setattr("persistence.write_behind.lacks_the_rest", lambda change: False)


# Which scenarios can show it at all: a tombstone is nothing to write-through.
THROUGH = ("write-through", "write-through-generic", "write-through-hash", "write-around", "refresh-ahead")
BEHIND = ("write-behind", "write-behind-generic", "write-behind-hash")
JOURNALED = ("journaled", "journaled-column", "journaled-multi", "journaled-everysec")
COLD = ("write-around-mget",)
JOINT = ("write-through-multi", "write-behind-multi", "write-around-multi")

MUTATIONS: list[tuple[Callable[[Patch], None], tuple[str, ...]]] = [
    (install_although_fenced, THROUGH + BEHIND),
    (trust_unknown_outcomes, THROUGH),
    (flush_again_at_once, BEHIND),
    (clear_the_mark_of_newer_writes, BEHIND),
    (forget_tombstones, BEHIND),
    (join_fenced_flights, THROUGH + BEHIND),
    (write_without_locks, THROUGH),
    (read_together_without_looking_back, JOINT),
    (park_without_looking_back, JOINT),
    (land_convoys_although_fenced, COLD),
    (set_through_without_a_lock, ("write-through", "write-through-multi", "write-through-generic")),
    (skip_the_claim, JOURNALED),
    (believe_every_claim, JOURNALED),
    (end_the_batch_before_it_lands, JOURNALED),
    (answer_before_it_is_durable, JOURNALED),
    (merge_recovered_members_as_values, JOURNALED),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mutation", "scenarios"), MUTATIONS, ids=[mutation.__name__ for mutation, _ in MUTATIONS])
def test_a_missing_protection_is_noticed(
    mutation: Callable[[Patch], None],
    scenarios: tuple[str, ...],
    monkeypatch: Patch,
    record_property: Callable[[str, object], None],
) -> None:
    mutation(monkeypatch)
    for number, (scenario, seed) in enumerate(seeds(scenarios, 0, MOST_SEEDS), 1):
        failure = run_seed(scenario, seed)
        if failure is not None:
            record_property("seeds", number)
            print(f"{mutation.__name__}: noticed by seed {number}, {scenario} {seed}: {failure.reason}")
            return
    pytest.fail(f"{mutation.__doc__} Nobody noticed in {MOST_SEEDS} seeds.")
