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
from server.commands.context import Context
from server.commands.spec import NO_AUTH, NO_KEYS, NO_MULTI, READ, WRITE, CommandSpec
from server.errors import CommandError
from server.session import RESTRICTED, Call, Session

_FOR_SUBSCRIBERS: Final = frozenset(
    (
        "ping",
        "subscribe",
        "unsubscribe",
        "psubscribe",
        "punsubscribe",
        "ssubscribe",
        "sunsubscribe",
        "quit",
        "reset",
    )
)

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
    """Some commands make no sense between MULTI and EXEC, and subcommands that do not exist are not queued either."""
    if session.queue is None:
        return None
    if spec.flags & NO_MULTI:
        return Error(f"ERR Command not allowed inside a transaction: '{spec.name}'")
    return errors.unknown_subcommand(spec.name, argv[1]) if spec.subcommands and len(argv) > 1 else None


def permission(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """What the client's user may not do (server/acl.py). Its keys are looked at before any of them is loaded."""
    if not session.state & RESTRICTED:
        return None
    if spec.subcommands and len(argv) > 1:
        return errors.unknown_subcommand(spec.name, argv[1])
    try:
        return session.server.acl.refusal(session, argv, "multi" if session.queue is not None else "toplevel")
    except CommandError as error:
        # Its keys cannot be told: it would be refused anyway.
        return error.reply


def script_permission(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """The same for a command that a script of the client's runs; its number of words must have been found right."""
    if not session.server.acl.restricts(session.user):
        return None
    if spec.subcommands and len(argv) > 1:
        return errors.unknown_subcommand(spec.name, argv[1])
    try:
        refusal = session.server.acl.refusal(session, argv, "lua")
    except CommandError as error:
        return error.reply
    return None if refusal is None else Error(f"NOPERM ACL failure in script: {refusal.message.partition(' ')[2]}")


class _Refused:
    """Stands in for the handler of a queued command that is not allowed any more."""

    __slots__ = ("error",)

    def __init__(self, error: Error) -> None:
        self.error = error

    def run(self, ctx: Context, argv: list[bytes]) -> object:
        """The error, in the place of a reply."""
        return self.error


def still_permitted(session: Session, calls: list[Call]) -> list[Call]:
    """What MULTI has queued, each command that has been forbidden since replaced by its refusal: it touches no key."""
    found: list[Call] = []
    for spec, argv in calls:
        try:
            refusal = session.server.acl.late_refusal(session, argv)
        except CommandError as error:
            refusal = error.reply
        if refusal is None:
            found.append((spec, argv))
        else:
            handler = _Refused(refusal).run
            row = CommandSpec(spec.name, handler, -1, 0, NO_KEYS, None, None, spec.group, spec.since, "", "", "")
            found.append((row, argv))
    return found


def subscriber(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """A RESP2 client that is subscribed could not tell other replies from messages."""
    if session.subscriptions is None or session.protocol != 2 or spec.name in _FOR_SUBSCRIBERS:
        return None
    return Error(
        f"ERR Can't execute '{spec.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in "
        "this context"
    )


def monitor(session: Session, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    """A client that is sent every command could not tell its own replies from them; Redis takes it for a replica."""
    if session.monitoring and spec.flags & (READ | WRITE):
        return Error("ERR Replica can't interact with the keyspace")
    return None


GATES: Final[tuple[Gate, ...]] = (authentication, arity, transaction, permission, subscriber, monitor)
