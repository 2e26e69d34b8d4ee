"""Afterwards: what remains to be said or put right when the handlers of a command or a transaction have run."""

from __future__ import annotations

from typing import Final

from persistence.plan import Commit
from protocol.replies import NO_REPLY, Error
from server.commands.context import Blocked
from server.commands.spec import DELETES, READ, CommandSpec
from server.encoded import Encoded
from server.keyspace.overlay import Overlay
from server.session import REPLY_MUTED, Call, Session

# First words of error replies that are counted apart. We have some thirty, but scripts may answer with any: what comes
# after so many is counted together.
MOST_ERROR_CODES: Final = 128
OTHER_ERRORS: Final = "OTHER"


def read_by(session: Session, spec: CommandSpec, argv: list[bytes]) -> list[bytes]:
    """The keys of which a tracking client wants to hear from now on."""
    if session.tracking is None or not session.tracking.wants_reads():
        return []
    calls = session.queue if spec.name == "exec" and session.queue else [(spec, argv)]
    return [key for called, words in calls if called.flags & READ for key in called.keys_of(words)]


def tell_misses(session: Session, spec: CommandSpec, argv: list[bytes]) -> None:
    """Note the keyspace event of each key that a read has missed."""
    for key in spec.keys_of(argv) if spec.flags & READ else ():
        if session.db.peek(key) is None:
            session.db.note(key, b"keymiss")


def outcome(calls: list[Call], replies: list[object], errors: dict[str, int]) -> list[object]:
    """The reply to EXEC, which waits for nobody. Its commands are counted now, as it is sure that none is run again,
    and their errors by code."""
    for (spec, _), reply in zip(calls, replies, strict=False):
        spec.calls += 1
        if isinstance(reply, Error):
            spec.failed += 1
            count_code(errors, reply.code)
    return [reply.nothing if isinstance(reply, Blocked) else reply for reply in replies]


def count_code(errors: dict[str, int], code: str) -> None:
    """One more error reply with this first word."""
    if code not in errors and len(errors) >= MOST_ERROR_CODES:
        code = OTHER_ERRORS
    errors[code] = errors.get(code, 0) + 1


def count_failed(calls: list[Call], is_transaction: bool) -> None:
    """None of these was carried out. A single command has been counted as called."""
    for spec, _ in calls:
        spec.calls += is_transaction
        spec.failed += 1


def correct_deletes(calls: list[Call], replies: list[object], view: Overlay, commit: Commit) -> None:
    """Put replies right: DEL counted keys that nobody had looked up, and the store knows which of them had a row."""
    wrong = {target.key for target in commit.sync_targets if target.key in view.deleted_blindly} - commit.deleted
    view.unsay(wrong)
    for index, (spec, argv) in enumerate(calls):
        if spec.flags & DELETES and wrong:
            own = wrong.intersection(spec.keys_of(argv))
            reply = replies[index]
            if own and isinstance(reply, int):
                replies[index] = reply - len(own)
                wrong -= own


def unless_muted(session: Session, reply: object) -> object:
    """What the client hears of a reply. CLIENT REPLY: `skip` swallows that of the *next* command, `off` all of them;
    the switch itself is heard."""
    before = session.state
    session.refresh_state()
    if not before & REPLY_MUTED:
        return NO_REPLY if session.asking_reply != "on" else reply
    if type(reply) is Encoded:
        # Confirmations of SUBSCRIBE are messages, which are always heard.
        if session.asking_reply == "skip":
            session.asking_reply = "on"
            session.refresh_state()
        return reply
    if session.asking_reply == "skip":
        session.asking_reply = "on"
        session.refresh_state()
        return NO_REPLY
    return NO_REPLY if session.asking_reply == "off" else reply


async def at_once(reply: object) -> object:
    """A reply as something to be waited for: it ends a batch, which goes on with the table of commands that is right
    then."""
    return reply
