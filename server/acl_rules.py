"""ACL rules: what a user is, made of Redis's words (`on >secret ~cache:* +@read -keys`).

A User has passwords and one or more *selectors*; each selector says which commands on which keys and channels. The
first is what plain rules speak of, the others are written in parentheses. A command is allowed when one selector allows
all of it.

Commands are kept as the set of their names rather than as the list of rules that made it, because the last word on each
command counts. The rules are kept beside it, for showing: a rule replaces an earlier one about the same command or
category.
"""

from __future__ import annotations

import hashlib
from typing import Final

from server.commands.command_docs import CATEGORIES, categories, find_spec
from server.commands.key_access import BOTH, READS, WRITES
from server.commands.spec import COMMANDS, NO_AUTH, CommandSpec
from server.keyspace.globbing import Glob

ALLOWED: Final = 0
# What was refused; when no selector allows a command, the highest one is told.
DENIED_COMMAND: Final = 1
DENIED_KEY: Final = 2
DENIED_CHANNEL: Final = 3

_UNKNOWN: Final = "Unknown command or category name in ACL"
_SYNTAX: Final = "Syntax error"
_AFTER_ALL_KEYS: Final = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try "
    "'resetkeys' to start with an empty list of patterns"
)
_AFTER_ALL_CHANNELS: Final = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try "
    "'resetchannels' to start with an empty list of channels"
)
_BAD_HASH: Final = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
_NO_SUCH_PASSWORD: Final = "The password you are trying to remove from the user does not exist"
_FIRST_ARG: Final = "Allowing first-arg of a subcommand is not supported"

_HEX: Final = frozenset(b"0123456789abcdef")
_SPACES: Final = frozenset(b" \t\n\v\f\r\0")
# Rules that begin so hold a password, or what it is compared with.
_SECRET_SIGNS: Final = b"><#!"


class RuleError(Exception):
    """A rule that means nothing; the text says why, in Redis's words."""


def has_spaces(text: bytes) -> bool:
    """Names and patterns are separated by spaces in files, so they have none."""
    return not _SPACES.isdisjoint(text)


def password_hash(password: bytes) -> bytes:
    """What is kept of a password: SHA-256 in hexadecimal digits."""
    return hashlib.sha256(password).hexdigest().encode()


def without_password(rule: bytes) -> bytes:
    """A rule as errors may show it."""
    return rule[:1] + b"(redacted)" if rule[:1] and rule[0] in _SECRET_SIGNS else rule


class KeyPattern:
    """A pattern of keys and what may be done to them."""

    __slots__ = ("access", "glob", "text")

    def __init__(self, text: bytes, access: int) -> None:
        self.text = text
        self.glob = Glob(text)
        self.access = access

    def __bytes__(self) -> bytes:
        if self.access == BOTH and self.text == b"*":
            # `~*` means allkeys, behind which no pattern may stand when this is read again.
            return b"%RW~*"
        sign = b"~" if self.access == BOTH else b"%R~" if self.access == READS else b"%W~"
        return sign + self.text


