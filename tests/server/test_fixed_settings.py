"""Settings that nobody may change: they say what the server does, and asking for just that is no error."""

from __future__ import annotations

import pytest

from server.fixed_settings import fixed_settings
from server.settings import RuntimeSettings
from tests.server.commands.workbench import Workbench


@pytest.fixture
def settings() -> RuntimeSettings:
    return RuntimeSettings(fixed_settings())


def test_asking_for_what_is_so_succeeds_and_for_anything_else_is_refused(settings: RuntimeSettings) -> None:
    settings.set_many({"save": "", "appendonly": "no", "stop-writes-on-bgsave-error": "no", "cluster-enabled": "no"})
    assert settings.changed == set()
    for name in settings.names():
        with pytest.raises(ValueError, match=f"argument '{name}'.*immutable"):
            settings.set_many({name: "something else"})
    assert settings.get("client-output-buffer-limit").endswith("pubsub 33554432 8388608 60")


@pytest.mark.parametrize(
    ("name", "command", "words", "small", "large"),
    [
        ("hash-max-listpack-entries", "HSET", "f{} v", "listpack", "hashtable"),
        ("hash-max-ziplist-entries", "HSET", "f{} v", "listpack", "hashtable"),
        ("set-max-intset-entries", "SADD", "{}", "intset", "hashtable"),
        ("set-max-listpack-entries", "SADD", "m{}", "listpack", "hashtable"),
        ("zset-max-listpack-entries", "ZADD", "{0} m{0}", "listpack", "skiplist"),
    ],
)
def test_encoding_changes_where_the_settings_say(
    settings: RuntimeSettings, name: str, command: str, words: str, small: str, large: str
) -> None:
    bench, most = Workbench(), int(settings.get(name))
    for number in range(most):
        bench.run(command, "k", *words.format(number).split())
    assert bench.run("OBJECT", "ENCODING", "k") == small.encode()
    bench.run(command, "k", *words.format(most).split())
    assert bench.run("OBJECT", "ENCODING", "k") == large.encode()
