"""Batch: the ops of one transaction as the statements that write them.

In this order, because children refer to parents:

    1. what leaves child tables        at most one delete per mapping
    2. rows, in order of appearance    one statement per (mapping, verb, columns)
    3. what enters child tables        at most one upsert per mapping

So a parent is there before its children come, and has lost them before it is deleted; and a member that moves from one
key to another (SMOVE) leaves before it comes, whatever other unique keys the table has.
"""

from __future__ import annotations

from collections.abc import Sequence

from persistence.child_rows import Family, families_of
from persistence.row_values import RowOp, group_ops


class Batch:
    """The ops of one transaction, divided into statements. No key of a mapping occurs twice."""

    __slots__ = ("families", "groups", "ops")

    def __init__(self, ops: Sequence[RowOp]) -> None:
        self.ops = ops
        # Positions of ops that share a statement.
        self.groups = group_ops(ops)
        # Ops on child tables, by mapping.
        self.families: list[Family] = families_of(ops)

    @property
    def statements(self) -> int:
        """How many statements that is (custom ones, a statement per row, count as one)."""
        children = 0
        for family in self.families:
            children += family.deletes + bool(family.added)
        return len(self.groups) + children
