"""Audience: those who listen, wired to the running server. Pub/sub, keyspace notifications, client-side caching.

What each of them is, is in a module of its own; here they meet the connections, the loop, CONFIG and INFO.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from server.commands.context import CHANNEL, PATTERN, SHARD
from server.config import ServerConfig
from server.dispatch import Dispatch
from server.effects import Effects
from server.event_classes import KEY_MISS, parse_events, spell_events
from server.keyspace.keyspace import Keyspace
from server.net.connection import Peers
from server.notifications import Notifications
from server.pubsub import PubSub
from server.session import Session
from server.settings import Setting, whole_number

_INT64_MAX: Final = (1 << 63) - 1


class Audience:
    """Subscribers, observers of the keyspace, clients with caches of their own."""

    __slots__ = ("_dispatch", "_peers", "effects", "notifications", "pubsub", "tracking")

    def __init__(self, config: ServerConfig, keyspace: Keyspace, dispatch: Dispatch, peers: Peers) -> None:
        self._dispatch = dispatch
        self._peers = peers
        self.pubsub = PubSub()
        self.notifications = Notifications(self.pubsub)
        self.tracking = dispatch.tracking
        self.tracking.find = self._client
        self.tracking.later = _soon
        self.effects = Effects(keyspace, self.notifications, self.tracking)
        self.configure(config)

    def configure(self, config: ServerConfig) -> None:
        """What the configuration file says, now or after a reload."""
        self.tell_events(parse_events(config.notify_keyspace_events))
        self._set_max_keys(config.tracking_table_max_keys)

    def _client(self, client_id: int) -> Session | None:
        connection = self._peers.by_id.get(client_id)
        return connection.session if connection is not None else None

    def tell_events(self, flags: int) -> None:
        """Tell keyspace events of these classes from now on."""
        self.notifications.flags = flags
        self.effects.refresh()
        self._dispatch.tell_misses(self.notifications.wants(KEY_MISS))

    def settings(self) -> list[Setting]:
        """What CONFIG may ask and change."""
        return [
            Setting(
                "notify-keyspace-events",
                lambda: spell_events(self.notifications.flags),
                parse_events,
                self._set_events,
            ),
            Setting(
                "tracking-table-max-keys",
                lambda: str(self.tracking.max_keys),
                whole_number(0, _INT64_MAX),
                self._set_max_keys,
            ),
        ]

    def _set_events(self, value: object) -> None:
        assert isinstance(value, int)
        self.tell_events(value)

    def _set_max_keys(self, value: object) -> None:
        assert isinstance(value, int)
        self.tracking.max_keys = value
        self.tracking.make_room()

    def info_clients(self) -> Iterable[tuple[str, object]]:
        """Fields of INFO clients."""
        sessions = [connection.session for connection in self._peers.by_id.values()]
        yield "pubsub_clients", sum(session.is_subscribed() for session in sessions)
        yield "tracking_clients", len(self.tracking.clients)

    def info_stats(self) -> Iterable[tuple[str, object]]:
        """Fields of INFO stats."""
        yield "pubsub_channels", self.pubsub.count(CHANNEL)
        yield "pubsub_patterns", self.pubsub.count(PATTERN)
        yield "pubsubshard_channels", self.pubsub.count(SHARD)
        yield "pubsub_messages_published", self.pubsub.published
        yield "pubsub_messages_delivered", self.pubsub.delivered
        yield "tracking_total_keys", len(self.tracking.table)
        yield "tracking_total_items", self.tracking.items
        yield "tracking_total_prefixes", self.tracking.prefixes


def _soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)
