"""Users and rules: what each rule means, how it is shown, what it allows; files of users and what is wrong with them.

Where Redis 7.0 says the same, a real redis-server is the judge: the same random rules go to both.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from server.acl import Acl, parse_users
from server.acl_rules import RuleError, User, joined_selectors, password_hash
from server.commands.command_docs import CATEGORIES
from server.commands.key_access import BOTH, NEITHER, READS, WRITES, key_accesses
from server.commands.spec import CommandSpec
from server.commands.table import COMMANDS
from server.errors import CommandError, ConfigError
from tests.server.commands.test_against_redis import free_port
from tests.support.wire import RawClient, wait_until

ROUNDS = 250
COMMANDS_PER_USER = 25


def user_of(rules: str, name: bytes = b"ann") -> User:
    user = User(name)
    for rule in joined_selectors(rules.encode().split()):
        user.apply(rule)
    return user


def allows(rules: str, command: str) -> bool:
    """Would a user with these rules get through?"""
    acl = Acl("", "", None, random.randbytes)
    acl.users[b"ann"] = user_of(rules)
    return acl.dry_run(b"ann", command.encode().split()) is None


# -- what rules mean --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "command", "allowed"),
    [
        ("+get ~a*", "GET abc", True),
        ("+get ~a*", "GET b", False),
        ("+get ~a*", "SET abc 1", False),
        ("~a*", "GET abc", False),
        ("+@all ~a*", "MGET a1 a2", True),
        ("+@all ~a*", "MGET a1 b", False),
        ("+@all -get ~*", "GET x", False),
        ("+@all -@write ~*", "SET x 1", False),
        ("+@read -@all +get ~*", "MGET x", False),
        # Reading and writing are told apart.
        ("+@all %R~x", "GET x", True),
        ("+@all %R~x", "SET x 1", False),
        ("+@all %W~x", "SET x 1", True),
        ("+@all %W~x", "SET x 1 GET", False),
        ("+@all %RW~x", "SET x 1 GET", True),
        ("+@all %R~x %W~x", "GETSET x 1", True),
        ("+@all %W~x", "EXISTS x", True),
        ("+@all %R~from %W~to", "COPY from to", True),
        ("+@all %R~from %W~to", "COPY to from", False),
        ("+@all %R~from %W~to", "RENAME from to", False),
        ("+@all %W~to %R~a %R~b", "SUNIONSTORE to a b", True),
        ("+@all %W~to %R~a", "SUNIONSTORE to a to", False),
        ("+@all %W~to %R~from", "SORT from STORE to", True),
        ("+@all %R~from", "SORT from STORE to", False),
        ("+@all %R~bits", "BITFIELD bits GET u8 0", True),
        ("+@all %R~bits", "BITFIELD bits GET u8 0 SET u8 0 1", False),
        ("+@all %R~x", "TTL x", True),
        ("+@all %R~x", "EXPIRE x 1", False),
        ("+@all %R~x", "HEXPIRE x 1 FIELDS 1 f", False),
        ("+@all %W~x", "HEXPIRE x 1 FIELDS 1 f", True),
        # Our own commands look at keys, too.
        ("+@cache %R~x", "CACHE.LOAD x", True),
        ("+@cache %R~x", "CACHE.LOAD x y", False),
        ("+@cache %R~x", "CACHE.INVALIDATE x", False),
        ("+@cache %R~x", "CACHE.EXPLAIN y", False),
        # Subcommands and first arguments.
        ("+config|get", "CONFIG GET x", True),
        ("+config|get", "CONFIG SET x 1", False),
        ("+config -config|set", "CONFIG SET x 1", False),
        ("+config -config|set", "CONFIG GET x", True),
        ("+select|0", "SELECT 0", True),
        ("+select|0", "SELECT 1", False),
        ("+select|0 -select", "SELECT 0", False),
        # What one needs in order to log in or leave is always allowed.
        ("-@all", "AUTH x", True),
        ("-@all", "HELLO", True),
        ("-@all", "RESET", True),
        ("-@all", "PING", False),
        # Channels.
        ("+@all &news.*", "SUBSCRIBE news.a", True),
        ("+@all &news.*", "SUBSCRIBE news.a other", False),
        ("+@all &news.*", "PUBLISH other x", False),
        ("+@all &news.*", "SPUBLISH news.a x", True),
        ("+@all &news.*", "PSUBSCRIBE news.*", True),
        ("+@all &news.*", "PSUBSCRIBE news.a*", False),
        ("+@all", "UNSUBSCRIBE other", True),
        # One selector must allow all of it.
        ("+get ~a (+set ~b)", "SET b 1", True),
        ("+get ~a (+set ~b)", "SET a 1", False),
        ("+get ~a (+get ~b)", "GET b", True),
        ("+mget ~a (+mget ~b)", "MGET a b", False),
        ("+get ~a (+get ~b) clearselectors", "GET b", False),
        ("+@all allkeys reset", "GET b", False),
    ],
)
def test_rules_allow(rules: str, command: str, allowed: bool) -> None:
    assert allows(rules, command) is allowed


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("+nonsense", "Unknown command or category name in ACL"),
        ("+@nonsense", "Unknown command or category name in ACL"),
        ("-config|nonsense", "Unknown command or category name in ACL"),
        ("-select|0", "Unknown command or category name in ACL"),
        ("+config|get|x", "Allowing first-arg of a subcommand is not supported"),
        ("+get|", "Syntax error"),
        ("%X~x", "Syntax error"),
        ("%RR~x", "Syntax error"),
        ("%~x", "Syntax error"),
        ("nonsense", "Syntax error"),
        ("(on)", "Syntax error"),
        ("#123", "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"),
        ("!" + "A" * 64, "The password hash must be exactly 64 characters"),
        ("<secret", "The password you are trying to remove from the user does not exist"),
    ],
)
def test_rule_that_means_nothing_is_refused(rule: str, problem: str) -> None:
    with pytest.raises(RuleError) as refused:
        User(b"ann").apply(rule.encode())
    assert problem in str(refused.value)


def test_pattern_after_all_patterns_is_refused() -> None:
    for rules, kind in (("~* ~x", "allkeys"), ("&* &x", "allchannels")):
        with pytest.raises(RuleError, match=kind):
            user_of(rules)


def test_selector_written_in_several_words_is_one() -> None:
    assert joined_selectors([b"on", b"(~x", b"+get)", b"(+set)"]) == [b"on", b"(~x +get)", b"(+set)"]
    with pytest.raises(RuleError, match="Unmatched parenthesis in acl selector starting at"):
        joined_selectors([b"(~x", b"+get"])


@pytest.mark.parametrize("seed", range(40))
def test_shown_rules_make_the_same_user_again(seed: int) -> None:
    generator = random.Random(seed)
    user = User(b"ann")
    for _ in range(8):
        try:
            user.apply(random_rule(generator))
        except RuleError:
            continue
    again = parse_users(user.words() + b"\n", "users.acl")[b"ann"]
    assert again.words() == user.words()
    assert [selector.allowed for selector in again.selectors] == [selector.allowed for selector in user.selectors]


def test_last_rule_about_a_command_replaces_earlier_ones() -> None:
    user = user_of("-@all +get +@read +config|get +config|set -config +GET -@read")
    assert user.selectors[0].command_words() == b"-@all -config +get -@read"


# -- passwords --------------------------------------------------------------------------------------------------------


def test_login_needs_a_user_that_is_on_and_one_of_its_passwords() -> None:
    acl = Acl("", "", None, random.randbytes)
    acl.users[b"ann"] = user_of("on >one >two")
    assert acl.admits(b"ann", b"one")
    assert acl.admits(b"ann", b"two")
    assert not acl.admits(b"ann", b"three")
    assert not acl.admits(b"ann", b"")
    assert not acl.admits(b"bob", b"one")
    # What is kept of a password is none.
    assert not acl.admits(b"ann", password_hash(b"one"))
    acl.users[b"ann"].apply(b"<one")
    assert not acl.admits(b"ann", b"one")
    acl.users[b"ann"].apply(b"off")
    assert not acl.admits(b"ann", b"two")
    for rules, admitted in (("on", False), ("on nopass", True), ("off nopass", False), ("on nopass >x", False)):
        acl.users[b"bob"] = user_of(rules)
        assert acl.admits(b"bob", b"anything") is admitted


def test_password_of_the_configuration_is_the_default_users_whatever_the_file_says() -> None:
    acl = Acl("sesame", "users.acl", None, random.randbytes)
    acl.adopt(parse_users(b"user default on >other ~* +@read\nuser ann on nopass\n", "users.acl"), None)
    assert acl.admits(b"default", b"sesame")
    assert not acl.admits(b"default", b"other")
    assert acl.restricts(b"default")
    assert acl.needs_login()
    acl.set_password("")
    assert not acl.needs_login()


def test_without_a_default_user_in_the_file_there_is_the_open_one() -> None:
    acl = Acl("", "users.acl", None, random.randbytes)
    acl.adopt(parse_users(b"user ann on nopass\n", "users.acl"), None)
    assert not acl.needs_login()
    assert not acl.restricts(b"default")
    assert acl.restricts(b"ann")
    assert acl.restricts(b"nobody")


# -- files ------------------------------------------------------------------------------------------------------------


def test_file_of_users_is_read() -> None:
    content = b"""
