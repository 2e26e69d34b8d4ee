"""CLIENT TRACKING and what belongs to it: whether and how a connection hears of keys that change.

What is remembered and told is in server/tracking.py.
"""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error, Map, SetOf
from server import errors
from server.commands.args import integer
from server.commands.clients import OWN
from server.commands.connection import text
from server.commands.context import Context, TrackingMode
from server.commands.spec import command
from server.errors import CommandError

_ONE_REDIRECT: Final = Error("ERR A client can only redirect to a single other client")
_NO_SUCH_CLIENT: Final = Error("ERR The client ID you want redirect to does not exist")
_PREFIX_WITHOUT_BCAST: Final = Error("ERR PREFIX option requires BCAST mode to be enabled")
_BCAST_CANNOT_OPT: Final = Error("ERR OPTIN and OPTOUT are not compatible with BCAST")
_TWO_OPTIONS: Final = Error("ERR You can't specify both OPTIN mode and OPTOUT mode")
_OTHER_BCAST: Final = Error(
    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a "
    "different mode."
)
_OTHER_OPTION: Final = Error(
    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a "
    "different mode."
)
_CACHING_NEEDS_OPTION: Final = Error(
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
)
_YES_NEEDS_OPTIN: Final = Error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
_NO_NEEDS_OPTOUT: Final = Error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")


def _parse(ctx: Context, options: list[bytes]) -> TrackingMode:
    mode = TrackingMode()
    at = 0
    while at < len(options):
        option = options[at].upper()
        if option == b"REDIRECT" and at + 1 < len(options):
            at += 1
            if mode.redirect:
                raise CommandError(_ONE_REDIRECT)
            mode.redirect = integer(options[at])
            # Redis refuses to begin like this, although it goes on when that client leaves later.
            if ctx.server.clients.describe(mode.redirect) is None:
                raise CommandError(_NO_SUCH_CLIENT)
        elif option == b"PREFIX" and at + 1 < len(options):
            at += 1
            mode.prefixes.append(options[at])
        elif option == b"BCAST":
            mode.broadcasts = True
        elif option == b"OPTIN":
            mode.optin = True
        elif option == b"OPTOUT":
            mode.optout = True
        elif option == b"NOLOOP":
            mode.noloop = True
        else:
            raise CommandError(errors.SYNTAX)
        at += 1
    return mode


def _check(mode: TrackingMode, old: TrackingMode | None) -> None:
    # In Redis's order, by which clients' tests go.
    if mode.prefixes and not mode.broadcasts:
        raise CommandError(_PREFIX_WITHOUT_BCAST)
    if old is not None and old.broadcasts != mode.broadcasts:
        raise CommandError(_OTHER_BCAST)
    if mode.broadcasts and (mode.optin or mode.optout):
        raise CommandError(_BCAST_CANNOT_OPT)
    if mode.optin and mode.optout:
        raise CommandError(_TWO_OPTIONS)
    if old is not None and ((mode.optin and old.optout) or (mode.optout and old.optin)):
        raise CommandError(_OTHER_OPTION)


def _overlap(first: bytes, second: bytes) -> bool:
    return first.startswith(second) or second.startswith(first)


def _check_prefixes(new: list[bytes], old: list[bytes]) -> None:
    # Of two prefixes that overlap, keys under the longer would be told twice.
    for at, prefix in enumerate(new):
        for other in old:
            if _overlap(prefix, other):
                raise CommandError(_overlapping(prefix, "an existing prefix", other))
        for other in new[at + 1 :]:
            if _overlap(prefix, other):
                raise CommandError(_overlapping(prefix, "another provided prefix", other))


def _overlapping(prefix: bytes, what: str, other: bytes) -> Error:
    return Error(
        f"ERR Prefix '{text(prefix)}' overlaps with {what} '{text(other)}'. "
        "Prefixes for a single client must not overlap."
    )


@command(
    "CLIENT TRACKING",
    arity=-3,
    flags=OWN,
    group="connection",
    since="6.0.0",
    summary="Turns on or off that the connection hears of keys that change, for a cache of the client's own.",
    complexity="O(1). Some options may introduce additional complexity.",
    syntax="<ON | OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
)
def client_tracking(ctx: Context, argv: list[bytes]) -> object:
    mode = _parse(ctx, argv[3:])
    switch = argv[2].upper()
    if switch == b"OFF":
        ctx.server.tracking.turn_off(ctx)
        return OK
    if switch != b"ON":
        return errors.SYNTAX
    old = ctx.tracking
    _check(mode, old)
    if mode.broadcasts:
        kept = old.prefixes if old is not None else []
        _check_prefixes(mode.prefixes, kept)
        # No prefix means every key. Prefixes given before stay.
        mode.prefixes = list(dict.fromkeys([*kept, *(mode.prefixes or [b""])]))
    ctx.server.tracking.turn_on(ctx, mode)
    return OK


@command(
    "CLIENT CACHING",
    arity=3,
    flags=OWN,
    group="connection",
    since="6.0.0",
    summary="Has the keys of the next command remembered (OPTIN), or not (OPTOUT).",
    complexity="O(1)",
    syntax="<YES | NO>",
)
def client_caching(ctx: Context, argv: list[bytes]) -> object:
    mode = ctx.tracking
    if mode is None:
        return _CACHING_NEEDS_OPTION
    word = argv[2].upper()
    if word not in (b"YES", b"NO"):
        return errors.SYNTAX
    wanted = word == b"YES"
    if wanted and not mode.optin:
        return _YES_NEEDS_OPTIN
    if not wanted and not mode.optout:
        return _NO_NEEDS_OPTOUT
    mode.caching = wanted
    return OK


@command(
    "CLIENT GETREDIR",
    arity=2,
    flags=OWN,
    group="connection",
    since="6.0.0",
    summary="Tells which client hears of changed keys instead: 0 for none, -1 when tracking is off.",
    complexity="O(1)",
)
def client_getredir(ctx: Context, argv: list[bytes]) -> object:
    return ctx.tracking.redirect if ctx.tracking is not None else -1


@command(
    "CLIENT TRACKINGINFO",
    arity=2,
    flags=OWN,
    group="connection",
    since="6.2.0",
    summary="Tells how the connection tracks keys.",
    complexity="O(1)",
)
def client_trackinginfo(ctx: Context, argv: list[bytes]) -> object:
    mode = ctx.tracking
    if mode is None:
        return Map([(b"flags", SetOf([b"off"])), (b"redirect", -1), (b"prefixes", [])])
    flags = [b"on"]
    if mode.broadcasts:
        flags.append(b"bcast")
    if mode.optin:
        flags += [b"optin", b"caching-yes"] if mode.caching else [b"optin"]
    if mode.optout:
        flags += [b"optout", b"caching-no"] if mode.caching is False else [b"optout"]
    if mode.noloop:
        flags.append(b"noloop")
    if mode.is_broken:
        flags.append(b"broken_redirect")
    return Map([(b"flags", SetOf(flags)), (b"redirect", mode.redirect), (b"prefixes", sorted(mode.prefixes))])
