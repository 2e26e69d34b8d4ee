"""Pub/sub: who is subscribed to what, and the way of a message to them.

Three spaces of names that never meet: channels, patterns, shard channels. Each name has its subscribers in the order in
which they came; a message costs O(subscribers of its channel + patterns). It is encoded once for each protocol version
and handed to every subscriber as the same bytes.

Nothing that is delivered changes who listens: a connection that is cut for being slow is lost when the loop next turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from protocol.encoder import encode
from protocol.replies import Push
from server.commands.context import CHANNEL, PATTERN, SHARD, Context, Subscriptions
from server.encoded import Encoded
from server.keyspace.globbing import Glob

# By CHANNEL, PATTERN, SHARD.
_SUBSCRIBED: Final = (b"subscribe", b"psubscribe", b"ssubscribe")
_UNSUBSCRIBED: Final = (b"unsubscribe", b"punsubscribe", b"sunsubscribe")

Subscribers = dict[Context, None]


class PubSub:
    """All subscriptions of all clients (the Channels protocol)."""

    __slots__ = ("_globs", "_named", "delivered", "published")

    def __init__(self) -> None:
        # By CHANNEL, PATTERN, SHARD: name → subscribers.
        self._named: tuple[dict[bytes, Subscribers], ...] = ({}, {}, {})
        self._globs: dict[bytes, Glob] = {}
        # Messages published by clients, and copies handed out, events of the keyspace included.
        self.published = 0
        self.delivered = 0

    # -- subscribing --------------------------------------------------------------------------------------------------

    def subscribe(self, client: Context, kind: int, names: Sequence[bytes]) -> object:
        """Subscribe a client; the confirmations, one for each name."""
        own = client.subscriptions
        if own is None:
            own = client.subscriptions = Subscriptions()
        confirmations: list[bytes] = []
        for name in names:
            if name not in own.named[kind]:
                own.named[kind][name] = None
                self._enter(client, kind, name)
            confirmations.append(encode(Push([_SUBSCRIBED[kind], name, own.count(kind)]), client.protocol))
        client.refresh_state()
        return Encoded(b"".join(confirmations))

    def unsubscribe(self, client: Context, kind: int, names: Sequence[bytes]) -> object:
        """Unsubscribe a client from these names, or from all of the kind when there are none; the confirmations."""
        own = client.subscriptions or Subscriptions()
        confirmations: list[bytes] = []
        for name in names or list(own.named[kind]) or (None,):
            if name is not None and name in own.named[kind]:
                del own.named[kind][name]
                self._leave(client, kind, name)
            confirmations.append(encode(Push([_UNSUBSCRIBED[kind], name, own.count(kind)]), client.protocol))
        if not own:
            client.subscriptions = None
        client.refresh_state()
        return Encoded(b"".join(confirmations))

    def leave(self, client: Context) -> None:
        """The client has gone, or was reset: it is subscribed to nothing, and hears nothing of that."""
        own = client.subscriptions
        if own is None:
            return
        client.subscriptions = None
        for kind in (CHANNEL, PATTERN, SHARD):
            for name in own.named[kind]:
                self._leave(client, kind, name)

    def _enter(self, client: Context, kind: int, name: bytes) -> None:
        subscribers = self._named[kind].get(name)
        if subscribers is None:
            subscribers = self._named[kind][name] = {}
            if kind == PATTERN:
                self._globs[name] = Glob(name)
        subscribers[client] = None

    def _leave(self, client: Context, kind: int, name: bytes) -> None:
        subscribers = self._named[kind][name]
        del subscribers[client]
        if not subscribers:
            del self._named[kind][name]
            if kind == PATTERN:
                del self._globs[name]

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, channel: bytes, message: bytes) -> int:
        """Send a client's message to a channel's subscribers and to those of the patterns that it fits; how many."""
        self.published += 1
        return self.announce(channel, message)

    def publish_shard(self, channel: bytes, message: bytes) -> int:
        """The same in the space of shard channels, which knows no patterns."""
        self.published += 1
        subscribers = self._named[SHARD].get(channel)
        return self._tell(subscribers, (b"smessage", channel, message)) if subscribers else 0

    def announce(self, channel: bytes, message: bytes) -> int:
        """Send what the server itself has to say; how many hear it."""
        told = 0
        subscribers = self._named[CHANNEL].get(channel)
        if subscribers:
            told = self._tell(subscribers, (b"message", channel, message))
        for pattern, glob in self._globs.items():
            if glob.matches(channel):
                told += self._tell(self._named[PATTERN][pattern], (b"pmessage", pattern, channel, message))
        return told

    def _tell(self, subscribers: Subscribers, parts: tuple[bytes, ...]) -> int:
        resp2 = resp3 = b""
        message = Push(parts)
        for client in subscribers:
            if client.protocol == 2:
                resp2 = resp2 or encode(message, 2)
                client.deliver(resp2)
            else:
                resp3 = resp3 or encode(message, 3)
                client.deliver(resp3)
        self.delivered += len(subscribers)
        return len(subscribers)

    # -- asking -------------------------------------------------------------------------------------------------------

    def names(self, kind: int, pattern: bytes | None) -> list[bytes]:
        """The names of a kind that have subscribers, all or those that fit a glob pattern."""
        names: Iterable[bytes] = self._named[kind]
        if pattern is not None:
            glob = Glob(pattern)
            names = filter(glob.matches, names)
        return list(names)

    def subscribers(self, kind: int, name: bytes) -> int:
        """How many clients are subscribed to exactly this name."""
        return len(self._named[kind].get(name, ()))

    def count(self, kind: int) -> int:
        """How many names of a kind have subscribers."""
        return len(self._named[kind])
