"""Entry: one key's value and everything the server remembers about it; and Home, the place where it is counted.

There may be millions of entries, so one has four references and nothing else: its key, its value, a Seat and a Life.
What a seat and a life say is the same for very many entries, and these share them: all that were last used in one
second share a life, all that one shard counts, and that are as popular with its policy, share a seat. A hit exchanges
two references and makes no object. Shared ones are never changed. A plain string without a time to live is no more
than that. What a life can not say of others, too (a deadline, a weight that is no matter of lengths, a lease), is in a
life of the entry's own; and so is a seat of its own, where a policy numbers its nodes.

The rest of the server need not know: it reads and sets `deadline_ms`, `lease`, `freq` … of the entry. Only the hot
roads look at seats and lives themselves.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from eviction.policy import HITS, PARKED, Node
from persistence.change import NEVER
from persistence.lease import Lease
from server.keyspace.values.kinds import kind_of
from server.keyspace.weights import STRING_OVERHEAD

# The largest `where` of a policy that has only queues (the smallest is PARKED), and the most hits that are counted in
# seats that are shared: what `auto` counts to. With more of either, few have the same.
_LAST_QUEUE: Final = 2
_SHARED_HITS: Final = 15


class Home:
    """What an entry's shard does for it. A bare Home is that of entries outside every database, and does nothing."""

    __slots__ = ("_counts_to", "_rows", "entrance", "hit_cap")

    def __init__(self) -> None:
        # 0: nobody wants to know of hits; > 0: they are counted in the entry up to here; < 0: `touched` is called.
        self.hit_cap = 0
        # The same, whatever CLIENT NO-TOUCH makes of it for one command.
        self._counts_to = 0
        # The seats that are shared: by hits a list of them, by `where`, with PARKED as the last.
        self._rows: dict[int, list[SharedSeat]] = {}
        # The one of newcomers without a life of their own.
        self.entrance = self.row(0, False)[0]

    def _count_to(self, hit_cap: int) -> None:
        # Hits matter from now on; there is nobody yet to have had one.
        self.hit_cap = hit_cap
        self._counts_to = hit_cap
        self._rows = {}
        self.entrance = self.row(0, False)[0]

    def row(self, freq: int, heeded: bool) -> list[SharedSeat]:
        """By `where`, the seats of all entries with so many hits; `heeded`: of those with a life of their own, which
        has to be looked at. O(1)."""
        number = freq << 1 | heeded
        row = self._rows.get(number)
        if row is None:
            row = self._rows[number] = []
            for where in (0, 1, _LAST_QUEUE, PARKED):
                row.append(SharedSeat(self, where, freq, row))
            cap = self._counts_to
            if not heeded and (cap == 0 or freq == cap):
                for seat in row:
                    seat.after = seat
            elif not heeded and freq < cap and freq < _SHARED_HITS:
                for seat in row:
                    seat.after = self.row(freq + 1, False)[seat.where]
        return row

    def touched(self, entry: Entry) -> None:
        """The entry was used; called where `hit_cap` says so."""

    def release(self, entry: Entry) -> None:
        """The entry has left its table, for whatever reason."""

    def unlease(self, entry: Entry) -> None:
        """The entry stays but is no longer a copy of a row, or its next lease is still to come."""

    def lapse(self, entry: Entry) -> None:
        """The entry's time is over, and it stays to be served stale."""

    def grew(self, entry: Entry, delta: int) -> None:
        """The entry's value was changed, and weighs so many bytes more."""

    def deadline_moved(self, entry: Entry) -> None:
        """The entry's deadline changed."""

    def unpinned(self, entry: Entry) -> None:
        """The entry's unsaved change reached its store."""


class Seat:
    """Which shard counts an entry, where its policy has it, and how often it was hit."""

    __slots__ = ("after", "freq", "home", "where")

    def __init__(self, home: Home, where: int, freq: int) -> None:
        self.home = home
        # As in Node.
        self.where = where
        self.freq = freq
        # The seat after a hit; None: that is not known beforehand, or there is more to a hit than that.
        self.after: Seat | None = None