class Selector:
    """Which commands are allowed, on which keys and channels."""

    __slots__ = (
        "all_channels",
        "all_commands",
        "all_keys",
        "allowed",
        "channels",
        "first_args",
        "future",
        "patterns",
        "rules",
    )

    def __init__(self) -> None:
        self.all_commands = False
        self.all_keys = False
        self.all_channels = False
        # Names of commands, `a|b` for subcommands.
        self.allowed: set[str] = set()
        # Command that is not allowed → first arguments with which it is: `+select|0`.
        self.first_args: dict[str, list[bytes]] = {}
        # Are commands that do not exist yet allowed? So what the rules begin with.
        self.future = False
        # `+get`, `-@write`: what was said since `+@all` or `-@all`, in that order.
        self.rules: list[str] = []
        # In the order in which they were given.
        self.patterns: dict[bytes, KeyPattern] = {}
        self.channels: dict[bytes, Glob] = {}

    def copy(self) -> Selector:
        """Another one that says the same."""
        twin = Selector()
        twin.all_commands, twin.all_keys, twin.all_channels = self.all_commands, self.all_keys, self.all_channels
        twin.allowed = set(self.allowed)
        twin.first_args = {name: list(words) for name, words in self.first_args.items()}
        twin.future = self.future
        twin.rules = list(self.rules)
        twin.patterns = {text: KeyPattern(text, pattern.access) for text, pattern in self.patterns.items()}
        twin.channels = dict(self.channels)
        return twin

    # -- rules --------------------------------------------------------------------------------------------------------

    def apply(self, rule: bytes) -> None:
        """One rule; RuleError when it means nothing."""
        word = rule.lower()
        if word in (b"allkeys", b"~*"):
            self.all_keys = True
            self.patterns.clear()
        elif word == b"resetkeys":
            self.all_keys = False
            self.patterns.clear()
        elif word in (b"allchannels", b"&*"):
            self.all_channels = True
            self.channels.clear()
        elif word == b"resetchannels":
            self.all_channels = False
            self.channels.clear()
        elif word in (b"allcommands", b"+@all"):
            self._allow_all(True)
        elif word in (b"nocommands", b"-@all"):
            self._allow_all(False)
        elif rule[:1] in (b"~", b"%"):
            self._add_pattern(rule)
        elif rule[:1] == b"&":
            self._add_channel(rule[1:])
        elif rule[:2] in (b"+@", b"-@"):
            self._change_category(word[2:].decode("utf-8", "replace"), word[:1] == b"+")
        elif rule[:1] == b"+":
            self._allow(word[1:])
        elif rule[:1] == b"-":
            self._forbid(word[1:])
        else:
            raise RuleError(_SYNTAX)

    def _allow_all(self, allow: bool) -> None:
        self.all_commands = self.future = allow
        self.allowed.clear()
        if allow:
            for spec in COMMANDS.values():
                self.allowed.update((spec.name, *[child.name for child in spec.subcommands.values()]))
        self.first_args.clear()
        self.rules.clear()

    def _add_pattern(self, rule: bytes) -> None:
        if self.all_keys:
            raise RuleError(_AFTER_ALL_KEYS)
        letters, _, text = rule.partition(b"~")
        access = BOTH
        if letters:
            letters = letters[1:].upper()
            # Each letter once; the sign before the pattern may be missing, as in Redis: `%R` is the empty pattern.
            if letters not in (b"R", b"W", b"RW", b"WR"):
                raise RuleError(_SYNTAX)
            access = (READS if b"R" in letters else 0) | (WRITES if b"W" in letters else 0)
        if has_spaces(text):
            raise RuleError(_SYNTAX)
        known = self.patterns.get(text)
        if known is not None:
            known.access |= access
        else:
            self.patterns[text] = KeyPattern(text, access)

    def _add_channel(self, text: bytes) -> None:
        if self.all_channels:
            raise RuleError(_AFTER_ALL_CHANNELS)
        if has_spaces(text):
            raise RuleError(_SYNTAX)
        self.channels[text] = Glob(text)

    def _change_category(self, name: str, allow: bool) -> None:
        if name not in CATEGORIES:
            raise RuleError(_UNKNOWN)
        for spec in COMMANDS.values():
            if "@" + name in categories(spec):
                self._change(spec, allow)
            for child in spec.subcommands.values():
                if "@" + name in categories(child):
                    self._change(child, allow)
        self._note("@" + name, allow)

    def _allow(self, word: bytes) -> None:
        spec = find_spec(word)
        if spec is None and b"|" in word:
            parent, _, argument = word.rpartition(b"|")
            self._allow_first_argument(find_spec(parent), argument)
        elif spec is None:
            raise RuleError(_UNKNOWN)
        else:
            self._change(spec, True)
        self._note(word.decode("utf-8", "surrogateescape"), True)

    def _allow_first_argument(self, spec: CommandSpec | None, argument: bytes) -> None:
        if spec is None:
            raise RuleError(_UNKNOWN)
        if "|" in spec.name:
            raise RuleError(_FIRST_ARG)
        if not argument:
            raise RuleError(_SYNTAX)
        if spec.subcommands:
            raise RuleError(_UNKNOWN)
        words = self.first_args.setdefault(spec.name, [])
        if argument not in words:
            words.append(argument)

    def _forbid(self, word: bytes) -> None:
        spec = find_spec(word)
        if spec is None:
            raise RuleError(_UNKNOWN)
        self._change(spec, False)
        self._note(spec.name, False)

    def _change(self, spec: CommandSpec, allow: bool) -> None:
        # A container stands for all of its subcommands.
        names = [spec.name, *[child.name for child in spec.subcommands.values()]]
        if allow:
            self.allowed.update(names)
        else:
            self.all_commands = False
            self.allowed.difference_update(names)
        self.first_args.pop(spec.name, None)

    def _note(self, name: str, allow: bool) -> None:
        # What is said now replaces what was said of the same, and of its subcommands.
        self.rules = [rule for rule in self.rules if rule[1:] != name and not rule[1:].startswith(name + "|")]
        self.rules.append(("+" if allow else "-") + name)

    # -- checks -------------------------------------------------------------------------------------------------------

    def allows_command(self, spec: CommandSpec, argv: list[bytes]) -> bool:
        """May this command run, whatever its keys are?"""
        if self.all_commands or spec.flags & NO_AUTH or spec.name in self.allowed:
            return True
        words = self.first_args.get(spec.name)
        return words is not None and len(argv) > 1 and argv[1].lower() in words

    def allows_key(self, key: bytes, access: int) -> bool:
        """May this be done to the key?"""
        if self.all_keys:
            return True
        for pattern in self.patterns.values():
            if pattern.access & access == access and pattern.glob.matches(key):
                return True
        return False

    def allows_channel(self, name: bytes, is_pattern: bool) -> bool:
        """May one listen to or publish in this channel? A pattern of channels must be allowed word for word."""
        if self.all_channels:
            return True
        if is_pattern:
            return name in self.channels
        return any(glob.matches(name) for glob in self.channels.values())

    def reads_all_keys(self) -> bool:
        """May all keys be read, those of which the command says nothing included?"""
        everything = self.patterns.get(b"*")
        return self.all_keys or (everything is not None and everything.access & READS != 0)

    # -- words --------------------------------------------------------------------------------------------------------

    def command_words(self) -> bytes:
        """The rules about commands."""
        words = " ".join(["+@all" if self.future else "-@all", *self.rules])
        return words.encode("utf-8", "surrogateescape")

    def key_words(self) -> bytes:
        """The rules about keys."""
        return b"~*" if self.all_keys else b" ".join([bytes(pattern) for pattern in self.patterns.values()])

    def channel_words(self) -> bytes:
        """The rules about channels."""
        return b"&*" if self.all_channels else b" ".join([b"&" + name for name in self.channels])

    def described(self) -> list[tuple[object, object]]:
        """Its rules about commands, keys and channels, as ACL GETUSER tells them."""
        return [
            (b"commands", self.command_words()),
            (b"keys", self.key_words()),
            (b"channels", self.channel_words()),
        ]

    def words(self) -> bytes:
        """All of its rules: what makes another one that says the same."""
        channels = [self.channel_words()] if self.all_channels else [b"resetchannels", self.channel_words()]
        return b" ".join([word for word in (self.key_words(), *channels, self.command_words()) if word])


