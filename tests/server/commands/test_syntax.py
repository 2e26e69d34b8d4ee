"""The argument tree against Redis's own: every syntax line that Redis prints, read and printed again."""

from __future__ import annotations

import pytest

from server.commands.spec import COMMANDS
from server.commands.syntax import Argument, parse
from tests.server.commands import test_connection as harness

real_redis = harness.real_redis


def shape(argument: Argument) -> object:
    """An argument as a tuple short enough to read: name or kind, token, flags, children."""
    flags = "".join(
        sign
        for sign, is_set in (("?", argument.optional), ("+", argument.multiple), ("t", argument.multiple_token))
        if is_set
    )
    head = argument.type if argument.arguments else f"{argument.name}:{argument.type}"
    children = [shape(child) for child in argument.arguments]
    return (head, argument.token, flags, children) if children else (head, argument.token, flags)


def shapes(syntax: str, command: str = "") -> list[object]:
    return [shape(argument) for argument in parse(syntax, command)]


def printed(argument: Argument) -> str:
    """An argument as Redis's documentation prints it."""
    if argument.type == "oneof":
        body = " | ".join(printed(child) for child in argument.arguments)
        if argument.token or argument.multiple or not argument.optional:
            body = f"<{body}>"
    elif argument.type == "block":
        body = " ".join(printed(child) for child in argument.arguments)
    else:
        body = argument.token if argument.type == "pure-token" else argument.name
    token = f"{argument.token} " if argument.token and argument.type != "pure-token" else ""
    repeated = f"{token}{body}" if argument.multiple_token else body
    if argument.multiple:
        body = f"{body} [{repeated} ...]"
    body = token + body
    return f"[{body}]" if argument.optional else body


def printed_line(arguments: list[Argument]) -> str:
    return " ".join(printed(argument) for argument in arguments)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_words() -> None:
    assert shapes("key seconds value") == [("key:key", "", ""), ("seconds:integer", "", ""), ("value:string", "", "")]
    assert shapes("") == []


def test_a_key_is_an_ordinary_string_where_a_command_has_no_keys() -> None:
    assert parse("key [key ...]", "cache.load", has_keys=False)[0].type == "string"


def test_a_token_takes_its_value_along() -> None:
    assert shapes("[EX seconds]") == [("seconds:integer", "EX", "?")]
    assert shapes("[EXAT unix-time-seconds]") == [("unix-time-seconds:unix-time", "EXAT", "?")]
    assert shapes("[NX | XX]") == [("oneof", "", "?", [("nx:pure-token", "NX", ""), ("xx:pure-token", "XX", "")])]
    assert shapes("SKIPME <YES | NO>") == [
        ("oneof", "SKIPME", "", [("yes:pure-token", "YES", ""), ("no:pure-token", "NO", "")])
    ]


def test_a_token_with_several_values_is_a_block() -> None:
    assert shapes("[LIMIT offset count]") == [
        ("block", "LIMIT", "?", [("offset:integer", "", ""), ("count:integer", "", "")])
    ]


def test_a_token_does_not_reach_into_an_optional_part() -> None:
    assert shapes("[COUNT count [ANY]]") == [
        ("block", "", "?", [("count:integer", "COUNT", ""), ("any:pure-token", "ANY", "?")])
    ]


def test_repetition() -> None:
    assert shapes("key [key ...]") == [("key:key", "", "+")]
    assert shapes("[key [key ...]]") == [("key:key", "", "?+")]
    assert shapes("[arg ...]") == [("arg:string", "", "?+")]
    assert shapes("key ...") == [("key:key", "", "+")]
    assert shapes("key...") == [("key:key", "", "+")]
    assert shapes("field value [field value ...]") == [
        ("block", "", "+", [("field:string", "", ""), ("value:string", "", "")])
    ]


def test_a_token_is_repeated_or_not() -> None:
    assert shapes("[GET pattern [GET pattern ...]]") == [("pattern:pattern", "GET", "?+t")]
    assert shapes("[WEIGHTS weight [weight ...]]") == [("weight:integer", "WEIGHTS", "?+")]


def test_repeated_alternatives() -> None:
    expected = ("oneof", "", "?+", [("a:integer", "GET", ""), ("block", "SET", "", [("b:string", "", "")] * 2)])
    assert shapes("[GET count | SET b b [GET count | SET b b ...]]") == [
        (*expected[:3], [("count:integer", "GET", ""), expected[3][1]])
    ]


def test_alternatives_of_a_whole_line() -> None:
    (argument,) = parse("COUNT | LIST [prefix]")
    assert argument.type == "oneof"
    assert [child.type for child in argument.arguments] == ["pure-token", "block"]


