"""Retry: a dead letter becomes an unsaved change again (CACHE.DLQ RETRY), or is forgotten (DROP).

The change is recorded before the letter is taken out of its file, so that a crash between the two leaves both, and
neither can be lost.
"""

from __future__ import annotations

from persistence.backlog import weight_of
from persistence.dead_letters import DeadLetter
from persistence.engine import Engine
from persistence.prefixes import WRITE_BEHIND
from persistence.write_behind import WriteBehind


def retry_letter(engine: Engine, id: int) -> bool:
    """Try a dead letter again; False when there is none, or its key has newer changes, saved or not.

    Raises JournalError when it cannot be recorded; then it stays.
    """
    for queue in engine.queues.values():
        letter = queue.dead.get(id)
        if letter is not None:
            return _retry(engine, queue, letter)
    return False


def _retry(engine: Engine, queue: WriteBehind, letter: DeadLetter) -> bool:
    key = letter.key
    target = engine.target(key)
    if target is None or target.prefix.rule.name != letter.prefix or target.prefix.rule.write != WRITE_BEHIND:
        # The rule that it was made under is not in force.
        return False
    if queue is not engine.queue_of(target.prefix) or queue.unsaved(target) is not None or letter.is_overtaken:
        return False
    change = letter.change
    # What the row has become meanwhile nobody knows.
    change.existed = None if change.members is None else True
    queue.resend(target, letter, weight_of(change, target.prefix.rule.has_children))
    queue.drop_letter(letter.id)
    queue.hurry()
    engine.loader.fence(key)
    target.prefix.forget_absent(key)
    # Whoever reads it now waits until it is saved, or dead again.
    engine.memory.drop(key)
    engine.memory.touch_watchers(key)
    return True


def drop_letter(engine: Engine, id: int) -> bool:
    """Forget a dead letter for good; was there one?"""
    return any(queue.drop_letter(id) for queue in engine.queues.values())