class User:
    """Somebody who may log in, and what they may do then."""

    __slots__ = ("is_on", "name", "no_password", "passwords", "sanitizes", "selectors")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.is_on = False
        # Any password will do.
        self.no_password = False
        # Hashes, in the order in which they were given.
        self.passwords: list[bytes] = []
        # Are RESTORE's payloads to be looked through? They always are; kept because files of Redis say it.
        self.sanitizes = True
        # The first is what rules without parentheses speak of.
        self.selectors = [Selector()]

    def copy(self) -> User:
        """Another one with the same rights and passwords."""
        twin = User(self.name)
        twin.is_on = self.is_on
        twin.no_password = self.no_password
        twin.passwords = list(self.passwords)
        twin.sanitizes = self.sanitizes
        twin.selectors = [selector.copy() for selector in self.selectors]
        return twin

    def is_unrestricted(self) -> bool:
        """May they do everything?"""
        root = self.selectors[0]
        return root.all_commands and root.all_keys and root.all_channels

    def apply(self, rule: bytes) -> None:
        """One rule; RuleError when it means nothing."""
        word = rule.lower()
        if word in (b"on", b"off"):
            self.is_on = word == b"on"
        elif word in (b"nopass", b"resetpass"):
            self.no_password = word == b"nopass"
            self.passwords.clear()
        elif word in (b"sanitize-payload", b"skip-sanitize-payload"):
            self.sanitizes = word == b"sanitize-payload"
        elif rule[:1] in (b">", b"#"):
            self._add_password(rule)
        elif rule[:1] in (b"<", b"!"):
            self._remove_password(rule)
        elif rule[:1] == b"(" and rule[-1:] == b")":
            self.selectors.append(_selector(rule[1:-1]))
        elif word == b"clearselectors":
            del self.selectors[1:]
        elif word == b"reset":
            fresh = User(self.name)
            self.is_on, self.no_password, self.sanitizes = fresh.is_on, fresh.no_password, fresh.sanitizes
            self.passwords, self.selectors = fresh.passwords, fresh.selectors
        else:
            self.selectors[0].apply(rule)

    def _add_password(self, rule: bytes) -> None:
        digest = password_hash(rule[1:]) if rule[:1] == b">" else _checked_hash(rule[1:])
        if digest not in self.passwords:
            self.passwords.append(digest)
        self.no_password = False

    def _remove_password(self, rule: bytes) -> None:
        digest = password_hash(rule[1:]) if rule[:1] == b"<" else _checked_hash(rule[1:])
        if digest not in self.passwords:
            raise RuleError(_NO_SUCH_PASSWORD)
        self.passwords.remove(digest)

    def flags(self) -> list[bytes]:
        """What they are, in Redis's words."""
        words = [b"on" if self.is_on else b"off"]
        if self.no_password:
            words.append(b"nopass")
        words.append(b"sanitize-payload" if self.sanitizes else b"skip-sanitize-payload")
        return words

    def words(self) -> bytes:
        """`user NAME RULES`: the line of a file that makes the same user."""
        passwords = [b"#" + digest for digest in self.passwords]
        further = [b"(" + selector.words() + b")" for selector in self.selectors[1:]]
        return b" ".join([b"user", self.name, *self.flags(), *passwords, self.selectors[0].words(), *further])

    def check(
        self,
        spec: CommandSpec,
        argv: list[bytes],
        keys: list[tuple[bytes, int]],
        channels: list[bytes],
        are_patterns: bool,
    ) -> tuple[int, bytes]:
        """ALLOWED, or what is not allowed, and its name: the command's, a key or a channel."""
        worst = DENIED_COMMAND
        last = -1
        refused = spec.name.encode()
        for selector in self.selectors:
            if not selector.allows_command(spec, argv):
                continue
            kind, at, name = _first_refused(selector, keys, channels, are_patterns)
            if kind == ALLOWED:
                return ALLOWED, b""
            if kind > worst or (kind == worst and at > last):
                worst, last, refused = kind, at, name
        return worst, refused

    def reads_all_keys(self, spec: CommandSpec, argv: list[bytes]) -> bool:
        """Is there a selector that allows the command and all keys to be read?"""
        return any(selector.allows_command(spec, argv) and selector.reads_all_keys() for selector in self.selectors)