def test_types_that_depend_on_the_command() -> None:
    assert shapes("timeout", "blpop") == [("timeout:double", "", "")]
    assert shapes("timeout", "wait") == [("timeout:integer", "", "")]


@pytest.mark.parametrize("line", ["[key", "key]", "<a | b", "<a | b]", "... key", "[]", "<a | >"])
def test_a_line_that_makes_no_sense_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="syntax line"):
        parse(line)


def test_every_line_of_ours_is_understood_completely() -> None:
    lines = {spec.name: spec.syntax for spec in harness.own_specs() if spec.syntax}
    # Forebay's own short form for `any of these, repeated`.
    del lines["client|kill"]
    assert {name: printed_line(parse(line)) for name, line in lines.items()} == lines


def test_the_filters_of_client_kill_are_alternatives_that_repeat() -> None:
    spec = COMMANDS["client"].subcommands[b"kill"]
    (choice,) = parse(spec.syntax)
    address, filters = choice.arguments
    assert (address.name, address.type) == ("ip:port", "string")
    assert (filters.type, filters.multiple) == ("oneof", True)
    tokens = [child.token for child in filters.arguments]
    assert tokens == ["ID", "TYPE", "USER", "ADDR", "LADDR", "SKIPME", "MAXAGE"]
    assert all(child.optional for child in filters.arguments)


# -- against Redis ----------------------------------------------------------------------------------------------------

Tree = dict[str, object]


def documented(docs: object) -> dict[str, list[Argument]]:
    """Redis's own argument trees by command, subcommands included."""
    found: dict[str, list[Argument]] = {}
    for name, row in as_map(docs).items():
        fields = as_map(row)
        if "arguments" in fields:
            found[name] = [redis_argument(argument) for argument in as_list(fields["arguments"])]
        if "subcommands" in fields:
            found |= documented(fields["subcommands"])
    return found


def as_list(reply: object) -> list[object]:
    assert isinstance(reply, list)
    return reply


def as_map(reply: object) -> Tree:
    assert isinstance(reply, dict)
    return {key.decode(): value for key, value in reply.items()}


def redis_argument(reply: object) -> Argument:
    fields = as_map(reply)
    words = {key: value.decode() for key, value in fields.items() if isinstance(value, bytes)}
    children = [redis_argument(child) for child in as_list(fields.get("arguments", []))]
    # Redis knows one empty token, MIGRATE's, and prints it in quotes.
    token = words.get("token", "") or ('""' if words["type"] == "pure-token" else "")
    argument = Argument(words["name"], words["type"], token, children)
    flags = fields.get("flags", [])
    assert isinstance(flags, list | set)
    argument.optional = b"optional" in flags
    argument.multiple = b"multiple" in flags
    argument.multiple_token = b"multiple_token" in flags
    return argument


def test_every_line_of_redis_survives_being_read(real_redis: harness.RealRedis) -> None:
    trees = documented(real_redis.ask("COMMAND", "DOCS"))
    assert len(trees) > 200
    for name, tree in trees.items():
        line = printed_line(tree)
        assert printed_line(parse(line, name)) == line, name


# One line can stand for two trees: Redis gives `BYRADIUS radius <M | …>` as two arguments in a block, `LIMIT offset
# count` as a block with a token; and some blocks hold one argument, or blocks of no consequence.
OTHER_TREE = {
    "client|list",
    "config|get",
    "failover",
    "geosearch",
    "geosearchstore",
    "migrate",
    "module|loadex",
    "psubscribe",
    "xinfo|stream",
    "xtrim",
}
# Types that neither the name nor the command tells; the names are those of cluster administration and consumer groups.
OTHER_TYPE = {
    "bits",
    "cluster_bus_port",
    "config-epoch",
    "end-slot",
    "entries_added",
    "entries_read",
    "key",
    "start-slot",
}


def nodes(arguments: list[Argument]) -> list[tuple[str, str, str, bool, bool, bool]]:
    """Every node, depth first; names count where they are shown."""
    found = []
    for argument in arguments:
        name = "" if argument.arguments or argument.type == "pure-token" else argument.name
        kind = "" if name in OTHER_TYPE else argument.type
        found.append((name, kind, argument.token, argument.optional, argument.multiple, argument.multiple_token))
        found += nodes(argument.arguments)
    return found


def test_the_tree_is_that_of_redis(real_redis: harness.RealRedis) -> None:
    trees = documented(real_redis.ask("COMMAND", "DOCS"))
    different = {name for name, tree in trees.items() if nodes(parse(printed_line(tree), name)) != nodes(tree)}
    assert different <= OTHER_TREE
