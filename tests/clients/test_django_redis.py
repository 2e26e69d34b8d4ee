"""django-redis as Django's cache: the cache interface, its own additions, sessions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

django = pytest.importorskip("django", reason="Django is not installed (extra `clients`)")
pytest.importorskip("django_redis", reason="django-redis is not installed (extra `clients`)")


@pytest.fixture
def cache(port: int) -> Iterator[Any]:
    """Django's `cache`, of this server."""
    conf = __import__("django.conf", fromlist=["settings"])
    core = __import__("django.core.cache", fromlist=["cache", "caches"])
    caches = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{port}/1",
            "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
        }
    }
    if not conf.settings.configured:
        conf.settings.configure(
            CACHES=caches, SESSION_ENGINE="django.contrib.sessions.backends.cache", SECRET_KEY="a secret of the tests"
        )
        django.setup()
    yield core.cache
    core.cache.clear()
    core.caches.close_all()


def test_values_of_all_types_with_lifetimes(cache: Any) -> None:
    cache.set("answer", {"is": [42, None, "ü"]}, timeout=100)
    assert cache.get("answer") == {"is": [42, None, "ü"]}
    assert 0 < cache.ttl("answer") <= 100
    assert cache.get("missing", "else") == "else"
    assert cache.add("answer", 1) is False
    assert cache.add("new", 1) is True
    assert cache.touch("new", 500) is True
    assert 100 < cache.ttl("new") <= 500
    assert cache.persist("new") is True
    assert cache.ttl("new") is None
    assert cache.get_or_set("computed", lambda: 7, 60) == 7
    assert cache.delete("new") is True
    assert cache.has_key("new") is False
    cache.set("gone", 1, timeout=0)
    assert cache.get("gone") is None


def test_many_at_once_versions_and_patterns(cache: Any) -> None:
    cache.set_many({f"item:{number}": number for number in range(250)}, timeout=100)
    assert cache.get_many(["item:1", "item:249", "nope"]) == {"item:1": 1, "item:249": 249}
    assert len(cache.keys("item:*")) == 250
    assert sorted(cache.iter_keys("item:24?")) == [f"item:24{digit}" for digit in range(10)]
    assert cache.delete_pattern("item:1*") == 111
    assert cache.delete_many(["item:2", "item:3"]) == 2
    cache.set("v", "second", version=2)
    assert cache.get("v") is None
    assert cache.get("v", version=2) == "second"
    cache.incr_version("v", version=2)
    assert cache.get("v", version=3) == "second"


def test_counters_are_atomic(cache: Any) -> None:
    cache.set("n", 0, timeout=None)
    threads = [threading.Thread(target=lambda: [cache.incr("n") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert cache.get("n") == 200
    assert cache.decr("n", 50) == 150
    with pytest.raises(ValueError, match="not found"):
        cache.incr("never set")


def test_lock_of_the_cache(cache: Any) -> None:
    with cache.lock("report", timeout=20) as lock:
        assert lock.owned()
        assert cache.lock("report", timeout=20).acquire(blocking=False) is False
    assert cache.lock("report", timeout=20).acquire(blocking=False) is True


def test_session_survives_its_request(cache: Any) -> None:
    store = __import__("django.contrib.sessions.backends.cache", fromlist=["SessionStore"]).SessionStore
    session = store()
    session["cart"] = ["apple", "pear"]
    session.set_expiry(300)
    session.save()
    assert store(session_key=session.session_key)["cart"] == ["apple", "pear"]
    session.cycle_key()
    assert store(session_key=session.session_key)["cart"] == ["apple", "pear"]
    session.flush()
    assert cache.keys("*sessions*") == []
