"""ShortLoad: the short road for most of what waits for a store, a read whose keys memory simply does not have.

It does what plan and prepare do for any command (engine.py), where there is nothing to plan: each key is either in
memory, and right, or it is not there at all and has to be loaded. So the command needs no task, no plan and no locks:
it is parked with its flights (loader.py) and runs when they have landed, all at one moment. Whatever is not so (a copy
that is old or void, unsaved changes, a quarantine, a transaction under way) takes the long road, and nothing has been
done then. Where all that is missing belongs to one prefix, and nobody loads any of it yet, it is looked at as a whole
and loaded as a convoy (flights.py).

When the flights have landed, memory is looked at first, as on the long road: it is at least as new as they are. A read
of several keys must see them as they were at one moment. Memory is one. If not all of them are there, because what was
loaded may not be cached, their flights are another, unless something was written since the command was parked; then it
is planned on the long road, which watches and locks.
"""

from __future__ import annotations

from typing import Final

from persistence.change import STRING
from persistence.engine import Engine, is_current
from persistence.errors import LoadTimeout
from persistence.flights import Convoy, Flight, ParkedLoad
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import Mapping
from persistence.prefixes import WRITE_BEHIND
from persistence.seams import View

# Fewer keys than that are not worth a convoy.
_SEVERAL: Final = 2


