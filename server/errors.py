"""Error replies and the exception that carries one. Texts are Redis's own, so that clients recognise them.

CommandError   a handler or gate refuses one command; the connection lives   (caught by dispatch)
ConfigError    the configuration is wrong; one line, exit code 2             (caught by cli)
"""

from __future__ import annotations

from typing import Final

from protocol.replies import Error


class CommandError(Exception):
    """Refuses one command. `reply` is what the client gets."""

    def __init__(self, reply: Error) -> None:
        super().__init__(reply.message)
        self.reply = reply


class ConfigError(Exception):
    """The configuration cannot be used. The message names the key, what is wrong and what was meant."""


WRONG_TYPE: Final = Error("WRONGTYPE Operation against a key holding the wrong kind of value")
SYNTAX: Final = Error("ERR syntax error")
NOT_INTEGER: Final = Error("ERR value is not an integer or out of range")
NOT_FLOAT: Final = Error("ERR value is not a valid float")
NAN_OR_INFINITY: Final = Error("ERR increment would produce NaN or Infinity")
OVERFLOW: Final = Error("ERR increment or decrement would overflow")
DECR_OVERFLOW: Final = Error("ERR decrement would overflow")
NO_SUCH_KEY: Final = Error("ERR no such key")
OUT_OF_RANGE: Final = Error("ERR value is out of range")
NOT_POSITIVE: Final = Error("ERR value is out of range, must be positive")
NO_KEYS_COUNTED: Final = Error("ERR numkeys should be greater than 0")
NEGATIVE_LIMIT: Final = Error("ERR LIMIT can't be negative")
OFFSET_OUT_OF_RANGE: Final = Error("ERR offset is out of range")
STRING_TOO_LONG: Final = Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
HASH_NOT_INTEGER: Final = Error("ERR hash value is not an integer")
HASH_NOT_FLOAT: Final = Error("ERR hash value is not a float")
INDEX_OUT_OF_RANGE: Final = Error("ERR DB index is out of range")
SAME_OBJECT: Final = Error("ERR source and destination objects are the same")
NO_AUTH: Final = Error("NOAUTH Authentication required.")
WRONG_PASS: Final = Error("WRONGPASS invalid username-password pair or user is disabled.")
NO_PASSWORD_SET: Final = Error(
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
NO_PROTO: Final = Error("NOPROTO unsupported protocol version")
NO_SAMPLE: Final = Error("ERR no accesses are noted, because advise_sample in [memory] is 0")
OOM: Final = Error("OOM command not allowed when used memory > 'maxmemory'.")
NESTED_MULTI: Final = Error("ERR MULTI calls can not be nested")
EXEC_WITHOUT_MULTI: Final = Error("ERR EXEC without MULTI")
DISCARD_WITHOUT_MULTI: Final = Error("ERR DISCARD without MULTI")
WATCH_IN_MULTI: Final = Error("ERR WATCH inside MULTI is not allowed")
EXEC_ABORT: Final = Error("EXECABORT Transaction discarded because of previous errors.")
INTERNAL: Final = Error("ERR internal error")
INVALID_CURSOR: Final = Error("ERR invalid cursor")
MAX_CLIENTS: Final = Error("ERR max number of clients reached")
MANAGED_ELSEWHERE: Final = Error("ERR keys under a prefix rule live in database 0 and cannot leave or enter it")
STAGED_ELSEWHERE: Final = Error("ERR a transaction on keys under a prefix rule cannot reach into another database")
DIRTY: Final = Error("DIRTY unsaved changes exist; CACHE.FLUSH first")
PROTECTED: Final = Error(
    "DENIED Forebay is running in protected mode because protected mode is enabled and no password is set. In this "
    "mode connections are only accepted from the loopback interface. To connect from elsewhere, set a password "
    "(server.password in the configuration file) and restart, or, if the network is trusted, set "
    "server.protected_mode = false."
)


def no_warm_up(prefix: str) -> Error:
    """The prefix has nothing to warm up with."""
    return Error(f"ERR the prefix '{prefix}' has no warm-up: its key warm is \"none\"")


def wrong_arity(name: str) -> Error:
    """The reply to a wrong number of arguments; `name` in lower case, `a|b` for a subcommand."""
    return Error(f"ERR wrong number of arguments for '{name}' command")


def unknown_command(argv: list[bytes]) -> Error:
    """The reply to an unknown command, quoting its first arguments as Redis does (at most 128 characters of each)."""
    name = argv[0][:128].decode("utf-8", "surrogateescape")
    quoted = ""
    for argument in argv[1:]:
        if len(quoted) >= 128:
            break
        quoted += "'" + argument[: 128 - len(quoted)].decode("utf-8", "surrogateescape") + "' "
    return Error(f"ERR unknown command '{name}', with args beginning with: {quoted}")


def unknown_subcommand(command: str, subcommand: bytes) -> Error:
    """The reply to an unknown subcommand of a container command."""
    name = subcommand[:128].decode("utf-8", "surrogateescape")
    return Error(f"ERR unknown subcommand '{name}'. Try {command.upper()} HELP.")


def wrong_words(argv: list[bytes]) -> Error:
    """The reply to a subcommand that cannot go on as it does; `argv` begins with the container command."""
    command, name = argv[0].decode("utf-8", "surrogateescape"), argv[1][:128].decode("utf-8", "surrogateescape")
    return Error(f"ERR unknown subcommand or wrong number of arguments for '{name}'. Try {command.upper()} HELP.")


def invalid_expire(command: str) -> Error:
    """The reply to an expire time out of range; `command` in lower case."""
    return Error(f"ERR invalid expire time in '{command}' command")
