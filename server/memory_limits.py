"""MemoryLimits: maxmemory, policies and budgets, as configuration, CONFIG and INFO speak of them.

The keyspace keeps the terms in force; here they are put into words.
"""

from __future__ import annotations

from collections.abc import Iterable

from eviction.registry import from_redis, to_redis
from server.config import Config, PrefixMemoryConfig
from server.info import human_bytes
from server.keyspace.keyspace import Keyspace
from server.keyspace.placement import Share
from server.keyspace.terms import Terms
from server.settings import Setting, memory_size


class MemoryLimits:
    """The keyspace's terms in the words of operators."""

    __slots__ = ("_keyspace",)

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace

    def configure(self, config: Config) -> None:
        """Put a configuration's limits and budgets in force, also while clients are served."""
        memory = config.memory
        weighs_cost = memory.cost == "load-time"
        self._keyspace.limit(Terms(memory.maxmemory, memory.eviction, memory.scope == "volatile", weighs_cost))
        shares = []
        for rule in config.rules:
            own = config.budgets.get(rule.name)
            terms = _terms(own, weighs_cost) if own is not None else None
            shares.append(Share(rule.name, rule.template.head, terms))
        self._keyspace.partition(shares)

    def settings(self) -> list[Setting]:
        """Those of CONFIG GET and SET."""
        return [
            Setting("maxmemory", lambda: str(self._keyspace.maxmemory), memory_size, self._set_maxmemory),
            Setting("maxmemory-policy", self._policy, from_redis, self._set_policy),
        ]

    def _policy(self) -> str:
        terms = self._keyspace.terms
        return to_redis(terms.policy, "volatile" if terms.volatile_only else "all")

    def _set_maxmemory(self, value: object) -> None:
        assert isinstance(value, int)
        terms = self._keyspace.terms
        self._keyspace.limit(Terms(value, terms.policy, terms.volatile_only, terms.weighs_cost))

    def _set_policy(self, value: object) -> None:
        assert isinstance(value, tuple)
        policy, scope = value
        terms = self._keyspace.terms
        self._keyspace.limit(Terms(terms.maxmemory, policy, scope == "volatile", terms.weighs_cost))

    def info(self) -> Iterable[tuple[str, object]]:
        """Fields of INFO memory."""
        maxmemory = self._keyspace.maxmemory
        yield "maxmemory", maxmemory
        yield "maxmemory_human", human_bytes(maxmemory)
        yield "maxmemory_policy", self._policy()
        yield "maxmemory_policy_in_force", self._keyspace.shared.in_force


def _terms(own: PrefixMemoryConfig, weighs_cost: bool) -> Terms:
    # An empty policy is that of everything (Keyspace.partition).
    policy = "" if own.eviction == "shared" else own.eviction
    return Terms(own.maxmemory, policy, False, weighs_cost if own.cost == "shared" else own.cost == "load-time")
