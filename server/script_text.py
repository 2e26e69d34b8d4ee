"""The text of a script or library: its first line, and what that promises.

    #!lua flags=no-writes,allow-stale      of a script: what it will and may do
    #!lua name=mylib                       of a library: its name

A script without such a line promises nothing and gets the rules of before there were any: it may write, and commands
that need memory are refused one by one.
"""

from __future__ import annotations

from typing import Final

from protocol.replies import Error
from server.errors import CommandError

NO_WRITES: Final = 1
ALLOW_OOM: Final = 2
ALLOW_STALE: Final = 4
NO_CLUSTER: Final = 8
ALLOW_CROSS_SLOT_KEYS: Final = 16

# allow-stale, no-cluster and allow-cross-slot-keys are about replicas and clusters: understood, and without effect.
FLAGS: Final = {
    "no-writes": NO_WRITES,
    "allow-oom": ALLOW_OOM,
    "allow-stale": ALLOW_STALE,
    "no-cluster": NO_CLUSTER,
    "allow-cross-slot-keys": ALLOW_CROSS_SLOT_KEYS,
}
_ENGINE: Final = b"lua"


def split_shebang(text: bytes, incomplete: str) -> tuple[list[bytes], bytes]:
    """The words of the first line, `#!` taken away, and the rest with the line break, so that lines count the same."""
    line, newline, _ = text.partition(b"\n")
    if not newline:
        raise CommandError(Error(f"ERR {incomplete}"))
    return line[2:].split(), text[len(line) :]


def script_flags(text: bytes) -> tuple[int | None, bytes]:
    """The flags of a script (None: it has no such line), and what is to be compiled. CommandError for a wrong line."""
    if not text.startswith(b"#!"):
        return None, text
    words, body = split_shebang(text, "Invalid script shebang")
    if not words or words[0] != _ENGINE:
        raise CommandError(Error(b"ERR Unexpected engine in script shebang: #!" + b"".join(words[:1])))
    flags = 0
    for word in words[1:]:
        if not word.startswith(b"flags="):
            raise CommandError(Error(b"ERR Unknown lua shebang option: " + word))
        for name in word[6:].split(b",") if word != b"flags=" else ():
            flag = FLAGS.get(name.decode("latin-1"))
            if flag is None:
                raise CommandError(Error(b"ERR Unexpected flag in script shebang: " + name))
            flags |= flag
    return flags, body


def library_name(text: bytes) -> tuple[bytes, bytes]:
    """The name of a library, and what is to be compiled. CommandError for a wrong first line."""
    if not text.startswith(b"#!"):
        raise CommandError(Error("ERR Missing library metadata"))
    words, body = split_shebang(text, "Invalid library metadata")
    name: bytes | None = None
    for word in words[1:]:
        if not word.lower().startswith(b"name="):
            raise CommandError(Error(b"ERR Invalid metadata value given: " + word))
        if name is not None:
            raise CommandError(Error("ERR Invalid metadata value, name argument was given multiple times"))
        name = word[5:]
    if name is None:
        raise CommandError(Error("ERR Library name was not given"))
    if not name or not name.replace(b"_", b"a").isalnum():
        raise CommandError(
            Error(
                "ERR Library names can only contain letters, numbers, or underscores(_) "
                "and must be at least one character long"
            )
        )
    if not words or words[0].lower() != _ENGINE:
        raise CommandError(Error(b"ERR Engine '%b' not found" % (words[0] if words else b"")))
    return name, body
