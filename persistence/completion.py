"""Completion: recovered changes of members become whole values, where a value is written as a whole.

After a restart such a change knows the touched members alone (`Pending.is_partial`); the rest is in the database.
"""

from __future__ import annotations

from persistence.breaker import Breaker
from persistence.errors import StoreRejected
from persistence.managed import ManagedPrefix
from persistence.pending import Pending, complete
from persistence.stores.base import Store


async def complete_values(batch: list[Pending], store: Store, breaker: Breaker) -> None:
    """Load what these changes lack before they are written; most lack nothing. Raises StoreError."""
    partial: dict[ManagedPrefix, list[Pending]] = {}
    for pending in batch:
        prefix = pending.target.prefix
        if not pending.is_partial or pending.on_over is not None:
            continue
        try:
            mapping = prefix.mapping if prefix.mapping is not None else await breaker.ask(prefix.prepare())
        except StoreRejected:
            # Whoever writes it will meet it, too, and knows what to do.
            continue
        if not mapping.writes_members and (pending.target.row_key != () or prefix.resolve(pending.target)):
            partial.setdefault(prefix, []).append(pending)
    for prefix, pendings in partial.items():
        assert prefix.mapping is not None
        keys = [pending.target.row_key for pending in pendings]
        rows = await breaker.ask(store.load_many(prefix.mapping, keys))
        for pending in pendings:
            row = rows.get(pending.target.row_key)
            complete(pending, None if row is None else prefix.mapping.value_of(pending.target.row_key, row))
