"""The counters as Prometheus metrics: read from their owners when somebody scrapes, kept nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from persistence.invalidation import FOLLOWER_FIELDS
from persistence.stores.base import STORE_FIELDS
from server.commands.context import CHANNEL, PATTERN, SHARD
from server.commands.spec import called
from server.control import GAUGES
from server.info import BUILD, own_version, resident_bytes
from server.parts import Parts

# Of the journal's fields: what only grows.
_JOURNAL_COUNTERS: Final = ("journal_frames", "journal_syncs")
# Of FollowerStats: what is so now, not what has been counted.
_FOLLOWER_GAUGES: Final = ("live", "prefixes", "later")


class Metrics:
    """Collects what /metrics shows."""

    __slots__ = ("_parts", "_started_s")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Unix seconds.
        self._started_s = time.time()

    def collect(self) -> Iterable[Metric]:
        """Every metric family, with its samples."""
        yield from self._process()
        yield from self._clients()
        yield from self._memory()
        yield from self._commands()
        yield from self._listeners()
        yield from self._scripts()
        yield from self._prefixes()
        yield from self._followers()
        yield from self._stores()
        yield from self._journal()

    def _process(self) -> Iterable[Metric]:
        build = GaugeMetricFamily("forebay_build_info", "What runs; always 1.", labels=["version", "build"])
        build.add_metric([own_version(), BUILD], 1)
        yield build
        # Under the names that every exporter has. Not the open files: to count them takes as long as there are clients.
        resident = resident_bytes()
        yield GaugeMetricFamily("process_resident_memory_bytes", "The process's resident set.", value=resident)
        yield CounterMetricFamily("process_cpu_seconds", "Processor time used.", value=time.process_time())
        yield GaugeMetricFamily("process_start_time_seconds", "Unix time of the start.", value=self._started_s)

    def _clients(self) -> Iterable[Metric]:
        peers = self._parts.peers
        yield GaugeMetricFamily("forebay_connected_clients", "Open connections.", value=len(peers.by_id))
        yield CounterMetricFamily("forebay_connections", "Connections accepted.", value=peers.total)
        yield CounterMetricFamily("forebay_connections_rejected", "Connections refused.", value=peers.rejected)
        waiting = self._parts.dispatch.blocking.count
        yield GaugeMetricFamily("forebay_blocked_clients", "Clients that wait for a key.", value=waiting)
        totals = self._parts.throughput.totals()
        yield CounterMetricFamily("forebay_net_input_bytes", "Bytes received of clients.", value=totals.bytes_in)
        yield CounterMetricFamily("forebay_net_output_bytes", "Bytes sent to clients.", value=totals.bytes_out)

    def _memory(self) -> Iterable[Metric]:
        keyspace = self._parts.keyspace
        databases = keyspace.opened
        yield GaugeMetricFamily("forebay_keys", "Keys in memory.", value=sum(map(len, databases)))
        yield GaugeMetricFamily("forebay_memory_used_bytes", "Estimated bytes held.", value=keyspace.used())
        yield GaugeMetricFamily("forebay_memory_max_bytes", "Limit; 0 for none.", value=keyspace.maxmemory)
        hits = sum(database.hits for database in databases)
        misses = sum(database.misses for database in databases)
        yield CounterMetricFamily("forebay_keyspace_hits", "Reads that found their key.", value=hits)
        yield CounterMetricFamily("forebay_keyspace_misses", "Reads that did not.", value=misses)
        expired = sum(database.expired for database in databases)
        yield CounterMetricFamily("forebay_expired_keys", "Keys whose time ran out.", value=expired)
        evicted = sum(database.evicted for database in databases)
        yield CounterMetricFamily("forebay_evicted_keys", "Keys evicted for room.", value=evicted)
        unsaved = self._parts.engine.unsaved()
        yield GaugeMetricFamily("forebay_unsaved_writes", "Keys that no store has yet.", value=unsaved)

    def _commands(self) -> Iterable[Metric]:
        calls = CounterMetricFamily("forebay_commands", "Commands run.", labels=["command"])
        for spec in called():
            calls.add_metric([spec.name], spec.calls)
        yield calls
        replies = CounterMetricFamily("forebay_error_replies", "Error replies, by their first word.", labels=["error"])
        for code, count in self._parts.dispatch.error_counts.items():
            replies.add_metric([code], count)
        yield replies
        bugs = self._parts.dispatch.internal_errors
        yield CounterMetricFamily("forebay_internal_errors", "Bugs met while running commands.", value=bugs)

    def _listeners(self) -> Iterable[Metric]:
        pubsub = self._parts.audience.pubsub
        names = GaugeMetricFamily("forebay_pubsub_names", "Names that somebody is subscribed to.", labels=["kind"])
        for kind, label in ((CHANNEL, "channel"), (PATTERN, "pattern"), (SHARD, "shard_channel")):
            names.add_metric([label], pubsub.count(kind))
        yield names
        yield CounterMetricFamily("forebay_pubsub_published", "Messages of clients.", value=pubsub.published)
        yield CounterMetricFamily("forebay_pubsub_delivered", "Messages handed to subscribers.", value=pubsub.delivered)
        tracking = self._parts.audience.tracking
        clients = len(tracking.clients)
        yield GaugeMetricFamily("forebay_tracking_clients", "Clients with CLIENT TRACKING.", value=clients)
        yield GaugeMetricFamily("forebay_tracking_keys", "Keys remembered for them.", value=len(tracking.table))
        told = tracking.invalidations
        yield CounterMetricFamily("forebay_tracking_invalidations", "Messages that told them to forget.", value=told)

    def _scripts(self) -> Iterable[Metric]:
        scripts = self._parts.scripting.scripts
        if scripts is None:
            return
        yield CounterMetricFamily("forebay_script_runs", "Calls of scripts and functions.", value=scripts.runs)
        yield GaugeMetricFamily("forebay_scripts_cached", "Scripts that EVALSHA knows.", value=len(scripts.scripts))
        libraries = len(scripts.libraries.by_name)
        yield GaugeMetricFamily("forebay_function_libraries", "Libraries of functions.", value=libraries)
        used = scripts.machine.memory_used
        yield GaugeMetricFamily("forebay_script_memory_bytes", "What scripts and libraries hold.", value=used)

    def _journal(self) -> Iterable[Metric]:
        # INFO persistence journal_…, what is a number there; refusing as 0 or 1.
        for name, value in self._parts.journaling.info():
            if name == "journal_refusing":
                value = int(value != "no")
            if isinstance(value, int):
                kind = CounterMetricFamily if name in _JOURNAL_COUNTERS else GaugeMetricFamily
                yield kind(f"forebay_{name}", f"INFO persistence {name}.", value=value)

    def _followers(self) -> Iterable[Metric]:
        followers = self._parts.cache.followers()
        for name in FOLLOWER_FIELDS if followers else ():
            kind = GaugeMetricFamily if name in _FOLLOWER_GAUGES else CounterMetricFamily
            family = kind(f"forebay_follower_{name}", f"INFO invalidation {name}, by store.", labels=["store"])
            for store, stats in followers.items():
                family.add_metric([store], int(getattr(stats, name)))
            yield family

    def _stores(self) -> Iterable[Metric]:
        for name in STORE_FIELDS:
            family = CounterMetricFamily(f"forebay_store_{name}", f"INFO stores {name}, by store.", labels=["store"])
            for store, stats in self._parts.cache.stores().items():
                family.add_metric([store], getattr(stats, name))
            yield family

    def _prefixes(self) -> Iterable[Metric]:
        by_prefix = self._parts.cache.info(None)
        names = next(iter(by_prefix.values()), {})
        for name in names:
            if name == "policy":
                continue
            kind = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
            family = kind(f"forebay_prefix_{name}", f"CACHE.INFO {name}, by prefix rule.", labels=["prefix"])
            for prefix, counters in by_prefix.items():
                family.add_metric([prefix], int(counters[name]))
            yield family
