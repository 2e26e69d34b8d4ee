"""What a server answers that stands alone: it has no cluster, no replicas and no modules, as clients and tools ask for.

Each says the same as a redis-server without them, so that whoever asks at connect time, or to find out whom it talks
to, takes the way that it would take there.
"""

from __future__ import annotations

from typing import Final

from protocol.replies import OK, Error
from server.commands.args import integer
from server.commands.command_docs import container_help
from server.commands.context import Context
from server.commands.spec import ADMIN, FAST, LOADING, NOSCRIPT, STALE, command
from server.errors import unknown_subcommand

_NO_CLUSTER: Final = Error("ERR This instance has cluster support disabled")
_NO_REPLICAS: Final = Error("ERR FAILOVER requires connected replicas.")
_NO_FAILOVER: Final = Error("ERR No failover in progress.")
_BAD_PORT: Final = Error("ERR Invalid master port")
_NO_REPLICATION: Final = Error("ERR this server follows no other; what servers share is in the database behind them")
_NO_MODULES: Final = Error("ERR MODULE command not allowed: this server loads no modules")

# Of Redis 7.4.
_CLUSTER_WORDS: Final = frozenset(
    b"ADDSLOTS ADDSLOTSRANGE BUMPEPOCH COUNT-FAILURE-REPORTS COUNTKEYSINSLOT DELSLOTS DELSLOTSRANGE FAILOVER "
    b"FLUSHSLOTS FORGET GETKEYSINSLOT HELP INFO KEYSLOT LINKS MEET MYID MYSHARDID NODES REPLICAS REPLICATE RESET "
    b"SAVECONFIG SET-CONFIG-EPOCH SETSLOT SHARDS SLAVES SLOTS".split()
)


# -- cluster ----------------------------------------------------------------------------------------------------------


@command(
    "CLUSTER",
    arity=-2,
    flags=STALE,
    group="cluster",
    since="3.0.0",
    summary="Answers that there is no cluster, whatever the subcommand.",
    complexity="O(1)",
    syntax="subcommand [argument [argument ...]]",
)
def cluster(ctx: Context, argv: list[bytes]) -> object:
    return _NO_CLUSTER if argv[1].upper() in _CLUSTER_WORDS else unknown_subcommand("cluster", argv[1])


@command(
    "ASKING",
    arity=1,
    flags=FAST,
    group="cluster",
    since="3.0.0",
    summary="Answers that there is no cluster.",
    complexity="O(1)",
)
def asking(ctx: Context, argv: list[bytes]) -> object:
    return _NO_CLUSTER


@command(
    "READONLY",
    arity=1,
    flags=FAST | LOADING | STALE,
    group="cluster",
    since="3.0.0",
    summary="Answers that there is no cluster.",
    complexity="O(1)",
)
def readonly(ctx: Context, argv: list[bytes]) -> object:
    return _NO_CLUSTER


@command(
    "READWRITE",
    arity=1,
    flags=FAST | LOADING | STALE,
    group="cluster",
    since="3.0.0",
    summary="Answers that there is no cluster.",
    complexity="O(1)",
)
def readwrite(ctx: Context, argv: list[bytes]) -> object:
    return _NO_CLUSTER


# -- replicas ---------------------------------------------------------------------------------------------------------


@command(
    "ROLE",
    arity=1,
    flags=NOSCRIPT | LOADING | STALE | FAST,
    group="server",
    since="2.8.12",
    summary="A master without replicas.",
    complexity="O(1)",
)
def role(ctx: Context, argv: list[bytes]) -> object:
    return [b"master", 0, []]


@command(
    "REPLICAOF",
    arity=3,
    flags=ADMIN | NOSCRIPT | STALE,
    group="server",
    since="5.0.0",
    summary="NO ONE is what this server replicates; anything else is refused.",
    complexity="O(1)",
    syntax="host port | NO ONE",
)
def replicaof(ctx: Context, argv: list[bytes]) -> object:
    if argv[1].upper() == b"NO" and argv[2].upper() == b"ONE":
        return OK
    if not argv[2].isdigit() or len(argv[2]) > 5 or int(argv[2]) > 65535:
        return _BAD_PORT
    return _NO_REPLICATION


@command(
    "SLAVEOF",
    arity=3,
    flags=ADMIN | NOSCRIPT | STALE,
    group="server",
    since="1.0.0",
    summary="The old name of REPLICAOF.",
    complexity="O(1)",
    syntax="host port | NO ONE",
)
def slaveof(ctx: Context, argv: list[bytes]) -> object:
    return replicaof(ctx, argv)


@command(
    "FAILOVER",
    arity=-1,
    flags=ADMIN | NOSCRIPT | STALE,
    group="server",
    since="6.2.0",
    summary="Answers that there is no replica to hand over to.",
    complexity="O(1)",
    syntax="[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]",
)
def failover(ctx: Context, argv: list[bytes]) -> object:
    for at, option in enumerate(argv):
        if option.upper() == b"TIMEOUT" and at + 1 < len(argv):
            integer(argv[at + 1])
    return _NO_FAILOVER if len(argv) == 2 and argv[1].upper() == b"ABORT" else _NO_REPLICAS


# -- modules ----------------------------------------------------------------------------------------------------------


@command(
    "MODULE",
    arity=-2,
    flags=0,
    group="server",
    since="4.0.0",
    summary="Commands about modules, of which there are none.",
    complexity="Depends on subcommand.",
    syntax="subcommand [argument [argument ...]]",
)
def module(ctx: Context, argv: list[bytes]) -> object:
    return unknown_subcommand("module", argv[1])


@command(
    "MODULE LIST",
    arity=2,
    flags=ADMIN | NOSCRIPT,
    group="server",
    since="4.0.0",
    summary="The modules: none.",
    complexity="O(1)",
)
def module_list(ctx: Context, argv: list[bytes]) -> object:
    return []


@command(
    "MODULE HELP",
    arity=2,
    flags=LOADING | STALE,
    group="server",
    since="5.0.0",
    summary="Lists the subcommands.",
    complexity="O(1)",
)
def module_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("module")


@command(
    "MODULE LOAD",
    arity=-3,
    flags=ADMIN | NOSCRIPT,
    group="server",
    since="4.0.0",
    summary="Is refused.",
    complexity="O(1)",
    syntax="path [arg [arg ...]]",
)
def module_load(ctx: Context, argv: list[bytes]) -> object:
    return _NO_MODULES


@command(
    "MODULE LOADEX",
    arity=-3,
    flags=ADMIN | NOSCRIPT,
    group="server",
    since="7.0.0",
    summary="Is refused.",
    complexity="O(1)",
    syntax="path [CONFIG name value [CONFIG name value ...]] [ARGS args [args ...]]",
)
def module_loadex(ctx: Context, argv: list[bytes]) -> object:
    return _NO_MODULES


@command(
    "MODULE UNLOAD",
    arity=3,
    flags=ADMIN | NOSCRIPT,
    group="server",
    since="4.0.0",
    summary="Is refused.",
    complexity="O(1)",
    syntax="name",
)
def module_unload(ctx: Context, argv: list[bytes]) -> object:
    return _NO_MODULES
