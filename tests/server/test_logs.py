"""Logs: one line per event, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import pytest
from redis.exceptions import ResponseError

from server.logs import FORMATS, LEVELS, set_up_logging
from tests.support.node import client_of, running_node

LogTo = Callable[[str, str], io.StringIO]


@pytest.fixture
def log_to() -> Iterator[LogTo]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def start(level: str, log_format: str) -> io.StringIO:
        stream = io.StringIO()
        set_up_logging(level, log_format, stream)
        return stream

    yield start
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)


def test_text_line(log_to: LogTo) -> None:
    stream = log_to("info", "text")
    logging.getLogger("server.app").info("ready", extra={"addresses": ["127.0.0.1:6379", "/run/x"], "pid": 7})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    server\.app: ready addresses=127\.0\.0\.1:6379,/run/x pid=7\n",
        stream.getvalue(),
    )


def test_json_line(log_to: LogTo) -> None:
    stream = log_to("info", "json")
    logging.getLogger("server.app").warning("%d left", 3, extra={"keys": ["a"], "event": "other", "store": object()})
    event = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (event["level"], event["logger"], event["event"]) == ("warning", "server.app", "3 left")
    assert event["keys"] == ["a"]
    assert event["event_"] == "other"
    assert event["store"].startswith("<object")


@pytest.mark.parametrize("log_format", FORMATS)
def test_event_is_one_line_whatever_a_client_sent(log_to: LogTo, log_format: str) -> None:
    stream = log_to("info", log_format)
    hostile = "a\nb\r\x1b[2J\x00\x85\u2028\u2029\udc80"
    logging.getLogger("x").error("key %s", hostile, extra={"name_": hostile})
    line = stream.getvalue()
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", line)


@pytest.mark.parametrize("log_format", FORMATS)
def test_traceback_stays_on_the_line(log_to: LogTo, log_format: str) -> None:
    stream = log_to("info", log_format)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = stream.getvalue()
    assert len(line.splitlines()) == 1
    assert "Traceback" in line
    assert "ValueError: first" in line


def test_level_is_a_threshold(log_to: LogTo) -> None:
    stream = log_to("warning", "text")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_known_to_logging(log_to: LogTo, level: str) -> None:
    log_to(level, "text")
    assert logging.getLogger().level == getattr(logging, level.upper())


def test_setting_up_twice_logs_once(log_to: LogTo) -> None:
    first = log_to("info", "text")
    second = log_to("info", "json")
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_pythons_warnings_are_events(log_to: LogTo) -> None:
    stream = log_to("info", "text")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old habit", stacklevel=1)
        logging.captureWarnings(False)
    assert stream.getvalue().count("\n") == 1
    assert "WARNING py.warnings: " in stream.getvalue()


async def test_level_is_changed_while_the_server_runs(log_to: LogTo) -> None:
    stream = log_to("info", "text")
    async with running_node("") as node, client_of(node, decode_responses=True) as client:
        for name, level, shown in (("debug", 10, "debug"), ("verbose", 20, "notice"), ("ERROR", 40, "error")):
            assert await client.config_set("loglevel", name)
            assert logging.getLogger().level == level
            assert await client.config_get("loglevel") == {"loglevel": shown}
        with pytest.raises(ResponseError, match="must be one of the following: verbose, notice, debug, info"):
            await client.config_set("loglevel", "loud")
        assert logging.getLogger().level == logging.ERROR
    # The end is an INFO.
    assert "stopped cleanly" not in stream.getvalue()
