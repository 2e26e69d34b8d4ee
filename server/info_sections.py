"""InfoSections: INFO's sections about the parts of a server, asked when somebody wants to know, kept nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

from persistence.invalidation import FOLLOWER_FIELDS
from persistence.stores.base import STORE_FIELDS
from server.commands.spec import called
from server.info import Section, cpu_fields, human_bytes, peak_resident_bytes, resident_bytes
from server.keyspace.weights import UNSAVED_OVERHEAD
from server.parts import Parts


class InfoSections:
    """Every section but those that the node tells of itself (`server`, `clients`); and CONFIG RESETSTAT."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def by_name(self) -> dict[str, Section]:
        """The sections, in Redis's order."""
        return {
            "memory": self._memory,
            "persistence": self._persistence,
            "stats": self._stats,
            "replication": lambda: [("role", "master"), ("connected_slaves", 0)],
            "cpu": cpu_fields,
            "commandstats": self._commands,
            "errorstats": self._errors,
            "latencystats": self._parts.diagnostics.info_latency,
            "keyspace": self._keyspace,
            "prefixes": self._prefixes,
            "invalidation": self._invalidation,
            "stores": self._stores,
        }

    def reset(self) -> None:
        """Begin counting anew."""
        parts = self._parts
        for database in parts.keyspace.opened:
            database.hits = database.misses = database.expired = database.evicted = 0
        for spec in called():
            spec.calls = spec.failed = spec.rejected = 0
        parts.dispatch.error_counts.clear()
        parts.diagnostics.forget_times()
        parts.throughput.forget()
        parts.peers.total = parts.peers.rejected = 0

    def _memory(self) -> Iterable[tuple[str, object]]:
        parts = self._parts
        # As Redis's buffers of replication: told, and no reason to evict, for it has a limit of its own (`max_dirty`).
        unsaved = UNSAVED_OVERHEAD * parts.engine.unsaved()
        used = parts.keyspace.used() + unsaved
        resident = resident_bytes()
        peak = peak_resident_bytes()
        yield "used_memory", used
        yield "used_memory_human", human_bytes(used)
        yield "used_memory_rss", resident
        yield "used_memory_rss_human", human_bytes(resident)
        yield "used_memory_peak", peak
        yield "used_memory_peak_human", human_bytes(peak)
        yield from parts.limits.info()
        yield "mem_reserve", parts.keyspace.reserve
        yield "mem_not_counted_for_evict", unsaved
        yield from parts.scripting.info_memory()
        yield "mem_fragmentation_ratio", f"{resident / used if used else 0:.2f}"

    def _persistence(self) -> Iterable[tuple[str, object]]:
        parts = self._parts
        yield "loading", 0
        yield "rdb_changes_since_last_save", sum(database.mutations for database in parts.keyspace.opened)
        yield "aof_enabled", 0
        yield from parts.journaling.info()
        yield "unsaved_writes", parts.engine.unsaved()

    def _stats(self) -> Iterable[tuple[str, object]]:
        parts = self._parts
        databases = parts.keyspace.opened
        totals = parts.throughput.totals()
        yield "total_connections_received", parts.peers.total
        yield "total_commands_processed", totals.commands
        yield from parts.throughput.info()
        yield "rejected_connections", parts.peers.rejected
        yield "total_net_input_bytes", totals.bytes_in
        yield "total_net_output_bytes", totals.bytes_out
        yield "expired_keys", sum(database.expired for database in databases)
        yield "evicted_keys", sum(database.evicted for database in databases)
        yield "keyspace_hits", sum(database.hits for database in databases)
        yield "keyspace_misses", sum(database.misses for database in databases)
        yield "total_error_replies", sum(spec.failed + spec.rejected for spec in called())
        yield from parts.audience.info_stats()
        yield from parts.collector.info()
        yield "internal_errors", parts.dispatch.internal_errors

    def _commands(self) -> Iterable[tuple[str, object]]:
        for spec in called():
            total_us, mean_us = self._parts.diagnostics.time_spent(spec.name)
            yield (
                f"cmdstat_{spec.name}",
                # Those who read it go by the order of the fields.
                f"calls={spec.calls},usec={total_us},usec_per_call={mean_us:.2f},"
                f"rejected_calls={spec.rejected},failed_calls={spec.failed}",
            )

    def _errors(self) -> Iterable[tuple[str, object]]:
        for code, count in sorted(self._parts.dispatch.error_counts.items()):
            yield f"errorstat_{code}", f"count={count}"

    def _keyspace(self) -> Iterable[tuple[str, object]]:
        for database in sorted(self._parts.keyspace.opened, key=lambda each: each.index):
            if len(database):
                yield f"db{database.index}", f"keys={len(database)},expires={database.volatile()},avg_ttl=0"

    def _prefixes(self) -> Iterable[tuple[str, object]]:
        for name, counters in self._parts.cache.info(None).items():
            yield f"prefix_{name}", ",".join(f"{counter}={value}" for counter, value in counters.items())

    def _invalidation(self) -> Iterable[tuple[str, object]]:
        for store, stats in self._parts.cache.followers().items():
            values = [f"{name}={int(getattr(stats, name))}" for name in FOLLOWER_FIELDS]
            yield f"store_{store}", ",".join(values)

    def _stores(self) -> Iterable[tuple[str, object]]:
        for name, stats in self._parts.cache.stores().items():
            yield f"store_{name}", ",".join(f"{field}={getattr(stats, field)}" for field in STORE_FIELDS)
