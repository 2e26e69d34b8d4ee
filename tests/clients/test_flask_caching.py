"""Flask-Caching: cached views, memoized functions, and what drops them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

flask = pytest.importorskip("flask", reason="Flask is not installed (extra `clients`)")
flask_caching = pytest.importorskip("flask_caching", reason="Flask-Caching is not installed (extra `clients`)")


@pytest.fixture
def app(port: int) -> Any:
    app = flask.Flask("shop")
    app.config |= {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    app.config["CACHE_KEY_PREFIX"] = "shop:"
    return app


@pytest.fixture
def cache(app: Any) -> Any:
    return flask_caching.Cache(app)


def test_view_is_computed_once_per_query_string(app: Any, cache: Any, port: int) -> None:
    calls: list[str] = []

    @app.route("/price")  # type: ignore[untyped-decorator]
    @cache.cached(timeout=60, query_string=True)  # type: ignore[untyped-decorator]
    def price() -> str:
        calls.append(flask.request.args["of"])
        return f"{len(calls)} Euro"

    client = app.test_client()
    assert [client.get("/price?of=tea").text for _ in range(3)] == ["1 Euro"] * 3
    assert client.get("/price?of=milk").text == "2 Euro"
    assert calls == ["tea", "milk"]
    with redis.Redis(port=port) as plain:
        keys = plain.keys("shop:*")
        assert len(keys) == 2
        assert all(0 < plain.ttl(key) <= 60 for key in keys)
    with app.app_context():
        cache.clear()
    assert client.get("/price?of=tea").text == "3 Euro"


def test_memoized_function_is_forgotten_by_argument_and_as_a_whole(app: Any, cache: Any) -> None:
    calls: list[int] = []

    @cache.memoize(60)  # type: ignore[untyped-decorator]
    def square(number: int) -> int:
        calls.append(number)
        return number * number

    with app.app_context():
        assert [square(3), square(3), square(4)] == [9, 9, 16]
        cache.delete_memoized(square, 3)
        assert [square(3), square(4)] == [9, 16]
        assert calls == [3, 4, 3]
        cache.delete_memoized(square)
        assert [square(3), square(4)] == [9, 16]
        assert calls == [3, 4, 3, 3, 4]


def test_plain_values(app: Any, cache: Any) -> None:
    with app.app_context():
        assert cache.set_many({"a": 1, "b": [2, None]}, timeout=60)
        assert cache.get_many("a", "b", "nope") == [1, [2, None], None]
        assert cache.get_dict("a", "nope") == {"a": 1, "nope": None}
        assert cache.add("a", 5) is False
        assert cache.has("a")
        assert cache.delete("a")
        assert cache.get("a") is None
        assert cache.delete_many("b")
        assert cache.cache.inc("n", 3) == 3
        assert cache.cache.dec("n") == 2
