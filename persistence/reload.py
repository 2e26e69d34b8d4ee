"""Reload: other rules come into force while clients are served.

A rule that is the same as before keeps its counters and its cached values. What was cached under a rule that changes is
void; its unsaved writes are saved first, because they were promised under the old rule. (A journal knows them by the
rule's name, and would not know what to do with them after a restart.) Nothing of it may land later, either, because the
rule in its place need not wait for that: neither what CACHE.DISCARD gave up while it flew, nor what a transaction
queues when its synchronous part is committed. (A synchronous write of unknown outcome is waited for by the queue.)
"""

from __future__ import annotations

from persistence.engine import Engine
from persistence.errors import StoreError
from persistence.managed import ManagedPrefix
from persistence.prefixes import WRITE_BEHIND, RuleTable
from persistence.write_behind import WriteBehind


async def reload(engine: Engine, rules: RuleTable, timeout_s: float) -> list[str]:
    """Put other rules in force; the problems for which nothing was changed, as sentences."""
    prefixes, problems = await _prepared(engine, rules)
    leaving = [prefix for name, prefix in engine.prefixes.items() if prefixes.get(name) is not prefix]
    if not problems:
        problems = await _saved(engine, leaving, timeout_s)
    if problems:
        return problems
    changed = bool(leaving) or len(prefixes) != len(engine.prefixes)
    for prefix in leaving:
        prefix.retired = True
        engine.bump(prefix)
        if prefix.rule.write == WRITE_BEHIND:
            engine.queue_of(prefix).close_backlog(prefix)
    engine.adopt(rules, prefixes)
    for rule in rules.rules:
        # Equal, but perhaps with other budgets.
        prefixes[rule.name].rule = rule
    if changed:
        _sweep(engine)
    return []


async def _prepared(engine: Engine, rules: RuleTable) -> tuple[dict[str, ManagedPrefix], list[str]]:
    # The prefixes of these rules, those that stay among them, and what is wrong with the others.
    prefixes: dict[str, ManagedPrefix] = {}
    problems: list[str] = []
    for rule in rules.rules:
        old = engine.prefixes.get(rule.name)
        if old is not None and old.rule == rule:
            prefixes[rule.name] = old
            continue
        if rule.store and rule.store not in engine.stores:
            problems.append(f"prefix {rule.name!r}: the new store {rule.store!r} needs a restart")
            continue
        fresh = prefixes[rule.name] = engine.managed(rule)
        try:
            if fresh.store is not None:
                await fresh.check()
        except StoreError as error:
            problems.append(str(error))
    return prefixes, problems


async def _saved(engine: Engine, leaving: list[ManagedPrefix], timeout_s: float) -> list[str]:
    # Saves what is unsaved of these; what could not be.
    for prefix in leaving:
        queue = engine.queues.get(prefix.rule.store)
        if queue is not None:
            if prefix.committing:
                await queue.wait_until(lambda p=prefix: not p.committing, timeout_s)  # type: ignore[misc]
            await queue.flush(prefix, timeout_s)
            await queue.wait_until(lambda p=prefix, q=queue: q.is_at_rest(p), timeout_s)  # type: ignore[misc]
    # (All of them at one moment.)
    return [
        f"prefix {prefix.rule.name!r} has unsaved changes that cannot be saved now"
        for prefix in leaving
        if prefix.rule.store in engine.queues and not _is_saved(engine.queue_of(prefix), prefix)
    ]


def _is_saved(queue: WriteBehind, prefix: ManagedPrefix) -> bool:
    return queue.is_at_rest(prefix) and not queue.count(prefix)


def _sweep(engine: Engine) -> None:
    # After other rules came into force: a copy of a row whose rule is gone would never be renewed, and a plain key
    # under a new rule would hide its row. O(keys), once per reload that changes rules.
    for entry in list(engine.memory.entries()):
        rule = engine.rules.match(entry.key)
        prefix = engine.prefixes[rule.name] if rule is not None else None
        lease = entry.lease
        if lease is None:
            if prefix is not None and prefix.store is not None:
                engine.memory.drop(entry.key)
        elif lease.prefix is not prefix:
            engine.memory.drop(entry.key)
