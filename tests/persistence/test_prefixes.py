"""Key templates: canonical captures, the way back, and which rule a key belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.prefixes import PrefixRule, RuleTable, Template, TemplateError

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def captures(template: str, key: str | bytes) -> object:
    return Template(template).captures(key.encode() if isinstance(key, str) else key)


@pytest.mark.parametrize(
    ("template", "key", "values"),
    [
        ("user:{id:int}", "user:0", (0,)),
        ("user:{id:int}", "user:-7", (-7,)),
        ("user:{id:int}", "user:9223372036854775807", (9223372036854775807,)),
        ("user:{id:int}", "user:-9223372036854775808", (-9223372036854775808,)),
        ("user:{name}", "user:ünï", ("ünï",)),
        ("user:{name:str}", "user:a:b", ("a:b",)),
        ("user:{name}", "user:a\nb", ("a\nb",)),
        ("user:{id:uuid}", "user:" + UUID, (UUID,)),
        ("o:{tenant:int}:{id:int}", "o:1:22", (1, 22)),
        ("o:{tenant}:{id}", "o:a:b:c", ("a", "b:c")),
        ("o:{id:int}:name", "o:5:name", (5,)),
        ("o:{a}.{b}.x", "o:1.2.x", ("1", "2")),
        ("o.*[{id:int}]", "o.*[5]", (5,)),
        ("any:", "any:thing\xff", ()),
    ],
)
def test_a_key_that_fits_gives_its_captures_and_they_give_it_back(
    template: str, key: str, values: tuple[str | int, ...]
) -> None:
    compiled = Template(template)
    assert compiled.captures(key.encode()) == values
    if values:
        assert compiled.key(values) == key.encode()


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("user:{id:int}", b"user:"),
        ("user:{id:int}", b"user:007"),
        ("user:{id:int}", b"user:+7"),
        ("user:{id:int}", b"user:-0"),
        ("user:{id:int}", b"user: 7"),
        ("user:{id:int}", b"user:7\n"),
        ("user:{id:int}", b"user:7.0"),
        ("user:{id:int}", "user:７".encode()),
        ("user:{id:int}", b"user:9223372036854775808"),
        ("user:{id:int}", b"user:-9223372036854775809"),
        ("user:{id:int}", b"user:1:2"),
        ("user:{id:int}", b"User:1"),
        ("user:{id:int}", b"xuser:1"),
        ("user:{name}", b"user:"),
        ("user:{name}", b"user:\xff"),
        ("user:{name}", b"user:a\0b"),
        ("user:{id:uuid}", b"user:" + UUID.upper().encode()),
        ("user:{id:uuid}", b"user:" + UUID.replace("-", "").encode()),
        ("o:{tenant}:{id}", b"o:a"),
        ("o:{tenant}:{id}", b"o::b"),
        ("o:{id:int}:name", b"o:5:named"),
        ("o:{id:int}:name", b"o:5"),
        ("o.{id:int}", b"oo5"),
    ],
)
def test_a_key_with_another_spelling_does_not_fit(template: str, key: bytes) -> None:
    assert captures(template, key) is None


@given(st.integers(-(1 << 70), 1 << 70), st.text(min_size=1))
def test_two_keys_never_name_one_row(number: int, text: str) -> None:
    template = Template("o:{n:int}:{t}")
    key = b"o:%d:%s" % (number, text.encode(errors="ignore"))
    values = template.captures(key)
    if values is not None:
        assert template.key(values) == key


@given(st.binary())
def test_any_bytes_fit_or_do_not_and_spell_themselves(tail: bytes) -> None:
    for template in (Template("k:{a}:{b:int}"), Template("k:{a:int}"), Template("k:{a}")):
        values = template.captures(b"k:" + tail)
        if values is not None:
            assert template.key(values) == b"k:" + tail


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{id:int}", "literal head"),
        ("", "literal head"),
        ("user:{id:float}", "unknown capture type 'float'"),
        ("user:{a}{b}", "literal between"),
        ("user:{a}:{a}", "occurs twice"),
        ("user:{a", "written"),
        ("user:a}", "written"),
        ("user:{}", "written"),
        ("user:{1a}", "written"),
        ("user:{a b}", "written"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        Template(template)


@pytest.mark.parametrize("template", ["o:{a}:{b}", "o:{a}é{b}", "o:{a}é:{b}", "o:{a}::{b}", "o:{a}{{b}"])
def test_a_text_capture_ends_where_the_next_literal_begins(template: str) -> None:
    if "{{" in template:
        with pytest.raises(TemplateError):
            Template(template)
        return
    compiled = Template(template)
    assert compiled.captures(compiled.key(("left", "right"))) == ("left", "right")


@pytest.mark.parametrize("value", ["ê", "é", "è", "a\u0301"])
def test_a_text_capture_may_share_a_byte_with_the_next_literal(value: str) -> None:
    # The literal é and the letter ê begin with the same byte.
    compiled = Template("o:{a}é{b}")
    key = compiled.key((value, "x"))
    values = compiled.captures(key)
    if value == "é":
        assert values is None or compiled.key(values) == key
    else:
        assert values == (value, "x")


def rules(*templates: str) -> RuleTable:
    return RuleTable([PrefixRule(Template(template), store="main") for template in templates])


def test_the_longest_head_wins_whatever_the_order_of_the_rules() -> None:
    for order in (("u:", "u:x:{a}", "u:x:{a}"), ("u:x:{a}", "u:")):
        table = rules(*dict.fromkeys(order))
        for key, name in ((b"u:1", "u:"), (b"u:x:1", "u:x:{a}"), (b"u:x:", "u:x:{a}"), (b"u:", "u:")):
            match = table.match(key)
            assert match is not None
            assert match.name == name


def test_a_key_without_a_head_has_no_rule() -> None:
    table = rules("user:{id:int}", "users:{id:int}")
    assert table.match(b"user") is None
    assert table.match(b"") is None
    assert table.match(b"other:1") is None


def test_a_head_decides_even_when_the_template_does_not_fit() -> None:
    match = rules("user:{id:int}", "u").match(b"user:x")
    assert match is not None
    assert match.name == "user:{id:int}"


def test_two_rules_with_one_head_are_refused() -> None:
    with pytest.raises(TemplateError, match="same head 'user:'"):
        rules("user:{id:int}", "user:{name}")


def test_head_is_innermost_when_no_longer_one_begins_with_it() -> None:
    table = RuleTable([PrefixRule(Template(head + "{x}")) for head in ("a:", "a:b:", "a:b:c:", "ab:", "a", "z")])
    innermost = [rule.template.head for rule in table.rules if table.is_innermost(rule.template.head)]
    assert sorted(innermost) == [b"a:b:c:", b"ab:", b"z"]


def test_an_empty_rule_table_matches_nothing() -> None:
    assert RuleTable([]).match(b"user:1") is None


@given(st.lists(st.text("ab:", min_size=1, max_size=5), unique=True), st.text("ab:", max_size=8))
def test_match_agrees_with_trying_every_rule(heads: list[str], key: str) -> None:
    table = rules(*heads)
    match = table.match(key.encode())
    fitting = [head for head in heads if key.startswith(head)]
    assert (match.name if match else None) == (max(fitting, key=len) if fitting else None)


def test_a_rule_knows_what_it_does() -> None:
    rule = PrefixRule(Template("a:{id:int}"), store="main", read="read-through", table="t")
    assert (rule.loads, rule.saves, rule.generic) == (True, False, False)
    assert PrefixRule(Template("a:"), write="write-behind").generic
    assert not PrefixRule(Template("a:{id}"), load="SELECT").generic
