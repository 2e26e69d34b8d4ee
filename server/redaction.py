"""Redaction: commands as others may see them (MONITOR, SLOWLOG), without the passwords in them."""

from __future__ import annotations

from typing import Final

from server.commands.spec import CommandSpec

REDACTED: Final = b"(redacted)"
_SECRET_SETTINGS: Final = frozenset((b"requirepass", b"masterauth", b"masteruser"))


def without_secrets(spec: CommandSpec, argv: list[bytes]) -> list[bytes]:
    """The words of a command, each that is or may be a password replaced."""
    name = spec.name
    if name == "auth":
        return [argv[0], *[REDACTED] * (len(argv) - 1)]
    if name == "hello":
        return _hello(argv)
    if name == "config|set":
        return _config_set(argv)
    if name == "acl|setuser":
        return [*argv[:3], *[REDACTED] * (len(argv) - 3)]
    return argv


def _hello(argv: list[bytes]) -> list[bytes]:
    # HELLO 3 AUTH user password SETNAME name
    words = list(argv)
    for at in range(2, len(words)):
        if words[at].upper() == b"AUTH":
            words[at + 1 : at + 3] = [REDACTED] * len(words[at + 1 : at + 3])
            break
    return words


def _config_set(argv: list[bytes]) -> list[bytes]:
    words = list(argv)
    for at in range(2, len(words) - 1, 2):
        name = words[at].lower()
        if name in _SECRET_SETTINGS or name.endswith(b"-pass"):
            words[at + 1] = REDACTED
    return words
