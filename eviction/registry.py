"""Policies by name, and Redis's names for policy and scope together."""

from collections.abc import Callable
from typing import Final, cast

from eviction.auto import Auto
from eviction.fifo import Fifo
from eviction.lfu import Lfu
from eviction.lru import Lru
from eviction.policy import NoEviction, Policy, RandomSource
from eviction.random_pick import RandomPick
from eviction.s3_fifo import S3Fifo
from eviction.sieve import Sieve
from eviction.ttl import Ttl
from eviction.w_tinylfu import WTinyLfu

# A new policy: write its file, add it here, run tests/eviction/test_contract.py, which takes the names from here.
POLICIES: Final[dict[str, type[Policy]]] = {
    "noeviction": NoEviction,
    "lru": Lru,
    "lfu": Lfu,
    "fifo": Fifo,
    "ttl": Ttl,
    "random": RandomPick,
    "sieve": Sieve,
    "s3-fifo": S3Fifo,
    "w-tinylfu": WTinyLfu,
    "auto": Auto,
}
DEFAULT_POLICY: Final = "s3-fifo"
SCOPES: Final = ("all", "volatile")

_SCOPE_BY_PREFIX: Final = {"allkeys": "all", "volatile": "volatile"}
_PREFIX_BY_SCOPE: Final = {"all": "allkeys", "volatile": "volatile"}


class UnknownPolicy(ValueError):
    """A policy name that does not exist; the message lists those that do."""


def create(name: str, random: RandomSource | None = None) -> Policy:
    """A new, empty policy; only `random` needs a source of randomness."""
    if name == "random":
        if random is None:
            raise ValueError("the policy 'random' needs a random source")
        return RandomPick(random)
    found = POLICIES.get(name)
    if found is None:
        raise UnknownPolicy(f"unknown eviction policy {name!r}; known: {', '.join(POLICIES)}")
    return cast(Callable[[], Policy], found)()


def from_redis(name: str) -> tuple[str, str]:
    """`maxmemory-policy` → (policy, scope): 'volatile-ttl' → ('ttl', 'volatile'). Our own bare names mean all keys."""
    lowered = name.lower()
    if lowered in POLICIES:
        return lowered, "all"
    prefix, _, policy = lowered.partition("-")
    scope = _SCOPE_BY_PREFIX.get(prefix)
    if scope is None or policy not in POLICIES or policy == "noeviction":
        raise UnknownPolicy(f"unknown maxmemory-policy {name!r}; known: {', '.join(redis_names())}")
    return policy, scope


def to_redis(policy: str, scope: str) -> str:
    """(policy, scope) → the name for `CONFIG GET maxmemory-policy`; the inverse of from_redis."""
    if policy not in POLICIES or scope not in SCOPES:
        raise UnknownPolicy(f"unknown eviction policy {policy!r} with scope {scope!r}")
    if policy == "noeviction":
        return policy
    return f"{_PREFIX_BY_SCOPE[scope]}-{policy}"


def redis_names() -> list[str]:
    """Every name that `CONFIG SET maxmemory-policy` takes, in a stable order."""
    names = ["noeviction"]
    for scope in SCOPES:
        names += [to_redis(policy, scope) for policy in POLICIES if policy != "noeviction"]
    return names