# who may do what
user ann on >secret ~cache:* +@read (~own +set)

user bob off
"""
    users = parse_users(content, "users.acl")
    assert list(users) == [b"ann", b"bob"]
    assert users[b"ann"].passwords == [password_hash(b"secret")]
    assert len(users[b"ann"].selectors) == 2
    assert not users[b"bob"].is_on


def test_every_wrong_line_of_a_file_is_named_and_no_secret() -> None:
    content = b"""user ann on +nonsense
person bob on
user carl on #secret
user dora (~x
user edna on
user edna off
user
"""
    with pytest.raises(ConfigError) as refused:
        parse_users(content, "/etc/users.acl")
    problems = str(refused.value).split("; ")
    assert [problem.split(": ")[0] for problem in problems] == [
        f"/etc/users.acl:{number}" for number in (1, 2, 3, 4, 6, 7)
    ]
    assert "'+nonsense': Unknown command" in problems[0]
    assert "carl" in problems[2]
    assert "secret" not in str(refused.value)
    assert "Unmatched parenthesis" in problems[3]
    assert "twice" in problems[4]


# -- keys -------------------------------------------------------------------------------------------------------------


def every_spec() -> list[CommandSpec]:
    return [each for spec in COMMANDS.values() for each in (spec, *spec.subcommands.values())]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed, so there is nothing to compare with")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
    )
    clients: list[RawClient] = []

    def connected() -> bool:
        try:
            clients.append(RawClient(port))
        except OSError:
            return False
        return True

    try:
        wait_until(connected, "redis-server")
        yield clients[0]
    finally:
        for client in clients:
            client.close()
        process.terminate()
        process.wait(20)


def test_accesses_are_those_of_redis_key_specifications(redis: RawClient) -> None:
    known = {}
    for row in redis.call("COMMAND"):  # type: ignore[attr-defined]
        for each in (row, *row[9]):
            known[each[0].decode()] = each[8]
    compared = 0
    for spec in every_spec():
        if spec.name not in known or not spec.keys[0]:
            continue
        expected = [_access_of(dict(zip(each[::2], each[1::2], strict=True))[b"flags"]) for each in known[spec.name]]
        words = [*spec.name.encode().split(b"|"), *[b"1"] * (abs(spec.arity) + 2)]
        if spec.name == "set":
            # Depends on the option GET, which the specification leaves open.
            expected = [WRITES]
        elif spec.name == "bitfield":
            expected = [BOTH]
        found = [access for _, access in key_accesses(spec, words)]
        assert found[: len(expected)] == expected[: len(found)], spec.name
        compared += 1
    assert compared > 150


def _access_of(flags: list[bytes]) -> int:
    names = {bytes(flag) if isinstance(flag, bytes) else str(flag).encode() for flag in flags}
    access = NEITHER
    if b"access" in names:
        access |= READS
    if names & {b"insert", b"update", b"delete"}:
        access |= WRITES
    return access


# -- against a real redis-server --------------------------------------------------------------------------------------

_PATTERNS = ("x", "a*", "*", "user:*", "?", "[ab]c", "k1", "k2")
_WORDS = (
    "on", "off", "nopass", "resetpass", "allkeys", "resetkeys", "allchannels", "resetchannels", "allcommands",
    "nocommands", "+@all", "-@all", "clearselectors", "reset", ">secret", "<secret", ">other", "nonsense", "+nonsense",
    "-nonsense", "+@nonsense", "+config|nonsense", "-select|1", "+config|get|x", "+get|", "%~x", "%X~y", "#12", "!12",
    "+select|0", "+SELECT|1", "(on)", "~", "&", "sanitize-payload", "skip-sanitize-payload", "+", "-", "+@", "%RWR~x",
    "#" + "a" * 64, "!" + "a" * 64, "+object|freq", "-object", "+OBJECT|HELP", "-client|KILL",
)  # fmt: skip
# In both servers, and with the same categories; containers with other subcommands here (CLIENT, DEBUG) are left out of
# the comparison of what is allowed only where the subcommand is missing there.
_NAMES = (
    "get", "set", "mget", "mset", "del", "copy", "rename", "sort", "lpush", "blpop", "sadd", "sinterstore", "zadd",
    "zrange", "hset", "hgetall", "xadd", "xread", "pfcount", "pfmerge", "geoadd", "bitop", "setbit", "publish",
    "subscribe", "psubscribe", "spublish", "ping", "keys", "flushall", "config", "config|get", "config|set", "client",
    "client|id", "acl", "acl|whoami", "object|encoding", "select", "multi", "exec", "info", "expire", "ttl", "exists",
)  # fmt: skip
_CALLS = (
    "get x", "get k1", "set x 1", "set a1 1 get", "mget a1 a2", "mget x k1", "mset x 1 user:1 2", "del k1 k2",
    "copy x a1", "rename a1 x", "sort x store a1", "lpush bc 1", "blpop x a1 0", "sadd user:1 m", "sinterstore x a1 k1",
    "zadd x 1 m", "zrange k2 0 1", "hset x f v", "hgetall user:9", "xadd x * f v", "xread streams x 0", "pfcount x a1",
    "pfmerge x a1", "geoadd x 1 1 m", "bitop and x a1 k1", "setbit x 1 1", "publish x m", "subscribe x a1",
    "psubscribe a*", "psubscribe a1", "spublish k1 m", "ping", "keys *", "flushall", "config get x", "config set x 1",
    "client id", "client list", "acl whoami", "acl list", "object encoding x", "object freq a1", "select 0", "select 1",
    "multi", "exec", "info", "expire x 1", "ttl a1", "exists x k1", "auth x", "reset", "get", "nonsense",
)  # fmt: skip


def random_rule(generator: random.Random) -> bytes:
    kind = generator.random()
    sign = generator.choice("+-")
    if kind < 0.25:
        return generator.choice(_WORDS).encode()
    if kind < 0.45:
        return (sign + "@" + generator.choice([name for name in CATEGORIES if name != "cache"])).encode()
    if kind < 0.65:
        return (sign + generator.choice(_NAMES)).encode()
    if kind < 0.85:
        return (generator.choice(("~", "%R~", "%W~", "%rw~", "~")) + generator.choice(_PATTERNS)).encode()
    if kind < 0.93:
        return ("&" + generator.choice(_PATTERNS)).encode()
    inner = [random_rule(generator) for _ in range(generator.randrange(1, 4))]
    return b"(" + b" ".join(rule for rule in inner if rule[:1] not in b"()") + b")"


class Judge:
    """The same commands to our users and to the real ones; what versions word differently is made the same."""

    def __init__(self, redis: RawClient) -> None:
        self.redis = redis
        self.acl = Acl("", "", None, random.randbytes)

    def set_user(self, rules: list[bytes]) -> None:
        theirs = str(self.redis.call("ACL", "SETUSER", "ann", *rules)).removeprefix("b'").removesuffix("'")
        try:
            self.acl.set_user(None, b"ann", rules)  # type: ignore[arg-type]
            ours = "OK"
        except CommandError as error:
            ours = error.reply.message
        hidden = [rule for rule in rules if rule[:1] in b"<>#!"]
        for rule in hidden:
            theirs = theirs.replace(f"'{rule.decode()}'", f"'{rule[:1].decode()}(redacted)'")
        assert ours == theirs, rules

    def compare_user(self, rules: list[bytes]) -> None:
        theirs = self.redis.call("ACL", "GETUSER", "ann")
        ours = self.acl.describe(b"ann")
        assert isinstance(theirs, list) and ours is not None
        shown = dict(zip(theirs[::2], theirs[1::2], strict=True))
        user = self.acl.users[b"ann"]
        assert [flag for flag in user.flags() if b"sanitize" not in flag] == [
            flag for flag in shown[b"flags"] if b"sanitize" not in flag
        ], rules
        assert dict(ours)[b"passwords"] == shown[b"passwords"], rules
        keys = dict(ours)[b"keys"]
        assert isinstance(keys, bytes)
        assert keys.replace(b"%RW~*", b"~*") == shown[b"keys"], rules
        assert dict(ours)[b"channels"] == shown[b"channels"], rules
        assert len(user.selectors) == 1 + len(shown[b"selectors"]), rules
        # 7.0 shows commands in a form of its own, later versions as they were given: the same when 7.0 reads them.
        words = user.selectors[0].command_words().split()
        assert self.redis.call("ACL", "SETUSER", "copy", "reset", *words) == b"OK"
        again = self.redis.call("ACL", "GETUSER", "copy")
        assert isinstance(again, list)
        assert again[5] == shown[b"commands"], rules

    def compare_call(self, rules: list[bytes], call: str) -> None:
        words = call.encode().split()
        theirs = self.redis.call("ACL", "DRYRUN", "ann", *words)
        try:
            ours = self.acl.dry_run(b"ann", words) or "OK"
        except CommandError as error:
            ours = error.reply.message
        expected = theirs.decode() if isinstance(theirs, bytes) else str(theirs)
        assert ours.replace("User ann has", "This user has") == expected, (rules, call)


@pytest.mark.parametrize("part", range(5))
def test_random_rules_mean_what_they_mean_to_redis(redis: RawClient, part: int) -> None:
    judge = Judge(redis)
    for seed in range(part * ROUNDS // 5, (part + 1) * ROUNDS // 5):
        generator = random.Random(seed)
        redis.call("ACL", "DELUSER", "ann")
        judge.acl.users.pop(b"ann", None)
        applied: list[bytes] = [b"reset"]
        judge.set_user(applied)
        for _ in range(generator.randrange(1, 5)):
            rules = [random_rule(generator) for _ in range(generator.randrange(1, 4))]
            judge.set_user(rules)
            applied += rules
        judge.compare_user(applied)
        for call in generator.sample(_CALLS, COMMANDS_PER_USER):
            judge.compare_call(applied, call)
