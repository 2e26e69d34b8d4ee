"""ScriptRun: one run of a script, as the client that the commands in it see.

It borrows the database, the user and the server of the client that has called the script, and has a protocol and a
selected database of its own (redis.setresp, SELECT), which end with it. `call` is the way of a command inside a script:

    look up → may scripts do that? → may this script? → are its keys declared? → handler

The last question is about keys under a prefix rule. What a script may need of the store has been loaded and locked
before it began, and that was its declared keys. Touching another one cannot be answered rightly, so it ends the script:
nothing of it is kept, and it cannot be caught. A script that has declared a managed key may wait for the store between
its run and the moment when its changes appear, so whatever it writes must be declared, too: a plain key that nobody has
locked might be written by somebody else meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Final, Protocol

from protocol.replies import Error
from server import errors
from server.commands.context import Blocked, Context, Wait
from server.commands.spec import COMMANDS, KEYSPACE, NOSCRIPT, READ, CommandSpec, spellings
from server.errors import CommandError
from server.gates import script_permission
from server.keyspace.overlay import Overlay
from server.roads import may_write
from server.session import Session

log = logging.getLogger("forebay.scripts")

_UNKNOWN: Final = Error("ERR Unknown Redis command called from script")
_WRONG_ARITY: Final = Error("ERR Wrong number of args calling Redis command from script")
_NOT_IN_SCRIPTS: Final = Error("ERR This Redis command is not allowed from script")
_READ_ONLY: Final = Error("ERR Write commands are not allowed from read-only scripts.")
_KEYSPACE: Final = Error("ERR scripts cannot empty or swap databases while there are prefix rules")
_TABLE: Final[dict[bytes, CommandSpec]] = {}


class Rules(Protocol):
    """The prefix rules and what is under way with their keys, as scripts need them."""

    @property
    def active(self) -> bool:
        """Are there any?"""

    def manages(self, key: bytes) -> bool:
        """Does a rule apply to this key of database 0?"""

    def is_locked(self, key: bytes) -> bool:
        """Does somebody who has this key locked wait for a store?"""


def find_command(argv: list[bytes]) -> CommandSpec | None:
    """The row of the command table that these words call."""
    if not _TABLE:
        # The table is complete when every command file has been imported, which is before the first script.
        _TABLE.update(spellings(COMMANDS))
    spec = _TABLE.get(argv[0]) or _TABLE.get(argv[0].lower())
    if spec is not None and spec.subcommands and len(argv) > 1:
        return spec.subcommands.get(argv[1].lower())
    return spec


class ScriptRun(Context):
    """The caller of the commands of one script."""

    __slots__ = (
        "_caller",
        "_declared",
        "_is_staged",
        "_is_strict",
        "_rules",
        "checks_memory",
        "ending",
        "is_full",
        "is_read_only",
    )  # fmt: skip

    def __init__(self, caller: Context, keys: list[bytes], rules: Rules, is_read_only: bool) -> None:
        super().__init__(caller.server, caller.client_id, caller.db)
        self.authenticated = True
        self.user = caller.user
        self.name = caller.name
        # Sequences of what is written behind are the caller's to wait for.
        self.written = caller.written
        self.is_read_only = is_read_only
        # Is a command that may need memory refused when there is none? And there was none when the script began.
        self.checks_memory = True
        self.is_full = False
        # The error that the whole script ends with, whatever it makes of it.
        self.ending: Error | None = None
        self._caller = caller
        self._rules = rules if rules.active else None
        self._is_staged = isinstance(caller.db, Overlay)
        # Keys of database 0 that were planned for, and whether nothing else may be written.
        self._declared: Container[bytes] = set(keys) if caller.db.index == 0 else ()
        self._is_strict = self._is_staged or (
            self._rules is not None and caller.db.index == 0 and any(map(rules.manages, keys))
        )

    def select(self, index: int) -> None:
        """SELECT: for the rest of the script. The caller knows which database has a staged view."""
        before = self._caller.db
        try:
            self._caller.select(index)
            self.db = self._caller.db
        finally:
            self._caller.db = before

    def in_transaction(self) -> bool:
        """A script is atomic as it is."""
        return False

    def is_command(self, argv: list[bytes]) -> bool:
        """Is that a command with the right number of words?"""
        spec = find_command(argv)
        return spec is not None and spec.fits(len(argv))

    def call(self, argv: list[bytes]) -> object:
        """Run a command of the script: its reply, errors included."""
        if self.ending is not None:
            return self.ending
        spec = find_command(argv)
        if spec is None:
            return _UNKNOWN
        refusal = self._refusal(spec, argv)
        if refusal is not None:
            spec.rejected += 1
            return refusal
        spec.calls += 1
        try:
            reply = spec.handler(self, argv)
        except CommandError as error:
            reply = error.reply
        except Exception as bug:
            spec.failed += 1
            keys = spec.keys_of(argv) if spec.has_keys else []
            log.error("internal error in %s, key %r, called by a script", spec.name, keys[:1], exc_info=bug)
            return errors.INTERNAL
        if type(reply) is Error:
            spec.failed += 1
            return reply
        if isinstance(reply, Blocked):
            return reply.nothing
        if isinstance(reply, Wait):
            reply = reply.instead(spec.name, "a script")
        if spec.flags & READ and self._caller.tracking is not None and self._caller.tracking.wants_reads():
            self.server.tracking.remember(self._caller, spec.keys_of(argv))
        return reply

    def _refusal(self, spec: CommandSpec, argv: list[bytes]) -> Error | None:
        if not spec.fits(len(argv)):
            return _WRONG_ARITY
        if spec.flags & NOSCRIPT:
            return _NOT_IN_SCRIPTS
        if isinstance(self._caller, Session):
            refusal = script_permission(self._caller, spec, argv)
            if refusal is not None:
                return refusal
        if self.is_read_only and may_write(spec):
            return _READ_ONLY
        if spec.grows and self.is_full and self.checks_memory:
            return errors.OOM
        return self._trespass(spec, argv)

    def _trespass(self, spec: CommandSpec, argv: list[bytes]) -> Error | None:
        rules = self._rules
        if rules is None and not self._is_staged:
            return None
        if spec.flags & KEYSPACE:
            return _KEYSPACE
        if self.db.index:
            # What is written there could not be taken back when the store refuses.
            return errors.STAGED_ELSEWHERE if self._is_staged and spec.writes else None
        if rules is None or not spec.has_keys:
            return None
        for key in spec.keys_of(argv):
            if key in self._declared:
                continue
            if rules.manages(key):
                self.ending = Error(b"ERR script tried to access undeclared managed key '%b'" % key[:128])
                return self.ending
            if spec.writes and (self._is_strict or rules.is_locked(key)):
                return Error(
                    b"ERR script tried to write undeclared key '%b': a script on keys under a prefix rule declares "
                    b"every key that it writes" % key[:128]
                )
        return None
