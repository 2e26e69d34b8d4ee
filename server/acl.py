"""ACL: who may log in, and what each may do (the AccessControl protocol of commands/context.py).

    default    the user of every connection that has not logged in as somebody else; `[server] password` is its password
    others     from `[server] acl_file`, and ACL SETUSER

Most servers know the default user alone, and that one may do everything. Nobody pays for the others: a session whose
user is restricted has a bit in its state that takes its commands off the short road, to the gate `permission`
(server/gates.py), which asks here. Keys are looked at before anything is loaded for them.

A session knows its user by name. What ACL SETUSER says of that user is true of the next command; connections of a user
that is gone are closed, and so are those that listen to channels which their user may not hear any more.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from protocol.replies import OK, Error, Map, SetOf
from server import errors
from server.acl_rules import (
    ALLOWED,
    DENIED_CHANNEL,
    DENIED_COMMAND,
    DENIED_KEY,
    RuleError,
    User,
    has_spaces,
    joined_selectors,
    password_hash,
    without_password,
)
from server.commands.context import CHANNEL, PATTERN, SHARD, Context
from server.commands.key_access import channels_of, foreign_key_option, key_accesses, names_patterns
from server.commands.spec import COMMANDS, CommandSpec
from server.errors import CommandError, ConfigError

DEFAULT: Final = b"default"
# What refuses a client that has no user (any more) is compared with no password at all, in the same time.
_NOBODY: Final = b"0" * 64
# Of the file: users and their rules.
_MAX_FILE: Final = 16 << 20
# Entries of ACL LOG that say the same are one entry, if they are not further apart.
_SAME_WITHIN_MS: Final = 60_000
_REASONS: Final = {DENIED_COMMAND: b"command", DENIED_KEY: b"key", DENIED_CHANNEL: b"channel"}
_CHANGED: Final = (
    "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    "This command is no longer allowed for the following reason: "
)
_WHY_NOT_ANY_MORE: Final = {
    DENIED_COMMAND: "no permission to execute the command or subcommand",
    DENIED_KEY: "no permission to touch the specified keys",
    DENIED_CHANNEL: "no permission to access one of the channels used as arguments to the command",
}
_NO_FILE: Final = Error(
    "ERR This server is not configured to use an ACL file. Name one in the configuration (server.acl_file) and start "
    "it again."
)


class SmallFile(Protocol):
    """The file of users (server/data_file.py)."""

    async def read(self, most: int) -> bytes | None: ...

    async def write(self, content: bytes) -> None: ...


def text(name: bytes) -> str:
    """A name in an error."""
    return name.decode("utf-8", "surrogateescape")


class Record:
    """An entry of ACL LOG: what somebody was refused, and how often."""

    __slots__ = ("client", "count", "created_ms", "name", "number", "place", "reason", "updated_ms", "user")

    def __init__(
        self, number: int, reason: bytes, place: bytes, name: bytes, user: bytes, client: bytes, now_ms: int
    ) -> None:
        self.number = number
        self.count = 1
        # command, key, channel or auth.
        self.reason = reason
        # toplevel, multi or lua.
        self.place = place
        # Of the command, key or channel; AUTH or HELLO.
        self.name = name
        self.user = user
        # Its CLIENT LIST line, the last time.
        self.client = client
        # Unix milliseconds.
        self.created_ms = now_ms
        self.updated_ms = now_ms

    def says(self, reason: bytes, place: bytes, name: bytes, user: bytes) -> bool:
        """Is it about this?"""
        return self.reason == reason and self.place == place and self.name == name and self.user == user

    def fields(self, now_ms: int) -> list[tuple[object, object]]:
        """As ACL LOG shows it."""
        return [
            (b"count", self.count),
            (b"reason", self.reason),
            (b"context", self.place),
            (b"object", self.name),
            (b"username", self.user),
            (b"age-seconds", max(0, now_ms - self.created_ms) / 1000),
            (b"client-info", self.client),
            (b"entry-id", self.number),
            (b"timestamp-created", self.created_ms),
            (b"timestamp-last-updated", self.updated_ms),
        ]


class Acl:
    """All users, and what they were refused."""

    __slots__ = (
        "_next_record",
        "_password",
        "clients",
        "file",
        "log",
        "max_log",
        "path",
        "random_bytes",
        "users",
    )

    def __init__(self, password: str, path: str, file: SmallFile | None, random_bytes: Callable[[int], bytes]) -> None:
        # In alphabetical order when they are shown, as Redis keeps them.
        self.users: dict[bytes, User] = {}
        # The hash of `[server] password`; empty: none is set.
        self._password = b""
        self.path = path
        self.file = file
        self.random_bytes = random_bytes
        # Who is connected; set by whoever knows the connections.
        self.clients: Callable[[], Iterable[Context]] = tuple
        # Newest first.
        self.log: list[Record] = []
        self.max_log = 128
        self._next_record = 0
        self.users[DEFAULT] = _open_user()
        self.set_password(password)

    # -- users --------------------------------------------------------------------------------------------------------

    def names(self) -> list[bytes]:
        """All users, in alphabetical order."""
        return sorted(self.users)

    def lines(self) -> list[bytes]:
        """All users, each as the line of a file that makes it."""
        return [self.users[name].words() for name in self.names()]

    def describe(self, name: bytes) -> list[tuple[object, object]] | None:
        """A user's flags, passwords and rules, as ACL GETUSER tells them."""
        user = self.users.get(name)
        if user is None:
            return None
        root = [*user.selectors[0].described()]
        further = [Map(selector.described()) for selector in user.selectors[1:]]
        return [(b"flags", SetOf(user.flags())), (b"passwords", list(user.passwords)), *root, (b"selectors", further)]

    def set_password(self, password: str) -> None:
        """`[server] password`, CONFIG SET requirepass: the default user's one password; empty: it needs none."""
        self._password = password_hash(password.encode("utf-8", "surrogateescape")) if password else b""
        default = self.users[DEFAULT]
        default.passwords = [self._password] if password else []
        default.no_password = not password
        self._tell([DEFAULT], None)

    def needs_login(self) -> bool:
        """Must a new connection log in before it may do anything?"""
        default = self.users[DEFAULT]
        return not (default.is_on and default.no_password)

    def admits(self, name: bytes, password: bytes) -> bool:
        """May this user log in with this password? Users that do not exist take as long as others."""
        user = self.users.get(name)
        digest = password_hash(password)
        matches = False
        # To the end: how long it takes must not tell which of them it was.
        for known in user.passwords if user is not None and user.passwords else [_NOBODY]:
            matches |= hmac.compare_digest(digest, known)
        return user is not None and user.is_on and (matches or user.no_password)

    def set_user(self, ctx: Context, name: bytes, rules: list[bytes]) -> None:
        """Make or change a user by all of these rules, or by none: CommandError says which one is wrong, and why."""
        if has_spaces(name):
            raise CommandError(Error("ERR Usernames can't contain spaces or null characters"))
        known = self.users.get(name)
        user = known.copy() if known is not None else User(name)
        try:
            rules = joined_selectors(rules)
        except RuleError as error:
            raise CommandError(Error(f"ERR {error}")) from None
        for rule in rules:
            try:
                user.apply(rule)
            except RuleError as error:
                shown = text(without_password(rule))
                raise CommandError(Error(f"ERR Error in ACL SETUSER modifier '{shown}': {error}")) from None
        self.users[name] = user
        self._tell([name], ctx)

    def remove_users(self, ctx: Context, names: list[bytes]) -> int:
        """Forget these users and close their connections; how many there were."""
        if DEFAULT in names:
            raise CommandError(Error("ERR The 'default' user cannot be removed"))
        removed = [name for name in dict.fromkeys(names) if self.users.pop(name, None) is not None]
        self._tell(removed, ctx)
        return len(removed)

    def _tell(self, names: Iterable[bytes], running: Context | None) -> None:
        # What these users may do has changed. The client that changed it gets its reply before it is closed.
        changed = set(names)
        for client in list(self.clients()):
            if client.user not in changed:
                continue
            user = self.users.get(client.user)
            if user is None or not _may_listen(user, client):
                client.close_after_reply = True
                if client is not running:
                    client.server.clients.kill(client.client_id)
            client.refresh_state()

    # -- checks -------------------------------------------------------------------------------------------------------

    def restricts(self, name: bytes) -> bool:
        """Must the commands of this user be looked at?"""
        user = self.users.get(name)
        return user is None or not user.is_unrestricted()

    def refusal(self, ctx: Context, argv: list[bytes], place: str) -> Error | None:
        """The error with which a client is refused a command, or None. `place` (for ACL LOG): toplevel, multi, lua.

        The command must be known, and its number of words right.
        """
        spec = _called(argv)
        user = self.users.get(ctx.user)
        kind, name = _check(user, spec, argv)
        if kind == ALLOWED:
            return _foreign_keys(user, spec, argv)
        self._note(ctx, _REASONS[kind], place.encode(), name, ctx.user)
        return Error(f"NOPERM {_sentence(ctx.user, kind, name, False)}")

    def late_refusal(self, ctx: Context, argv: list[bytes]) -> Error | None:
        """The same for a command that was allowed when MULTI queued it."""
        spec = _called(argv)
        user = self.users.get(ctx.user)
        kind, name = _check(user, spec, argv)
        if kind == ALLOWED:
            return _foreign_keys(user, spec, argv)
        self._note(ctx, _REASONS[kind], b"multi", name, ctx.user)
        return Error(_CHANGED + _WHY_NOT_ANY_MORE[kind])

    def dry_run(self, name: bytes, argv: list[bytes]) -> str | None:
        """What a user would be told, or None when the command is allowed. CommandError: no such user or command."""
        user = self.users.get(name)
        if user is None:
            raise CommandError(Error(f"ERR User '{text(name)}' not found"))
        if argv[0].decode("utf-8", "replace").lower() not in COMMANDS:
            raise CommandError(Error(f"ERR Command '{text(argv[0])}' not found"))
        spec = _called(argv)
        if spec.subcommands and len(argv) > 1:
            raise CommandError(Error(f"ERR Command '{text(argv[0])}|{text(argv[1])}' not found"))
        if not spec.fits(len(argv)):
            raise CommandError(errors.wrong_arity(spec.name))
        kind, refused = _check(user, spec, argv)
        return None if kind == ALLOWED else _sentence(name, kind, refused, True)

    # -- the log ------------------------------------------------------------------------------------------------------

    def note_failed_login(self, ctx: Context, word: bytes, name: bytes) -> None:
        """Somebody could not log in, by AUTH or HELLO."""
        place = b"multi" if ctx.in_transaction() else b"toplevel"
        self._note(ctx, b"auth", place, word, name)

    def _note(self, ctx: Context, reason: bytes, place: bytes, name: bytes, user: bytes) -> None:
        now_ms = ctx.server.unix_time_us() // 1000
        client = ctx.server.clients.describe(ctx.client_id) or {}
        shown = " ".join(f"{field}={value}" for field, value in client.items()).encode("utf-8", "surrogateescape")
        for record in self.log:
            if record.says(reason, place, name, user) and now_ms - record.updated_ms <= _SAME_WITHIN_MS:
                self.log.remove(record)
                record.count += 1
                record.updated_ms = now_ms
                record.client = shown
                self.log.insert(0, record)
                return
        self.log.insert(0, Record(self._next_record, reason, place, name, user, shown, now_ms))
        self._next_record += 1
        del self.log[self.max_log :]

    def entries(self, count: int, now_ms: int) -> list[list[tuple[object, object]]]:
        """The newest entries of the log, newest first."""
        return [record.fields(now_ms) for record in self.log[:count]]

    def forget_log(self) -> None:
        """ACL LOG RESET."""
        self.log.clear()

    def limit_log(self, count: int) -> None:
        """Keep so many entries."""
        self.max_log = count
        del self.log[count:]

    # -- the file -----------------------------------------------------------------------------------------------------

    async def read(self) -> dict[bytes, User] | None:
        """The users of the file, not yet in force; None when there is no file. ConfigError: it cannot be used."""
        if self.file is None:
            return None
        try:
            content = await self.file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None
        if content is None:
            raise ConfigError(f"{self.path}: does not exist (server.acl_file); an empty file will do")
        if len(content) > _MAX_FILE:
            raise ConfigError(f"{self.path}: is larger than 16 MiB; is that the file of users?")
        return parse_users(content, self.path)

    def adopt(self, users: dict[bytes, User] | None, ctx: Context | None) -> None:
        """Put the users of the file in force, in place of all there are."""
        if users is None:
            return
        concerned = {*self.users, *users}
        self.users = users
        users.setdefault(DEFAULT, _open_user())
        if self._password:
            users[DEFAULT].passwords = [self._password]
            users[DEFAULT].no_password = False
        self._tell(concerned, ctx)

    async def load(self, ctx: Context) -> object:
        """ACL LOAD: the reply; a file that cannot be used changes nothing."""
        if self.file is None:
            return _NO_FILE
        try:
            self.adopt(await self.read(), ctx)
        except ConfigError as error:
            return Error(f"ERR {error}. WARNING: ACL errors detected, no change to the previously active ACL rules")
        return OK

    async def save(self) -> object:
        """ACL SAVE: the reply."""
        if self.file is None:
            return _NO_FILE
        content = b"".join([line + b"\n" for line in self.lines()])
        try:
            await self.file.write(content)
        except OSError as error:
            return Error(f"ERR There was an error trying to save the ACLs: {error.strerror}")
        return OK


