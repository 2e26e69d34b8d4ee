"""Patterns: Redis's rules, and linear time where a naive matcher explodes. The comparison with Redis is elsewhere."""

from __future__ import annotations

import pytest

from server.keyspace.globbing import Glob


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        (b"", b"", True),
        (b"", b"a", False),
        (b"*", b"", True),
        (b"*", b"anything", True),
        (b"user:*", b"user:1", True),
        (b"user:*", b"users", False),
        (b"*:1", b"user:1", True),
        (b"a*b*c", b"abc", True),
        (b"a*b*c", b"a--b--c", True),
        (b"a*b*c", b"a--c--b", False),
        (b"ab*ba", b"aba", False),
        (b"a*a", b"a", False),
        (b"*ab*ab*", b"abab", True),
        (b"*aba*aba*", b"ababa", False),
        (b"?", b"", False),
        (b"?", b"\xff", True),
        (b"h?llo", b"hello", True),
        (b"h[ae]llo", b"hallo", True),
        (b"h[ae]llo", b"hillo", False),
        (b"h[^e]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False),
        (b"[a-c]x", b"bx", True),
        (b"[c-a]x", b"bx", True),
        (b"[^a-c]x", b"bx", False),
        (b"[]", b"]", False),
        (b"[]a", b"a", False),
        (b"[^]a", b"xa", True),
        (b"[ab", b"a", True),
        (b"[a-", b"-", True),
        (b"[a-]", b"b", False),
        (b"[\\]]", b"]", True),
        (b"[\\a-z]", b"-", True),
        (b"\\*", b"*", True),
        (b"\\*", b"a", False),
        (b"a\\", b"a\\", True),
        (b"\\[a]", b"[a]", True),
        (b"*[0-9]?", b"key42", True),
        (b"*\x00*", b"a\x00b", True),
    ],
)
def test_pattern_fits_text(pattern: bytes, text: bytes, fits: bool) -> None:
    assert Glob(pattern).matches(text) is fits


def test_literal_pattern_names_its_only_match() -> None:
    assert Glob(b"a\\*b").literal == b"a*b"
    assert Glob(b"a*").literal is None
    assert Glob(b"[a]").literal is None


def test_only_stars_match_everything() -> None:
    assert Glob(b"**").everything
    assert not Glob(b"*?").everything


@pytest.mark.parametrize("tail", [b"b", b"[b]", b"?b"])
def test_many_stars_take_no_exponential_time(tail: bytes) -> None:
    # 100 stars over 3,000 bytes: a backtracking matcher would not come back.
    assert not Glob(b"a*" * 100 + tail).matches(b"a" * 3000)
    assert Glob(b"a*" * 100 + tail).matches(b"a" * 3000 + b"b")
