"""Does anything block the event loop? A watch that a busy machine does not fool.

Problem. The time between two beats of a timer says how long the loop was away, but not why: on two shared cores a
process may wait a second for a processor, and what has piled up meanwhile makes the next turn long. That is nobody's
fault. What counts is the time that one *callback* used up, computing or asleep in a call that blocks.

Method. A thread of ours looks at the loop's thread every few milliseconds. As long as it sees the same callback (the
frame that the loop called) and the loop has not come round in between, it adds up

    computing      the processor time of the loop's thread, by its own clock
    asleep         in the kernel at two looks (state S or D in /proc), with no processor time used in between

and not the time in which the thread was ready to run and had no processor.

A processor that several want does less in a second: caches are shared, the kernel bills its work for others to whoever
runs, and a virtual processor is away for moments that its clock counts. So where more processes want to run than there
are processors, the limit grows in proportion. On a quiet machine it is the limit.

Limits. What happens before the first look at a callback is not counted, so one that hardly exceeds the limit may pass.
Where there is no /proc, only computing is seen.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType

# "The event loop never blocked for more than 100 ms."
LIMIT_S = 0.1
_BEAT_S = 0.005
_LOOK_S = 0.01
# Less processor time than that between two looks: the thread has not run.
_HAS_NOT_RUN_S = 0.0005
# The callback is what these have called, directly (asyncio) or through the loop's own C (uvloop).
_CALLERS = ("asyncio/events.py", "asyncio/runners.py")


def crowd() -> float:
    """How many processes want each processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class LoopWatch:
    """Watches the running loop for the length of an `async with`; `longest_s` and `report` tell what it saw."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        # The longest time that one callback used up, and where it was seen last.
        self.longest_s = 0.0
        self.report = ""
        # Turns of the loop, roughly: no callback lasts longer than one.
        self._beats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)
        self._watched = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._watched)
        self._task = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self._over = threading.Event()

    async def __aenter__(self) -> LoopWatch:
        # The server does the same when it starts: what exists now is not walked by the collector again.
        gc.collect()
        gc.freeze()
        self._beat()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._thread.join)
        gc.unfreeze()

    def check(self) -> None:
        """Fail when the loop was blocked for longer than the limit."""
        limit_s = self.limit_s * crowd()
        assert self.longest_s <= limit_s, f"the event loop was blocked for {self.longest_s:.3f} s at\n{self.report}"

    def _beat(self) -> None:
        self._beats += 1
        self._timer = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)

    # In a thread of its own.
    def _watch(self) -> None:
        seen: tuple[FrameType | None, int] = (None, 0)
        began_s = asleep_s = last_look_s = last_computed_s = 0.0
        was_asleep = False
        while not self._over.wait(_LOOK_S):
            frame = sys._current_frames().get(self._watched)
            callback = _callback(frame)
            now_s, is_asleep = time.monotonic(), self._is_asleep()
            computed_s = time.clock_gettime(self._clock)
            if callback is None or (callback, self._beats) != seen:
                seen = (callback, self._beats)
                began_s, asleep_s = computed_s, 0.0
            else:
                if is_asleep and was_asleep and computed_s - last_computed_s < _HAS_NOT_RUN_S:
                    asleep_s += now_s - last_look_s
                self._note(computed_s - began_s, asleep_s, frame)
            last_look_s, last_computed_s, was_asleep = now_s, computed_s, is_asleep

    def _note(self, computing_s: float, asleep_s: float, frame: FrameType | None) -> None:
        if computing_s + asleep_s > self.longest_s:
            self.longest_s = computing_s + asleep_s
            stack = "".join(traceback.format_stack(frame)[-10:])
            self.report = f"{stack}({computing_s:.3f} s computing, {asleep_s:.3f} s asleep)"

    def _is_asleep(self) -> bool:
        try:
            # The name before it is in parentheses, and may contain anything.
            return self._task.read_text().rpartition(")")[2].split()[0] in ("S", "D")
        except OSError:
            return False


def _callback(frame: FrameType | None) -> FrameType | None:
    """The frame that the loop has called; None while the loop itself is at work, or waits."""
    while frame is not None and frame.f_back is not None:
        if frame.f_back.f_code.co_filename.endswith(_CALLERS):
            return None if frame.f_code.co_filename.endswith(_CALLERS) else frame
        frame = frame.f_back
    return None