class SharedSeat(Seat):
    """The seat of all entries of which the same is known."""

    __slots__ = ("row",)

    def __init__(self, home: Home, where: int, freq: int, row: list[SharedSeat]) -> None:
        self.home = home
        self.where = where
        self.freq = freq
        self.after = None
        # Those which differ in `where` alone, by that.
        self.row = row


class OwnSeat(Seat):
    """The seat of one entry, which changes with it."""

    __slots__ = ()


class Life:
    """When an entry was last used; and of one with a life of its own, what it weighs and how long it lasts."""

    __slots__ = ("access_s", "deadline_ms", "weight", "wheel_s")

    def __init__(self, access_s: int, weight: int, deadline_ms: int) -> None:
        # The server's second of the last access (OBJECT IDLETIME).
        self.access_s = access_s
        # Bytes; 0: the life is shared, and the weight of such an entry follows from its key and value.
        self.weight = weight
        # Logical expiry in server milliseconds; NEVER for none.
        self.deadline_ms = deadline_ms
        # The second under which the expiry wheel holds the key; 0 when it does not.
        self.wheel_s = 0


class LeasedLife(Life):
    """The life of a copy of a row, which may have to be looked at before its deadline."""

    __slots__ = ("lease", "soft_ms")

    def __init__(self, access_s: int, weight: int, deadline_ms: int, soft_ms: int, lease: Lease | None) -> None:
        self.access_s = access_s
        self.weight = weight
        self.deadline_ms = deadline_ms
        self.wheel_s = 0
        # As in Entry.
        self.soft_ms = soft_ms
        self.lease = lease


