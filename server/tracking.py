"""Tracking: clients with caches of their own hear of every key that is no longer what they read (CLIENT TRACKING).

Two ways. By default a client hears once of each key that it has read since it last heard of it: the table holds, for
each such key, the numbers of the clients. With BCAST nothing is remembered; the client hears of every changed key under
its prefixes, gathered until the loop has served what is ready.

What counts as a change: a command's, an expiry, an eviction, an emptied memory, and whatever makes the copy of a row
void (another writer in the database, CACHE.INVALIDATE, BUMP, UNTAG, PURGE).

The race that matters. A read that waits for the store (1) asks for the row, (2) the row changes, (3) the answer from
before the change arrives and is given to the client, but not kept. Remembered at (3), the client would never hear of
(2). So a read that waits is a Reading from the moment at which it begins to wait; what changes meanwhile is told right
behind its reply.

Numbers, not clients, stand in the table: a client that leaves stays in it until its keys change, as in Redis, and its
number is nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from protocol.encoder import encode
from protocol.replies import Push
from server.commands.context import Context, TrackingMode
from server.keyspace.database import Database

# Redis's default: a key costs some hundred bytes.
DEFAULT_MAX_KEYS: Final = 1_000_000
# Where a RESP2 client that is redirected to listens.
_CHANNEL: Final = b"__redis__:invalidate"
# Keys that leave a full table at once. The oldest stand at the front of the dictionary, behind the places of those that
# left before; a batch pays once for passing these.
_LEAVING: Final = 128


class Reading:
    """The keys of a read that waits for a store, and those of them that have changed since."""

    __slots__ = ("changed", "client", "keys")

    def __init__(self, client: Context, keys: Iterable[bytes]) -> None:
        self.client = client
        self.keys = frozenset(keys)
        self.changed: set[bytes] = set()


class Broadcast:
    """One prefix of BCAST clients: who listens, and what has changed since they were last told."""

    __slots__ = ("clients", "keys")

    def __init__(self) -> None:
        self.clients: dict[int, Context] = {}
        # Key → the client that changed it; None: one that does not track, or several.
        self.keys: dict[bytes, Context | None] = {}


class Tracking:
    """The table of keys that clients have read, and the clients that want to hear (the Tracker protocol)."""

    __slots__ = ("_broadcasts", "_gathering", "_readings", "changed_audience", "clients", "find", "invalidations",
                 "items", "later", "max_keys", "running", "table")  # fmt: skip

    def __init__(self) -> None:
        # Key → number of the client that has read it, or several.
        self.table: dict[bytes, int | set[int]] = {}
        # Pairs of key and client in the table.
        self.items = 0
        # Messages that told a client to forget something.
        self.invalidations = 0
        # More keys than this leave the table, their clients told as if they had changed; 0: no limit.
        self.max_keys = DEFAULT_MAX_KEYS
        # Those that track, by number.
        self.clients: dict[int, Context] = {}
        self._broadcasts: dict[bytes, Broadcast] = {}
        self._readings: set[Reading] = set()
        # Broadcast keys are to be sent when the loop next turns.
        self._gathering = False
        # The tracking client whose command is at work: its own changes may be no news to it.
        self.running: Context | None = None
        # Set by whoever knows the connections and the loop: a client by its number; a call when the loop next turns.
        self.find: Callable[[int], Context | None] = self.clients.get
        self.later: Callable[[Callable[[], None]], object] | None = None
        # Called when the first client begins to track and when the last one stops.
        self.changed_audience: Callable[[], None] | None = None

    # -- who tracks ---------------------------------------------------------------------------------------------------

    def turn_on(self, client: Context, mode: TrackingMode) -> None:
        """A client tracks, or does it in another way; its mode has been checked."""
        client.tracking = mode
        self.clients[client.client_id] = client
        for prefix in mode.prefixes if mode.broadcasts else ():
            self._broadcasts.setdefault(prefix, Broadcast()).clients[client.client_id] = client
        client.refresh_state()
        if self.changed_audience is not None and len(self.clients) == 1:
            self.changed_audience()

    def turn_off(self, client: Context) -> None:
        """A client tracks no longer, or is gone."""
        mode = client.tracking
        if mode is None:
            return
        client.tracking = None
        self.clients.pop(client.client_id, None)
        for prefix in mode.prefixes:
            broadcast = self._broadcasts[prefix]
            del broadcast.clients[client.client_id]
            if not broadcast.clients:
                del self._broadcasts[prefix]
        self._readings = {reading for reading in self._readings if reading.client is not client}
        client.refresh_state()
        if not self.clients:
            # Nobody is left who could be told, so nothing need be remembered.
            self.table.clear()
            self.items = 0
            if self.changed_audience is not None:
                self.changed_audience()

    @property
    def prefixes(self) -> int:
        """Prefixes that BCAST clients listen by."""
        return len(self._broadcasts)

    # -- what they read -----------------------------------------------------------------------------------------------

    def remember(self, client: Context, keys: Iterable[bytes]) -> None:
        """A client has read these keys."""
        number = client.client_id
        table = self.table
        for key in keys:
            known = table.get(key)
            if known is None:
                table[key] = number
            elif isinstance(known, set):
                if number in known:
                    continue
                known.add(number)
            elif known == number:
                continue
            else:
                table[key] = {known, number}
            self.items += 1
        self.make_room()

    def make_room(self) -> None:
        """Let the oldest keys go while the table is over its limit. O(1) for each key, amortised."""
        excess = len(self.table) - self.max_keys
        if not self.max_keys or excess <= 0:
            return
        for key in list(islice(self.table, max(excess, min(_LEAVING, self.max_keys >> 6)))):
            self._forget(key)

    def begin_reading(self, client: Context, keys: Iterable[bytes]) -> Reading:
        """A client's read begins to wait."""
        reading = Reading(client, keys)
        self._readings.add(reading)
        return reading

    def end_reading(self, client: Context, reading: Reading) -> None:
        """Its reply is there: remember the keys, and tell the client of those that have changed since it began."""
        self._readings.discard(reading)
        if client.tracking is None:
            return
        self.remember(client, reading.keys - reading.changed)
        for key in sorted(reading.changed):
            self._send(client, [key])

    # -- what happens to keys -----------------------------------------------------------------------------------------

    def changed(self, key: bytes) -> None:
        """A key is not what it was, for whatever reason."""
        if self._broadcasts:
            self._gather(key)
        for reading in self._readings:
            if key in reading.keys and not self._is_echo(reading.client):
                reading.changed.add(key)
        if key in self.table:
            self._forget(key)

    def appeared(self, key: bytes) -> None:
        """A key that memory did not hold was loaded: news for who has read that there is none."""
        if key in self.table:
            self._forget(key)

    def emptied(self) -> None:
        """Memory was emptied: everybody is to forget everything."""
        self.table.clear()
        self.items = 0
        for reading in self._readings:
            reading.changed |= reading.keys
        for client in list(self.clients.values()):
            self._send(client, None)

    def voided(self, database: Database, head: bytes) -> None:
        """Copies of rows under a prefix may have become void, all at once. O(keys in the table)."""
        for reading in self._readings:
            reading.changed.update(key for key in reading.keys if key.startswith(head))
        for key in [key for key in self.table if key.startswith(head)]:
            entry = database.held(key)
            if entry is None or entry.lease is None or entry.lease.is_void():
                self._forget(key)
        # Who broadcasts is told without a list of keys: nobody knows which of them it has.
        told: dict[int, Context] = {}
        for prefix, broadcast in self._broadcasts.items():
            if prefix.startswith(head) or head.startswith(prefix):
                told.update(broadcast.clients)
        for client in told.values():
            self._send(client, None)

    def _forget(self, key: bytes) -> None:
        # Take a key out of the table and tell those who have read it.
        known = self.table.pop(key)
        numbers = known if isinstance(known, set) else (known,)
        self.items -= len(numbers)
        for number in numbers:
            client = self.clients.get(number)
            if client is None or client.tracking is None or client.tracking.broadcasts:
                continue
            if not self._is_echo(client):
                self._send(client, [key])

    def _is_echo(self, client: Context) -> bool:
        # The client's own change, of which it does not want to hear?
        return client is self.running and client.tracking is not None and client.tracking.noloop

    # -- broadcasts ---------------------------------------------------------------------------------------------------

    def _gather(self, key: bytes) -> None:
        for prefix, broadcast in self._broadcasts.items():
            if not key.startswith(prefix):
                continue
            if key in broadcast.keys and broadcast.keys[key] is not self.running:
                broadcast.keys[key] = None
            else:
                broadcast.keys[key] = self.running
            if not self._gathering and self.later is not None:
                self._gathering = True
                self.later(self.send_gathered)

    def send_gathered(self) -> None:
        """Tell BCAST clients what has changed since the last time."""
        self._gathering = False
        for _, broadcast in sorted(self._broadcasts.items()):
            if not broadcast.keys:
                continue
            keys, broadcast.keys = broadcast.keys, {}
            everything = list(keys)
            for client in list(broadcast.clients.values()):
                assert client.tracking is not None
                news = everything
                if client.tracking.noloop:
                    news = [key for key, writer in keys.items() if writer is not client]
                if news:
                    self._send(client, news)

    # -- telling ------------------------------------------------------------------------------------------------------

    def _send(self, client: Context, keys: list[bytes] | None) -> None:
        # None: everything.
        mode = client.tracking
        assert mode is not None
        listener: Context | None = client
        if mode.redirect:
            listener = self.find(mode.redirect)
            if listener is None:
                mode.is_broken = True
                if client.protocol > 2:
                    client.deliver(encode(Push([b"tracking-redir-broken", mode.redirect]), client.protocol))
                return
        assert listener is not None
        self.invalidations += 1
        if listener.protocol > 2:
            listener.deliver(encode(Push([b"invalidate", keys]), listener.protocol))
        elif mode.redirect and listener.is_subscribed():
            listener.deliver(encode([b"message", _CHANNEL, keys], listener.protocol))
