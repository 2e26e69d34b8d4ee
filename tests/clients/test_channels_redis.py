"""Django Channels: both of its layers; messages to channels and groups, a full channel."""

from __future__ import annotations

import asyncio

import pytest

core = pytest.importorskip("channels_redis.core", reason="channels-redis is not installed (extra `clients`)")
pubsub = pytest.importorskip("channels_redis.pubsub", reason="channels-redis is not installed (extra `clients`)")


async def test_messages_reach_channels_and_groups(port: int) -> None:
    layer = core.RedisChannelLayer(hosts=[("127.0.0.1", port)])
    await layer.send("one", {"type": "hello"})
    assert await layer.receive("one") == {"type": "hello"}
    names = [await layer.new_channel() for _ in range(3)]
    for name in names:
        await layer.group_add("all", name)
    await layer.group_discard("all", names[2])
    await layer.group_send("all", {"type": "news"})
    assert [await layer.receive(name) for name in names[:2]] == [{"type": "news"}] * 2
    waiting = asyncio.create_task(layer.receive(names[2]))
    await layer.send(names[2], {"type": "late"})
    assert await waiting == {"type": "late"}
    await layer.close_pools()


async def test_full_channel_takes_no_more(port: int) -> None:
    layer = core.RedisChannelLayer(hosts=[("127.0.0.1", port)], capacity=2)
    for _ in range(2):
        await layer.send("narrow", {"type": "x"})
    with pytest.raises(core.ChannelFull):
        await layer.send("narrow", {"type": "x"})
    await layer.close_pools()


async def test_groups_by_publishing(port: int) -> None:
    layer = pubsub.RedisPubSubChannelLayer(hosts=[("127.0.0.1", port)])
    name = await layer.new_channel()
    await layer.group_add("all", name)
    await layer.group_send("all", {"type": "news"})
    assert await layer.receive(name) == {"type": "news"}
    await layer.flush()