def moment(now_ms: int) -> Life:
    """The life of everything that is used in this second and has no other."""
    return Life(now_ms // 1000, 0, NEVER)


# Of entries that no shard counts: staged copies, and what has left memory.
NOWHERE: Final = Home()
# The weight of a staged copy, which is not weighed. (0 would mean that its life is not its own.)
UNWEIGHED: Final = 1


# Millions of them, and no circle that would have to be found leads through one: shards keep their entries until those
# leave.
@mypyc_attr(acyclic=True)
class Entry(Node):
    """A key in memory.

    `soft_ms` decides the fast road: as long as the clock is before it, a read needs nobody's permission. For plain keys
    it equals the deadline; for managed ones it may come earlier (refresh), and the engine looks before it is served.
    """

    __slots__ = ("life", "seat", "value")

    def __init__(self, key: bytes, value: object, life: Life, seat: Seat) -> None:
        self.key = key
        # bytes for strings, dict[bytes, bytes] for hashes; the others have types of their own (values/kinds.py).
        self.value = value
        self.life = life
        self.seat = seat

    # -- the policy's part --------------------------------------------------------------------------------------------

    @property
    def weight(self) -> int:
        """Estimated bytes (weights.py)."""
        weight = self.life.weight
        if weight:
            return weight
        # As in weights.py.
        return STRING_OVERHEAD + len(self.key) + len(self.value)  # type: ignore[arg-type]

    @property
    def where(self) -> int:
        """The policy's mark."""
        return self.seat.where

    @where.setter
    def where(self, where: int) -> None:
        seat = self.seat
        if isinstance(seat, SharedSeat) and PARKED <= where <= _LAST_QUEUE:
            self.seat = seat.row[where]
        else:
            self.sit(seat.home, where, seat.freq)

    @property
    def freq(self) -> int:
        """Hits, as far as they are counted."""
        return self.seat.freq

    @freq.setter
    def freq(self, freq: int) -> None:
        seat = self.seat
        self.sit(seat.home, seat.where, freq)

    @property
    def home(self) -> Home:
        """The shard that counts it, and that orders it for eviction and expiry."""
        return self.seat.home

    def sit(self, home: Home, where: int, freq: int) -> None:
        """From now on this shard counts the entry, and its policy knows this of it."""
        seat = self.seat
        if PARKED <= where <= _LAST_QUEUE and freq & HITS <= _SHARED_HITS:
            self.seat = home.row(freq, self.life.weight != 0)[where]
        elif isinstance(seat, OwnSeat) and seat.home is home:
            seat.where = where
            seat.freq = freq
        else:
            self.seat = OwnSeat(home, where, freq)

    # -- its value and its time ---------------------------------------------------------------------------------------

    @property
    def kind(self) -> int:
        """persistence.change.STRING …"""
        return kind_of(self.value)

    def own_life(self) -> Life:
        """A life that may be changed."""
        life = self.life
        if not life.weight:
            life = self.life = Life(life.access_s, self.weight, NEVER)
            self.sit(self.seat.home, self.seat.where, self.seat.freq)
        return life

    def share_life(self, life: Life) -> None:
        """It is a plain string now that does not expire."""
        self.life = life
        self.sit(self.seat.home, self.seat.where, self.seat.freq)

    def _leased_life(self) -> LeasedLife:
        life = self.own_life()
        if isinstance(life, LeasedLife):
            return life
        leased = LeasedLife(life.access_s, life.weight, life.deadline_ms, life.deadline_ms, None)
        leased.wheel_s = life.wheel_s
        self.life = leased
        return leased

    @property
    def access_ms(self) -> int:
        """The beginning of the second of the last access, in server milliseconds."""
        return self.life.access_s * 1000

    @access_ms.setter
    def access_ms(self, access_ms: int) -> None:
        if self.life.weight:
            self.life.access_s = access_ms // 1000
        else:
            self.life = moment(access_ms)

    @property
    def deadline_ms(self) -> int:
        """Logical expiry in server milliseconds; NEVER for none."""
        return self.life.deadline_ms

    @deadline_ms.setter
    def deadline_ms(self, deadline_ms: int) -> None:
        if deadline_ms != self.life.deadline_ms:
            self.own_life().deadline_ms = deadline_ms

    @property
    def soft_ms(self) -> int:
        """From when on a read has to ask somebody."""
        life = self.life
        return life.soft_ms if isinstance(life, LeasedLife) else life.deadline_ms

    @soft_ms.setter
    def soft_ms(self, soft_ms: int) -> None:
        life = self.life
        if isinstance(life, LeasedLife):
            life.soft_ms = soft_ms
        elif soft_ms != life.deadline_ms:
            self._leased_life().soft_ms = soft_ms

    @property
    def lease(self) -> Lease | None:
        """Set for keys under a prefix rule with a store."""
        life = self.life
        return life.lease if isinstance(life, LeasedLife) else None

    @lease.setter
    def lease(self, lease: Lease | None) -> None:
        if lease is not None or isinstance(self.life, LeasedLife):
            self._leased_life().lease = lease

    def expires(self) -> bool:
        """Has the key a time to live?"""
        return self.life.deadline_ms != NEVER

    def due_ms(self) -> int:
        """When somebody must look at the entry: it lapses, or, if it has, is gone."""
        life = self.life
        gone_ms = self.gone_ms()
        if isinstance(life, LeasedLife) and life.lease is not None and not life.lease.lapsed:
            return min(life.deadline_ms, gone_ms)
        return gone_ms

    def gone_ms(self) -> int:
        """When the entry may leave memory by itself: after the last moment in which anybody may be served from it."""
        life = self.life
        lease = self.lease
        if lease is None:
            return life.deadline_ms
        if lease.until_ms == life.deadline_ms:
            # A mapped row's copy: past its deadline it may still be served stale.
            return lease.stale_until_ms
        # A generic row's own deadline is data; nothing is served after it.
        return min(lease.stale_until_ms, life.deadline_ms)


def staged_entry(key: bytes, value: object, deadline_ms: int, now_ms: int) -> Entry:
    """An entry outside every database."""
    return Entry(key, value, Life(now_ms // 1000, UNWEIGHED, deadline_ms), NOWHERE.row(0, True)[0])
