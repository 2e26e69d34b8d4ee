"""Parts: what runs in a server, for those who ask how it is (INFO and /metrics)."""

from __future__ import annotations

from dataclasses import dataclass

from persistence.engine import Engine
from server.audience import Audience
from server.collector import Collector
from server.control import CachePort
from server.diagnostics import Diagnostics
from server.dispatch import Dispatch
from server.journaling import Journaling
from server.keyspace.keyspace import Keyspace
from server.memory_limits import MemoryLimits
from server.net.connection import Peers
from server.script_service import ScriptService
from server.throughput import Throughput


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts that count something."""

    keyspace: Keyspace
    engine: Engine
    cache: CachePort
    dispatch: Dispatch
    peers: Peers
    limits: MemoryLimits
    journaling: Journaling
    audience: Audience
    diagnostics: Diagnostics
    scripting: ScriptService
    collector: Collector
    throughput: Throughput