class ShortLoad:
    """Reads of absent keys, by an engine."""

    __slots__ = ("_engine", "_head", "_is_behind", "_loads", "_prefix", "_rules")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The prefix of the last key that memory did not have, by those rules: nearly always that of the next one, too.
        # None: there was none, or keys that begin with its head may belong to another.
        self._rules = engine.rules
        self._prefix: ManagedPrefix | None = None
        # Of its rule: what a key of it begins with, whether a miss is loaded, and whether it may be unsaved.
        self._head = b""
        self._loads = False
        self._is_behind = False

    def absent(self, keys: list[bytes]) -> list[Flight] | None:
        """What a read of these keys has to load, each key once; None for the long road. Raises Unmapped."""
        engine = self._engine
        if not engine.quarantine.is_empty():
            return None
        prefix = self._prefix
        mapping: Mapping | None = None
        head = b""
        if prefix is not None and engine.rules is self._rules:
            mapping = prefix.mapping
            head = prefix.rule.template.head
        joint = engine.loader.joint
        held = engine.memory.held
        now = engine.memory.now_ms
        flights: list[Flight] = []
        for key in keys if len(keys) == 1 else dict.fromkeys(keys):
            entry = held(key)
            if entry is not None:
                lease = entry.lease
                if entry.soft_ms <= now or (lease is not None and lease.generation != lease.prefix.generation):
                    return None
                continue
            flight: Flight | None = None
            if prefix is not None and mapping is not None and key.startswith(head):
                row_key = mapping.row_named_by(key)
                if row_key is not None:
                    flight = Flight(key, prefix, row_key)
            if flight is None:
                target = self._target(key)
                if target is None:
                    continue
                flight = Flight(key, target.prefix, target.row_key)
                prefix = self._prefix
                mapping = prefix.mapping if prefix is not None else None
                head = target.prefix.rule.template.head
            rule = flight.prefix.rule
            if rule.write == WRITE_BEHIND and engine.queue_of(flight.prefix).unsaved(flight) is not None:
                return None
            if not rule.loads:
                continue
            if flight.row_key == () or key in flight.prefix.negatives or key in joint:
                return None
            flights.append(flight)
        return flights

    def only(self, key: bytes) -> Flight | None:
        """`absent` for a read of one key that belongs to the prefix of the last one; None: not so simple."""
        prefix = self._prefix
        engine = self._engine
        if prefix is None or engine.rules is not self._rules or not self._loads:
            return None
        mapping = prefix.mapping
        if mapping is None or not key.startswith(self._head) or engine.memory.held(key) is not None:
            return None
        row_key = mapping.row_named_by(key)
        if row_key is None or key in prefix.negatives or key in engine.loader.joint or not engine.quarantine.is_empty():
            return None
        flight = Flight(key, prefix, row_key)
        if self._is_behind and engine.queue_of(prefix).unsaved(flight) is not None:
            return None
        return flight

    def together(self, keys: list[bytes]) -> Convoy | None:
        """All that a read of these keys has to load, as one; None: they have to be looked at one by one (`absent`)."""
        engine = self._engine
        prefix = self._prefix
        if prefix is None or engine.rules is not self._rules or not engine.quarantine.is_empty():
            return None
        mapping = prefix.mapping
        if mapping is None or mapping.kind < 0 or not self._loads:
            return None
        wanted = engine.memory.gaps(keys)
        if wanted is None or len(wanted) < _SEVERAL:
            return None
        row_keys = mapping.rows_named_by(wanted)
        if row_keys is None or not engine.loader.are_free(wanted):
            return None
        if prefix.negatives and not prefix.negatives.keys().isdisjoint(wanted):
            return None
        if self._is_behind and engine.queue_of(prefix).has_any(prefix, wanted):
            return None
        return Convoy(prefix, wanted, row_keys)

    def brought(self, parked: ParkedLoad, count: int) -> list[object] | None:
        """The strings of a read of so many keys, if convoys have brought them all; None: memory has to be asked.

        They were so at one moment, that in which the first of them landed: nothing was done to any key before its
        convoy did, or that would be flights by now.
        """
        convoys = parked.convoys
        if not convoys or parked.flights or parked.left:
            return None
        mapping = convoys[0].prefix.mapping
        if mapping is None or mapping.kind != STRING:
            return None
        values: list[object] = []
        for convoy in convoys:
            assert convoy.values is not None
            values += convoy.values
        return values if len(values) == count else None

    def _target(self, key: bytes) -> Target | None:
        engine = self._engine
        target = engine.target(key)
        self._rules = engine.rules
        self._prefix = None
        if target is not None and engine.rules.is_innermost(target.prefix.rule.template.head):
            self._prefix = target.prefix
            rule = target.prefix.rule
            self._head = rule.template.head
            self._loads = rule.loads
            self._is_behind = rule.write == WRITE_BEHIND
        return target

    def stage(self, parked: ParkedLoad, keys: list[bytes], view: View) -> bool:
        """Let the command that was parked see its keys, and nothing may run before it has. False: the long road.

        Raises the error of a load.
        """
        engine = self._engine
        loader = engine.loader
        now = engine.memory.now_ms
        flights = parked.all_flights()
        several = len(keys) > 1
        if len(keys) > len(flights) and not self._are_held(keys, flights, now):
            return False
        for flight in flights:
            entry = engine.memory.held(flight.key)
            if entry is not None:
                # (What has just been installed is seen without a call.)
                lease = entry.lease
                fresh = lease is not None and entry.soft_ms > now and lease.generation == flight.prefix.generation
                if not fresh and not is_current(entry, now):
                    return False
                continue
            if flight.error is not None or not flight.done:
                if engine.missing(flight):
                    if flight.error is not None:
                        raise flight.error
                    flight.prefix.counters.load_timeouts += 1
                    raise LoadTimeout("the load did not finish in time")
                view.stage_absent(flight.key)
                continue
            if flight.key in loader.joint or (several and (flight.fenced or loader.fences != parked.fences)):
                return False
            engine.stage_row(flight, flight.loaded(), view)
        return True

    def _are_held(self, keys: list[bytes], flights: list[Flight], now: int) -> bool:
        # What memory held when the command was parked may have gone meanwhile.
        loaded = {flight.key for flight in flights}
        for key in keys:
            if key not in loaded:
                entry = self._engine.memory.held(key)
                if entry is None:
                    # Nothing is behind a plain key: it is seen as absent. That of a row has gone from memory.
                    if self._engine.target(key) is not None:
                        return False
                elif not is_current(entry, now):
                    return False
        return True
