"""Throughput: what goes through the server, altogether and per second of late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from server.commands.spec import called
from server.net.connection import Peers

# Samples between which the rates are taken: taken once a second, so over the last two.
_SAMPLES: Final = 3


class Totals(NamedTuple):
    """Counted since the start, or since CONFIG RESETSTAT."""

    commands: int
    bytes_in: int
    bytes_out: int


class Throughput:
    """Samples of the totals, from which INFO's `instantaneous_…` are told."""

    __slots__ = ("_peers", "_samples")

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        # Server milliseconds, and the totals then.
        self._samples: deque[tuple[int, Totals]] = deque(maxlen=_SAMPLES)

    def totals(self) -> Totals:
        """What has gone through so far. O(connections)."""
        peers = self._peers
        open_now = peers.by_id.values()
        return Totals(
            sum([spec.calls for spec in called()]),
            peers.bytes_in + sum([peer.bytes_in for peer in open_now]),
            peers.bytes_out + sum([peer.bytes_out for peer in open_now]),
        )

    def sample(self, now_ms: int) -> None:
        """Note the totals, once a second."""
        self._samples.append((now_ms, self.totals()))

    def forget(self) -> None:
        """The totals begin anew."""
        self._samples.clear()

    def info(self) -> Iterable[tuple[str, object]]:
        """The rates, as fields of INFO stats: commands, and KiB in and out."""
        commands = bytes_in = bytes_out = 0.0
        if len(self._samples) > 1:
            (began_ms, first), (ended_ms, last) = self._samples[0], self._samples[-1]
            seconds = max(1, ended_ms - began_ms) / 1000
            commands, bytes_in, bytes_out = [
                (after - before) / seconds for before, after in zip(first, last, strict=True)
            ]
        yield "instantaneous_ops_per_sec", round(commands)
        yield "instantaneous_input_kbps", f"{bytes_in / 1024:.2f}"
        yield "instantaneous_output_kbps", f"{bytes_out / 1024:.2f}"
