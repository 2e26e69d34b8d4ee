"""How much one client may ask for, and where each number comes from.

Sizes are bytes, and MiB are binary as in Redis' own configuration ("64mb").
"""

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024
# "$" and the ten digits of 2**31: a shorter limit would refuse honest lines.
LONGEST_HEADER: Final = 11


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may weigh. The parser enforces all of it except ``max_query``."""

    # Redis: proto-max-bulk-len, 512 MB.
    max_bulk: int = 512 * MIB
    # Redis before 7.0: 1024 * 1024; later INT_MAX, which lets a few bytes announce two thousand million arguments.
    # An argument costs some 40 bytes beyond its content: this is also what bounds the overhead of a command.
    max_args: int = MIB
    # "*1048576" and "$536870912" need ten. Redis allows 64 KiB here, which no honest client has ever used.
    max_header_line: int = 32
    # Redis: PROTO_INLINE_MAX_SIZE, 64 KiB.
    max_inline: int = 64 * KIB
    # All arguments of one command together. Redis bounds its query buffer instead (1 GB), to the same effect.
    max_command: int = 64 * MIB + 512 * MIB
    # What a connection may hold unexecuted. Whoever feeds the parser compares it with `RequestParser.buffered()`: only
    # the feeder can stop reading, and inside the parser the verdict would depend on how the bytes happened to arrive.
    max_query: int = 64 * MIB + 512 * MIB
    # Before authentication: a breach that the full limits would have allowed is named as such (Redis' texts).
    authenticated: bool = True

    def __post_init__(self) -> None:
        if self.max_header_line < LONGEST_HEADER:
            raise ValueError(f"max_header_line must be at least {LONGEST_HEADER}")
        if min(self.max_bulk, self.max_args, self.max_inline, self.max_command, self.max_query) < 1:
            raise ValueError("limits must be positive")


DEFAULT: Final = Limits()

# Redis since 6.2.6 (CVE-2021-32675): 10 arguments and 16 KiB each, enough for HELLO with AUTH and SETNAME.
UNAUTHENTICATED: Final = Limits(
    max_bulk=16 * KIB, max_args=10, max_command=64 * KIB, max_query=64 * KIB, authenticated=False
)

# What may wait for a slow reader: above HARD at once, above SOFT for SOFT_SECONDS, and the client is cut off.
# Redis leaves normal clients unlimited; these are the figures it uses for replicas, because an embedded cache that
# dies of one slow reader serves nobody.
OUTPUT_HARD_NORMAL: Final = 256 * MIB
OUTPUT_SOFT_NORMAL: Final = 64 * MIB
# Redis: client-output-buffer-limit pubsub 32mb 8mb 60.
OUTPUT_HARD_PUBSUB: Final = 32 * MIB
OUTPUT_SOFT_PUBSUB: Final = 8 * MIB
OUTPUT_SOFT_SECONDS: Final = 60.0
# HELLO's answer is some 150 bytes, so only refusals can ever fill this.
OUTPUT_UNAUTHENTICATED: Final = 4 * KIB
# Above this no further command of a pipeline is executed until the client has read. One chunk of a fast network's
# round trip (10 Gbit/s for 1 ms): smaller stalls a reader who keeps up, larger only moves the queue into our memory.
OUTPUT_HIGH_WATER: Final = MIB

# How long a peer may hold a connection without having authenticated (OpenSSH gives 120 to a human typing).
AUTHENTICATION_SECONDS: Final = 10.0