def _first_refused(
    selector: Selector, keys: list[tuple[bytes, int]], channels: list[bytes], are_patterns: bool
) -> tuple[int, int, bytes]:
    # Where it stands decides between selectors: the one that got furthest tells what is missing.
    for at, (key, access) in enumerate(keys):
        if not selector.allows_key(key, access):
            return DENIED_KEY, at, key
    for at, channel in enumerate(channels):
        if not selector.allows_channel(channel, are_patterns):
            return DENIED_CHANNEL, at, channel
    return ALLOWED, 0, b""


def _checked_hash(digest: bytes) -> bytes:
    if len(digest) != 64 or not _HEX.issuperset(digest):
        raise RuleError(_BAD_HASH)
    return digest


def _selector(text: bytes) -> Selector:
    selector = Selector()
    for rule in text.split():
        selector.apply(rule)
    return selector


def joined_selectors(rules: list[bytes]) -> list[bytes]:
    """The rules, each selector whose parentheses stand in several words made one; RuleError when one stays open."""
    joined: list[bytes] = []
    opened: bytes | None = None
    for rule in rules:
        if opened is not None:
            opened += b" " + rule
        elif rule[:1] == b"(" and rule[-1:] != b")":
            opened = rule
            continue
        else:
            joined.append(rule)
            continue
        if rule[-1:] == b")":
            joined.append(opened)
            opened = None
    if opened is not None:
        start = opened.decode("utf-8", "surrogateescape")
        raise RuleError(f"Unmatched parenthesis in acl selector starting at '{start}'.")
    return joined
