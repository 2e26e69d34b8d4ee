"""Waiting for a condition, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from persistence.parked import Parked
from server.session import Session


async def eventually(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Return when a condition (plain or awaitable) holds; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        await asyncio.sleep(0.005)


async def finished(session: Session) -> object:
    """The reply of the command for which the session waits, as a connection gets it."""
    while True:
        waiting, session.waiting = session.waiting, None
        assert waiting is not None
        if not isinstance(waiting, Parked):
            return await waiting
        turn: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        waiting.answer_to(partial(_tell, session, turn))
        try:
            reply = await turn
        except asyncio.CancelledError:
            _forget(session)
            raise
        if session.waiting is None:
            return reply


def _tell(session: Session, turn: asyncio.Future[object], reply: object) -> None:
    if turn.done():
        _forget(session)
    else:
        turn.set_result(reply)


def _forget(session: Session) -> None:
    # Nobody waits any more for what is left of the command.
    waiting, session.waiting = session.waiting, None
    if waiting is not None:
        waiting.close()
