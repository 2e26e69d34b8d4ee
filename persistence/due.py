"""Due: what of the changes that wait the next flush takes.

The oldest first, whichever rule they are under, so that a row comes before those that refer to it: where the oldest
that is due may not go, because of its rule enough goes already, nothing younger does. And no more of all lines together
than of one, a piece at a time, because every step keeps everybody waiting.

(What is passed over all the same: a key that flies, whose newer change is due when it has landed; a rule whose mapping
the store refuses; one whose `write_delay` is longer. Whoever refers to these is refused, and waits: outcomes.py.)
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import chain
from typing import Final

from persistence.change import NEVER
from persistence.line import Line
from persistence.pending import Pending
from persistence.unsaved import Unsaved

# Statements of one prefix in one transaction: what a transaction costs by itself (announcing it, COMMIT) is divided by
# that many times `write_batch` rows.
STATEMENTS: Final = 2
# Changes in a piece, about a millisecond.
PIECE: Final = 250
# Estimated bytes that go with one flush, if it is more than one change: what a database takes in within a fraction of
# its statement timeout. (PostgreSQL takes no message of a gigabyte at all.)
FLUSH_BYTES: Final = 16 << 20


def take_due(unsaved: Unsaved, now_ms: int, until_seq: int, taken: int, limit: int) -> tuple[list[Pending], int]:
    """A piece of what is due, or has been changed at most at that sequence, moved to those that fly; and when something
    of the rest will be due if nothing more is now, or NEVER. So many go with the same flush already, and so many may.
    O(piece + what flies)."""
    lines: list[Line] = []
    ages: list[list[int]] = []
    next_ms = NEVER
    room = 0
    # Nothing younger goes: it is the oldest of what is due and may not go, or the last before that.
    youngest = NEVER
    for prefix, backlog in unsaved.backlogs.items():
        line = backlog.pendings
        if not line:
            continue
        if prefix.stopped:
            not_before_ms = next(iter(line.values())).not_before_ms
            if not_before_ms > now_ms:
                next_ms = min(next_ms, not_before_ms)
                continue
        delay_ms = int(prefix.rule.write_delay_s * 1000)
        most = min(PIECE, min(limit, prefix.rule.write_batch * STATEMENTS) - taken)
        # Waiting longer would save statements, and soon cost clients their time.
        is_full = backlog.bytes * 2 > prefix.rule.max_dirty
        until_ms = NEVER if is_full else now_ms - delay_ms
        due, later_ms = line.due(max(most, 1), until_ms, until_seq, unsaved.flying)
        if later_ms != NEVER:
            next_ms = min(next_ms, later_ms + delay_ms)
        if not due:
            continue
        if len(due) >= most:
            # (There may be more of it.)
            youngest = min(youngest, due[-1])
        if most > 0:
            lines.append(line)
            ages.append(due)
            room = max(room, most)
    if len(lines) > 1 or (lines and youngest < ages[0][-1]):
        return _take_oldest(unsaved, lines, ages, room, youngest), next_ms
    return lines[0].take(ages[0], unsaved.flying) if lines else [], next_ms


def _take_oldest(unsaved: Unsaved, lines: list[Line], ages: list[list[int]], most: int, youngest: int) -> list[Pending]:
    # Of several lines.
    together = sorted(chain.from_iterable(ages))
    newest = min(youngest, together[min(most, len(together)) - 1])
    batch: list[Pending] = []
    for line, due in zip(lines, ages, strict=True):
        batch += line.take(due[: bisect_right(due, newest)], unsaved.flying)
    batch.sort(key=_age)
    return batch


def put_back_surplus(unsaved: Unsaved, piece: list[Pending], room: int) -> int:
    """Of a piece that goes with a flush, put back to their line the youngest that do not fit into so many bytes, all
    but the first; how much room is left. O(piece)."""
    for number, pending in enumerate(piece):
        room -= pending.bytes
        if room < 0 and number:
            for surplus in piece[number:]:
                del unsaved.flying[surplus.target.key]
                unsaved.put_back(surplus)
            del piece[number:]
            return 0
    return room


def _age(pending: Pending) -> int:
    return pending.first_seq
