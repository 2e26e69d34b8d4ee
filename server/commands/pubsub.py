"""Pub/sub: SUBSCRIBE and its kin, PUBLISH, SPUBLISH, PUBSUB.

What a client is subscribed to, and how a message reaches it, is in server/pubsub.py.
"""

from __future__ import annotations

from typing import Final

from server import errors
from server.commands.command_docs import container_help
from server.commands.context import CHANNEL, PATTERN, SHARD, Context
from server.commands.spec import FAST, LOADING, NOSCRIPT, PUBSUB, STALE, command

_SUBSCRIBING: Final = PUBSUB | NOSCRIPT | LOADING | STALE
_PUBLISHING: Final = PUBSUB | LOADING | STALE | FAST
_ASKING: Final = PUBSUB | LOADING | STALE


@command(
    "SUBSCRIBE",
    arity=-2,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="2.0.0",
    summary="Listens to channels.",
    complexity="O(N) where N is the number of channels",
    syntax="channel [channel ...]",
)
def subscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.subscribe(ctx, CHANNEL, argv[1:])


@command(
    "UNSUBSCRIBE",
    arity=-1,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="2.0.0",
    summary="Stops listening to channels, or to all of them.",
    complexity="O(N) where N is the number of channels",
    syntax="[channel [channel ...]]",
)
def unsubscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.unsubscribe(ctx, CHANNEL, argv[1:])


@command(
    "PSUBSCRIBE",
    arity=-2,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="2.0.0",
    summary="Listens to all channels whose names fit a glob pattern.",
    complexity="O(N) where N is the number of patterns",
    syntax="pattern [pattern ...]",
)
def psubscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.subscribe(ctx, PATTERN, argv[1:])


@command(
    "PUNSUBSCRIBE",
    arity=-1,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="2.0.0",
    summary="Stops listening by patterns, or by all of them.",
    complexity="O(N) where N is the number of patterns",
    syntax="[pattern [pattern ...]]",
)
def punsubscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.unsubscribe(ctx, PATTERN, argv[1:])


@command(
    "SSUBSCRIBE",
    arity=-2,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="7.0.0",
    summary="Listens to shard channels.",
    complexity="O(N) where N is the number of shard channels",
    syntax="shardchannel [shardchannel ...]",
)
def ssubscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.subscribe(ctx, SHARD, argv[1:])


@command(
    "SUNSUBSCRIBE",
    arity=-1,
    flags=_SUBSCRIBING,
    group="pubsub",
    since="7.0.0",
    summary="Stops listening to shard channels, or to all of them.",
    complexity="O(N) where N is the number of shard channels",
    syntax="[shardchannel [shardchannel ...]]",
)
def sunsubscribe(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.unsubscribe(ctx, SHARD, argv[1:])


@command(
    "PUBLISH",
    arity=3,
    flags=_PUBLISHING,
    group="pubsub",
    since="2.0.0",
    summary="Sends a message to a channel; how many clients got it.",
    complexity="O(N+M) where N is the number of the channel's subscribers and M that of all patterns",
    syntax="channel message",
)
def publish(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.publish(argv[1], argv[2])


@command(
    "SPUBLISH",
    arity=3,
    flags=_PUBLISHING,
    group="pubsub",
    since="7.0.0",
    summary="Sends a message to a shard channel; how many clients got it.",
    complexity="O(N) where N is the number of the shard channel's subscribers",
    syntax="shardchannel message",
)
def spublish(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.publish_shard(argv[1], argv[2])


# -- PUBSUB -----------------------------------------------------------------------------------------------------------


@command(
    "PUBSUB",
    arity=-2,
    flags=0,
    group="pubsub",
    since="2.8.0",
    summary="Commands about the state of pub/sub.",
    complexity="Depends on the subcommand.",
)
def pubsub(ctx: Context, argv: list[bytes]) -> object:
    return errors.unknown_subcommand("pubsub", argv[1])


def _names(ctx: Context, kind: int, argv: list[bytes]) -> object:
    if len(argv) > 3:
        return errors.wrong_words(argv)
    return ctx.server.channels.names(kind, argv[2] if len(argv) == 3 else None)


def _numbers(ctx: Context, kind: int, names: list[bytes]) -> object:
    reply: list[object] = []
    for name in names:
        reply += (name, ctx.server.channels.subscribers(kind, name))
    return reply


@command(
    "PUBSUB CHANNELS",
    arity=-2,
    flags=_ASKING,
    group="pubsub",
    since="2.8.0",
    summary="Lists the channels that have subscribers, all or those that fit a pattern.",
    complexity="O(N) where N is the number of channels",
    syntax="[pattern]",
)
def pubsub_channels(ctx: Context, argv: list[bytes]) -> object:
    return _names(ctx, CHANNEL, argv)


@command(
    "PUBSUB NUMSUB",
    arity=-2,
    flags=_ASKING,
    group="pubsub",
    since="2.8.0",
    summary="Counts the subscribers of channels, those by pattern not included.",
    complexity="O(N) where N is the number of channels asked for",
    syntax="[channel [channel ...]]",
)
def pubsub_numsub(ctx: Context, argv: list[bytes]) -> object:
    return _numbers(ctx, CHANNEL, argv[2:])


@command(
    "PUBSUB NUMPAT",
    arity=2,
    flags=_ASKING,
    group="pubsub",
    since="2.8.0",
    summary="Counts the different patterns that clients listen by.",
    complexity="O(1)",
)
def pubsub_numpat(ctx: Context, argv: list[bytes]) -> object:
    return ctx.server.channels.count(PATTERN)


@command(
    "PUBSUB SHARDCHANNELS",
    arity=-2,
    flags=_ASKING,
    group="pubsub",
    since="7.0.0",
    summary="Lists the shard channels that have subscribers, all or those that fit a pattern.",
    complexity="O(N) where N is the number of shard channels",
    syntax="[pattern]",
)
def pubsub_shardchannels(ctx: Context, argv: list[bytes]) -> object:
    return _names(ctx, SHARD, argv)


@command(
    "PUBSUB SHARDNUMSUB",
    arity=-2,
    flags=_ASKING,
    group="pubsub",
    since="7.0.0",
    summary="Counts the subscribers of shard channels.",
    complexity="O(N) where N is the number of shard channels asked for",
    syntax="[shardchannel [shardchannel ...]]",
)
def pubsub_shardnumsub(ctx: Context, argv: list[bytes]) -> object:
    return _numbers(ctx, SHARD, argv[2:])


@command(
    "PUBSUB HELP",
    arity=2,
    flags=LOADING | STALE,
    group="pubsub",
    since="6.2.0",
    summary="Explains the subcommands.",
    complexity="O(1)",
)
def pubsub_help(ctx: Context, argv: list[bytes]) -> object:
    return container_help("pubsub")
