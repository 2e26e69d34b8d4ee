"""Gates: what may stop a command before it runs. Each looks at one thing and returns the error, or None to let it pass.

A session in its normal state skips them: dispatch checks arity itself and tests the session's state with one
comparison. The order matters: an unknown password must not learn whether its command had the right number of
arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.replies import Error
from server import errors
from server.commands.spec import NO_AUTH, NO_MULTI, CommandSpec
from server.session import Session

Gate = Callable[[Session, CommandSpec, list[bytes]], Error | None]


def authentication(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """Before AUTH only what AUTH needs, and nothing of what was sent is echoed."""
    if session.authenticated or spec.flags & NO_AUTH:
        return None
    return errors.NO_AUTH


def arity(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """The number of words must fit."""
    return None if spec.fits(len(argv)) else errors.wrong_arity(spec.name)


def transaction(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """Some commands make no sense between MULTI and EXEC."""
    if session.queue is not None and spec.flags & NO_MULTI:
        return Error(f"ERR Command not allowed inside a transaction: '{spec.name}'")
    return None


GATES: Final[tuple[Gate, ...]] = (authentication, arity, transaction)
