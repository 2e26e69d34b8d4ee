"""The files that show a configuration: complete, current, and loadable."""

from __future__ import annotations

import re
import socket
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from runpy import run_path

import pytest
from pydantic import BaseModel

from server.config import Config, load_config, parse_config
from server.config_model import (
    HttpModel,
    JournalModel,
    MemoryModel,
    PrefixModel,
    ServerModel,
    StoreModel,
)
from server.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"
ENV = {"DB_PASSWORD": "secret"}
SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("[server]", ServerModel),
    ("[memory]", MemoryModel),
    ("[journal]", JournalModel),
    ("[http]", HttpModel),
    ("[stores.main]", StoreModel),
    ('[prefix."user:{id:int}"]', PrefixModel),
]
# Prefix keys that have no default worth showing: the example shows a real rule.
SHOWN = {"store", "read", "write", "table", "value"}


def section(header: str) -> str:
    text = EXAMPLE.read_text()
    begin = text.index(f"\n{header}\n") + len(header) + 2
    end = text.find("\n[", begin)
    return text[begin:] if end < 0 else text[begin:end]


def test_example_loads() -> None:
    config = load_config(EXAMPLE, ENV)
    assert config.stores["main"].url == "postgresql://app:secret@db/shop"
    assert len(config.rules) == 7


@pytest.mark.parametrize(("header", "model"), SECTIONS)
def test_example_shows_every_key_with_a_reason(header: str, model: type[BaseModel]) -> None:
    lines = section(header).splitlines()
    for key in model.model_fields:
        places = [number for number, line in enumerate(lines) if re.match(rf"(# )?{key} = ", line)]
        assert len(places) == 1, f"{header} {key}"
        # Above it, perhaps with its like in between (maxmemory and eviction), stands a comment.
        before = lines[: places[0]]
        while before and re.match(r"(# )?[a-z_]+ = ", before[-1]):
            before.pop()
        assert before, f"{header} {key} has no reason"
        assert before[-1].startswith("# "), f"{header} {key} has no reason"


def test_example_shows_the_defaults() -> None:
    shown = load_config(EXAMPLE, ENV)
    defaults = Config()
    assert (shown.server, shown.memory, shown.journal, shown.http) == (
        defaults.server,
        defaults.memory,
        defaults.journal,
        defaults.http,
    )
    store = parse_config('[stores.main]\nurl = "postgresql://app:secret@db/shop"', {}, "x").stores["main"]
    assert shown.stores["main"] == store


def test_example_rule_shows_the_defaults_of_every_other_key() -> None:
    raw = tomllib.loads(EXAMPLE.read_text())["prefix"]["user:{id:int}"]
    lines = [f"{key} = {section_value(key)}" for key in raw if key in SHOWN]
    template = '[prefix."user:{id:int}"]\n'
    bare = parse_config(f'[stores.main]\nurl = "memory:"\n{template}' + "\n".join(lines), {}, "x").rules[0]
    shown = next(rule for rule in load_config(EXAMPLE, ENV).rules if rule.name == "user:{id:int}")
    differing = [
        field.name
        for field in fields(bare)
        if field.name != "template" and getattr(bare, field.name) != getattr(shown, field.name)
    ]
    assert differing == []


def section_value(key: str) -> str:
    match = re.search(rf"^{key} += (.*)$", section('[prefix."user:{id:int}"]'), re.MULTILINE)
    assert match is not None
    return match[1]


# The container


CONTAINER = ROOT / "container" / "forebay.toml"


def test_container_listens_outside_and_decides_about_protected_mode() -> None:
    config = load_config(CONTAINER, {})
    assert config.server.bind == ("0.0.0.0",)
    assert config.server.port == 6379
    assert config.server.protected_mode is False
    assert config.server.password == ""
    assert config.memory.maxmemory > 0
    assert config.http.bind == ("0.0.0.0", 9121)
    assert "protected_mode" in tomllib.loads(CONTAINER.read_text())["server"]


def test_container_takes_its_password_from_environment_or_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    assert load_config(CONTAINER, {"FOREBAY_PASSWORD": "x"}).server.password == "x"
    assert load_config(CONTAINER, {"FOREBAY_PASSWORD_FILE": str(secret)}).server.password == "hunter2"
    with pytest.raises(ConfigError, match=r"server\.password_file: is given together with password"):
        load_config(CONTAINER, {"FOREBAY_PASSWORD": "x", "FOREBAY_PASSWORD_FILE": str(secret)})


def test_every_container_variable_is_named_and_works() -> None:
    text = CONTAINER.read_text()
    for name in set(re.findall(r"\$\{([A-Z_]+)", text)):
        assert re.search(rf"^#   {name} ", text, re.MULTILINE), name
    config = load_config(
        CONTAINER,
        {
            "FOREBAY_PORT": "7000",
            "FOREBAY_PROTECTED_MODE": "true",
            "FOREBAY_MAXMEMORY": "1mb",
            "FOREBAY_EVICTION": "lru",
            "FOREBAY_HTTP": "127.0.0.1:1",
        },
    )
    assert (config.server.port, config.server.protected_mode) == (7000, True)
    assert (config.memory.maxmemory, config.memory.eviction) == (1 << 20, "lru")
    assert config.http.bind == ("127.0.0.1", 1)


def test_dockerfile_keeps_its_promises() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.11-slim-bookworm"}
    assert re.search(r"^USER [0-9]+:[0-9]+$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["forebay"]' in text
    assert 'CMD ["serve", "-c", "/etc/forebay/forebay.toml"]' in text
    assert re.search(r"^EXPOSE 6379\b", text, re.MULTILINE)
    assert "PYTHONSAFEPATH=1" in text
    assert "<<" not in text
    assert "--link" not in text
    assert set(re.findall(r"--from=(\S+)", text)) == {"build"}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path.split('/')[0]}" in ignored, path


@pytest.fixture
def answer_with() -> Iterator[object]:
    listeners: list[socket.socket] = []

    def start(answer: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+PONG\r\n", True),
        (b"-NOAUTH Authentication required.\r\n", True),
        (b"-ERR internal error\r\n", False),
        (b"-LOADING\r\n", False),
        (b"", False),
    ],
)
def test_healthcheck_reads_the_answer_to_ping(answer_with: object, answer: bytes, expected: bool) -> None:
    is_alive = run_path(str(ROOT / "container" / "healthcheck.py"))["is_alive"]
    assert is_alive("127.0.0.1", answer_with(answer)) is expected  # type: ignore[operator]


def test_healthcheck_without_a_server_is_unhealthy() -> None:
    is_alive = run_path(str(ROOT / "container" / "healthcheck.py"))["is_alive"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert is_alive("127.0.0.1", port) is False