def parse_users(content: bytes, path: str) -> dict[bytes, User]:
    """The users of a file: one on each line, `user NAME RULE…`; ConfigError names every line that is wrong."""
    users: dict[bytes, User] = {}
    wrong: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        problem = _parse_user(words, users)
        if problem is not None:
            wrong.append(f"{path}:{number}: {problem}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return users


def _parse_user(words: list[bytes], users: dict[bytes, User]) -> str | None:
    if words[0] != b"user" or len(words) < 2:
        return "a line begins with the word user and a name"
    if b"\0" in words[1]:
        return "a name cannot contain null characters"
    if words[1] in users:
        return f"the user '{text(words[1])}' is there twice"
    user = User(words[1])
    try:
        rules = joined_selectors(words[2:])
    except RuleError as error:
        return str(error)
    for rule in rules:
        try:
            user.apply(rule)
        except RuleError as error:
            return f"user {text(user.name)}: '{text(without_password(rule))}': {error}"
    users[user.name] = user
    return None


def _open_user() -> User:
    # The default user of a server that was told nothing.
    user = User(DEFAULT)
    for rule in (b"on", b"nopass", b"~*", b"&*", b"+@all"):
        user.apply(rule)
    return user


def _called(argv: list[bytes]) -> CommandSpec:
    # The row that dispatch finds for these words.
    spec = COMMANDS[argv[0].lower().decode()]
    if spec.subcommands and len(argv) > 1:
        return spec.subcommands.get(argv[1].lower(), spec)
    return spec


def _check(user: User | None, spec: CommandSpec, argv: list[bytes]) -> tuple[int, bytes]:
    if user is None:
        return DENIED_COMMAND, spec.name.encode()
    return user.check(spec, argv, key_accesses(spec, argv), channels_of(spec, argv), names_patterns(spec))


def _foreign_keys(user: User | None, spec: CommandSpec, argv: list[bytes]) -> Error | None:
    # SORT's BY and GET look at keys whose names are made of values.
    option = foreign_key_option(spec, argv)
    if option is None or user is None or user.reads_all_keys(spec, argv):
        return None
    return Error(f"ERR {option} option of SORT denied due to insufficient ACL permissions.")


def _sentence(user: bytes, kind: int, name: bytes, tells_all: bool) -> str:
    if kind == DENIED_COMMAND:
        return f"User {text(user)} has no permissions to run the '{text(name)}' command"
    what = "key" if kind == DENIED_KEY else "channel"
    if tells_all:
        return f"User {text(user)} has no permissions to access the '{text(name)}' {what}"
    return f"No permissions to access a {what}"


def _may_listen(user: User, client: Context) -> bool:
    # Does some selector allow each of the channels that the client listens to?
    if client.subscriptions is None:
        return True
    named = client.subscriptions.named
    asked = [(name, False) for name in (*named[CHANNEL], *named[SHARD])] + [(name, True) for name in named[PATTERN]]
    return all(_somebody_allows(user, name, is_pattern) for name, is_pattern in asked)


def _somebody_allows(user: User, name: bytes, is_pattern: bool) -> bool:
    return any(selector.allows_channel(name, is_pattern) for selector in user.selectors)
