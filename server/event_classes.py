"""The classes of keyspace events: Redis's letters of `notify-keyspace-events`, and the bits that they stand for."""

from __future__ import annotations

from typing import Final

KEYSPACE: Final = 1  # K: on the key's channel, the event is the message
KEYEVENT: Final = 2  # E: on the event's channel, the key is the message
GENERIC: Final = 4
STRING: Final = 8
LIST: Final = 16
SET: Final = 32
HASH: Final = 64
ZSET: Final = 128
EXPIRED: Final = 256
EVICTED: Final = 512
STREAM: Final = 1024
MODULE: Final = 2048  # no module ever tells of anything
NEW: Final = 4096
KEY_MISS: Final = 8192

# In the order in which Redis spells them.
_CLASSES: Final = (
    ("g", GENERIC),
    ("$", STRING),
    ("l", LIST),
    ("s", SET),
    ("h", HASH),
    ("z", ZSET),
    ("x", EXPIRED),
    ("e", EVICTED),
    ("t", STREAM),
    ("d", MODULE),
)
# A: all classes but those of keys that are new and of reads that find nothing.
_ALL: Final = GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE
_OTHERS: Final = (("n", NEW), ("K", KEYSPACE), ("E", KEYEVENT), ("m", KEY_MISS))
_LETTERS: Final = dict((("A", _ALL), *_CLASSES, *_OTHERS))


def parse_events(text: str) -> int:
    """The classes that the letters stand for; ValueError for a letter that stands for none."""
    flags = 0
    for letter in text:
        if letter not in _LETTERS:
            raise ValueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
        flags |= _LETTERS[letter]
    return flags


def spell_events(flags: int) -> str:
    """The letters of these classes, as CONFIG GET shows them."""
    spelled = "A" if flags & _ALL == _ALL else "".join(letter for letter, bit in _CLASSES if flags & bit)
    return spelled + "".join(letter for letter, bit in _OTHERS if flags & bit)
