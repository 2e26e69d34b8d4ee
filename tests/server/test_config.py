"""The configuration: what is read, what it means, and the words in which everything else is refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from eviction.registry import POLICIES
from persistence.prefixes import PrefixRule
from server import config as config_module
from server.config import Config, load_config, parse_config, warnings
from server.config_units import (
    address,
    amount,
    available_memory,
    duration,
    file_mode,
    size,
)
from server.errors import ConfigError

STORE = '[stores.main]\nurl = "sqlite:///data/shop.db"\n'


def parse(text: str, **env: str) -> Config:
    return parse_config(text, env, "f.toml")


def refusal(text: str, **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, **env)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rule(lines: str, template: str = "user:{id:int}") -> PrefixRule:
    return parse(f"{STORE}[prefix.{template!r}]\nstore = 'main'\n{lines}").rules[0]


def rule_refusal(lines: str, template: str = "user:{id:int}") -> str:
    message = refusal(f"{STORE}[prefix.{template!r}]\n{lines}")
    head = f'f.toml: prefix."{template}".'
    assert message.startswith(head)
    return message.removeprefix(head)


# What is read


def test_empty_file_is_the_default_config() -> None:
    assert parse("") == Config()


def test_every_server_key() -> None:
    server = parse(
        """
        [server]
        bind = ["0.0.0.0", "::1", "cache.example"]
        port = 0
        unix_socket = "/run/forebay.sock"
        unix_socket_mode = "0660"
        databases = 4
        max_clients = 10
        password = "s"
        protected_mode = false
        timeout = "5m"
        tcp_keepalive = 60
        shutdown_timeout = "250ms"
        """
    ).server
    assert server == config_module.ServerConfig(
        bind=("0.0.0.0", "::1", "cache.example"),
        port=0,
        unix_socket="/run/forebay.sock",
        unix_socket_mode=0o660,
        databases=4,
        max_clients=10,
        password="s",
        protected_mode=False,
        timeout_s=300.0,
        tcp_keepalive_s=60.0,
        shutdown_timeout_s=0.25,
    )


def test_other_sections() -> None:
    config = parse(
        """
        [memory]
        maxmemory = "2gb"
        eviction = "s3-fifo"
        scope = "volatile"
        cost = "load-time"
        shards = 1
        advise_sample = 0.25
        [journal]
        dir = ""
        fsync = "always"
        [http]
        bind = "[::1]:9121"
        [stores.a]
        url = "postgresql://app:pw@db:5433/shop"
        pool = 3
        statement_timeout = "1s"
        [stores.b]
        url = "memory:"
        """
    )
    assert config.memory == config_module.MemoryConfig(2 << 30, "s3-fifo", "volatile", "load-time", 1, 0.25)
    assert config.journal.fsync == "always"
    assert config.http.bind == ("::1", 9121)
    assert (config.stores["a"].kind, config.stores["a"].pool, config.stores["a"].statement_timeout_s) == (
        "postgresql",
        3,
        1.0,
    )
    assert config.stores["b"].kind == "memory"


def test_every_available_prefix_key() -> None:
    found = rule(
        """
        read = "refresh-ahead"
        write = "write-behind"
        table = "users"
        value = "hash"
        columns = { mail = "email", name = "name" }
        load = "SELECT 1"
        upsert = "SELECT 2"
        delete = "SELECT 3"
        ttl = "1m"
        ttl_jitter = 0.0
        negative_ttl = "0"
        refresh_at = 0.5
        load_timeout = "1s"
        load_batch = 7
        write_delay = "2s"
        write_batch = 8
        max_dirty = "1mb"
        on_full = "reject"
        retry_limit = 1
        on_dead = "keep"
        unmapped = "reject"
        """
    )
    expected = PrefixRule(
        template=found.template,
        store="main",
        read="refresh-ahead",
        write="write-behind",
        table="users",
        value="hash",
        columns=(("mail", "email"), ("name", "name")),
        load="SELECT 1",
        upsert="SELECT 2",
        delete="SELECT 3",
        ttl_s=60.0,
        ttl_jitter=0.0,
        negative_ttl_s=0.0,
        refresh_at=0.5,
        load_timeout_s=1.0,
        load_batch=7,
        write_delay_s=2.0,
        write_batch=8,
        max_dirty=1 << 20,
        on_full="reject",
        retry_limit=1,
        on_dead="keep",
        unmapped="reject",
    )
    assert found == expected
    assert found.template.text == "user:{id:int}"


def test_prefix_defaults_are_those_of_prefix_rule() -> None:
    found = parse('[prefix."session:"]').rules[0]
    assert found == PrefixRule(template=found.template)


def test_column_value_and_list_of_columns() -> None:
    found = rule('table = "t"\nvalue = { column = "body" }')
    assert (found.value, found.column) == ("column", "body")
    assert rule('table = "t"\ncolumns = ["a", "b"]').columns == (("a", "a"), ("b", "b"))


def test_rules_are_in_matching_order() -> None:
    config = parse('[prefix."a:"]\n[prefix."a:b:{id}"]\n[prefix."a:b"]')
    assert [found.name for found in config.rules] == ["a:b:{id}", "a:b", "a:"]


def test_short_ttl_shortens_the_defaults_that_may_not_exceed_it() -> None:
    found = rule('read = "read-through"\nttl = "500ms"')
    assert (found.negative_ttl_s, found.write_delay_s) == (0.5, 0.5)
    assert rule('read = "read-through"\nttl = "0"').negative_ttl_s == 5.0


@pytest.mark.parametrize(
    ("memory", "given", "expected"),
    [
        ("", "", 64 << 20),
        ('maxmemory = "100mb"', "", 25 << 20),
        ('maxmemory = "100mb"', 'max_dirty = "10%"', 10 << 20),
        ('maxmemory = "100mb"', 'max_dirty = "1mb"', 1 << 20),
        ("", 'max_dirty = "10%"', 64 << 20),
    ],
)
def test_max_dirty_is_a_share_of_maxmemory(memory: str, given: str, expected: int) -> None:
    config = parse(f'[memory]\n{memory}\n[prefix."a:"]\n{given}')
    assert config.rules[0].max_dirty == expected


def test_maxmemory_share_is_taken_of_what_the_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "available_memory", lambda: 1000)
    assert parse('[memory]\nmaxmemory = "60%"').memory.maxmemory == 600


def test_registered_policies_and_noeviction_are_accepted() -> None:
    for name in POLICIES:
        assert parse(f'[memory]\neviction = "{name}"').memory.eviction == name


# Units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5s", 1.5),
        ("30", 30),
        (7, 7),
        ("0", 0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5 weeks", "-1s", "1e3", "s", "١s", True, -1, float("inf"), "9999999d", 0.0001, []]
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r'"1ms"|must be a duration'):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("64kb", 65536), ("512MB", 512 << 20), ("2gb", 2 << 30), ("7", 7), (9, 9), ("1.5kb", 1536), ("0", 0)],
)
def test_sizes(text: object, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "64k", "1.5", "-1", "mb", 1.5, True, "9" * 30 + "gb"])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        size(text)


@pytest.mark.parametrize("text", ["0%", "101%", "-5%", "x%"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        amount(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.0.0.1:", ":9121", "::1:9121", "[127.0.0.1]:1", "h:65536", "h:99999999999"]
)
def test_other_http_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        address(text)


@pytest.mark.parametrize("mode", [600, "8", "rw", "1777", -1, True])
def test_other_modes_are_refused(mode: object) -> None:
    with pytest.raises(ValueError, match="octal"):
        file_mode(mode)


def test_available_memory_takes_the_tightest_cgroup_v2_limit(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("4096\n")
    (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 4096


def test_available_memory_reads_cgroup_v1_as_a_container_sees_it(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/of-the-host\n")
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("8192\n")
    assert available_memory(tmp_path) == 8192


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        # Version 2, nested: the tightest of all levels, whoever set it.
        (
            "0::/k8s/pod/box",
            {"memory.max": "max", "k8s/pod/memory.max": "8192", "k8s/pod/box/memory.max": "9000"},
            8192,
        ),
        # A container of its own name space sees itself as the root.
        ("0::/", {"memory.max": "4096"}, 4096),
        # The path names something on the host, which is not mounted here.
        ("0::/../host.slice/box", {"memory.max": "4096"}, 4096),
        # Version 1, nested, among other controllers.
        (
            "9:cpu,memory:/docker/box\n1:name=systemd:/docker/box",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/docker/box/memory.limit_in_bytes": "8192"},
            8192,
        ),
        # Both at once, where version 2 does not have the memory.
        ("4:memory:/box\n0::/box", {"memory/box/memory.limit_in_bytes": "4096"}, 4096),
        # What cannot be read as a number does not bind.
        ("0::/box", {"memory.max": "", "box/memory.max": "max"}, None),
    ],
)
def test_available_memory_on_a_tree_of_groups(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, content in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path) == (expected or physical)


def test_available_memory_without_limits_is_the_machines(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/\n")
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path) == available_memory(tmp_path / "nothing") == physical


# Environment and secrets


def test_variables_are_filled_in_everywhere() -> None:
    config = parse(
        '[server]\nport = "${PORT}"\nbind = ["${ADDR}"]\nprotected_mode = "${PM}"\n'
        '[stores.main]\nurl = "postgresql://u:${PW}@db/x"',
        PORT="7000",
        ADDR="::1",
        PW="p",
        PM="false",
    )
    assert (config.server.port, config.server.bind, config.server.protected_mode) == (7000, ("::1",), False)
    assert config.stores["main"].url == "postgresql://u:p@db/x"


def test_dollar_signs() -> None:
    assert parse('[server]\npassword = "a$$b$c"').server.password == "a$b$c"
    assert rule('table = "t"\nload = "SELECT * FROM t WHERE id = ANY($1)"').load.endswith("ANY($1)")
    # What came from the environment is not looked at again.
    assert parse('[server]\npassword = "${A}"', A="$${B}").server.password == "$${B}"


def test_variable_with_a_default() -> None:
    text = '[server]\npassword = "${A:-other}"'
    assert parse(text).server.password == "other"
    assert parse(text, A="").server.password == "other"
    assert parse(text, A="x").server.password == "x"


def test_missing_variable_is_named() -> None:
    message = refusal('[stores.main]\nurl = "postgresql://u:${DB_PASSWORD}@db/x"', DB_PASSWRD="secret")
    assert message == (
        'f.toml: stores.main.url: the environment variable DB_PASSWORD is not set; did you mean "DB_PASSWRD"?'
    )
    assert "DB_PASSWORD:-default" in refusal('[server]\npassword = "${DB_PASSWORD}"')


@pytest.mark.parametrize("text", ["${", "${A", "${1}", "${A-b}"])
def test_malformed_variable_is_refused(text: str) -> None:
    assert "server.password: ${ begins an environment variable" in refusal(f'[server]\npassword = "{text}"', A="x")


def test_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    (tmp_path / "url").write_text("postgresql://u:p@db/x\r\n")
    config = parse(
        f'[server]\npassword_file = "${{DIR}}/pw"\n[stores.main]\nurl_file = "{tmp_path}/url"', DIR=str(tmp_path)
    )
    assert config.server.password == "hunter2"
    assert config.stores["main"].url == "postgresql://u:p@db/x"


def test_secret_file_of_an_empty_name_is_not_given() -> None:
    assert parse('[server]\npassword = "x"\npassword_file = ""').server.password == "x"


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2")
    message = refusal(f'[server]\npassword = "x"\npassword_file = "{tmp_path}/pw"')
    assert message == "f.toml: server.password_file: is given together with password; leave one of them out"


def test_unreadable_or_empty_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "server.password_file: /no/such cannot be read: No such file" in refusal(
        '[server]\npassword_file = "/no/such"'
    )
    assert "empty is empty" in refusal(f'[server]\npassword_file = "{tmp_path}/empty"')
    assert "not UTF-8" in refusal(f'[server]\npassword_file = "{tmp_path}/binary"')
    assert "larger than 1 MiB" in refusal('[server]\npassword_file = "/dev/zero"')
    assert "must be the path of a file" in refusal("[server]\npassword_file = 5")


def test_secrets_are_in_no_repr_and_no_refusal(tmp_path: Path) -> None:
    config = parse(
        '[server]\npassword = "hunter2"\n[stores.main]\nurl = "postgresql://u:hunter2@db:1/x?password=hunter2"'
    )
    assert "hunter2" not in repr(config)
    assert config.stores["main"].shown == "postgresql db:1/x"
    for url in ("postgresql://u:hunter2/@db/x", "pg://u:hunter2@db", "hunter2", "sqlite:hunter2"):
        assert "hunter2" not in refusal(f'[stores.main]\nurl = "{url}"')


def test_loading_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(
        f'[stores.main]\nurl = "sqlite:///{tmp_path}/new/shop.db"\n[prefix."a:"]\nstore = "main"\nread = "read-through"'
    )
    load_config(file, {})
    assert [path.name for path in tmp_path.iterdir()] == ["f.toml"]


# Stores


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////data/shop.db", "/data/shop.db"),
        ("sqlite:///data/shop.db", "data/shop.db"),
        ("sqlite:///../shop.db", "../shop.db"),
    ],
)
def test_sqlite_paths(url: str, path: str) -> None:
    store = parse(f'[stores.main]\nurl = "{url}"').stores["main"]
    assert (store.kind, store.path) == ("sqlite", path)


@pytest.mark.parametrize("url", ["mysql://x/y", "redis://x", "sqlite3:///x", "http://x", "nothing"])
def test_other_stores_are_refused_with_the_list(url: str) -> None:
    message = refusal(f'[stores.main]\nurl = "{url}"')
    assert message.startswith("f.toml: stores.main.url: ")
    assert message.endswith("known are postgresql://, postgres://, sqlite:/// or memory:")


@pytest.mark.parametrize("url", ["sqlite://x.db", "sqlite:x.db", "sqlite:///"])
def test_sqlite_in_another_spelling_is_refused(url: str) -> None:
    assert "stores.main.url: a SQLite file is written sqlite:///relative" in refusal(f'[stores.main]\nurl = "{url}"')


def test_sqlite_parameters_are_refused() -> None:
    assert "takes no parameters" in refusal('[stores.main]\nurl = "sqlite:///x.db?mode=ro"')


@pytest.mark.parametrize("url", ["postgresql://app:pw@db", "postgres://app@db:5432/", "postgresql:///?host=/run/pg"])
def test_postgresql_without_a_database_is_refused(url: str) -> None:
    told = refusal(f'[stores.main]\nurl = "{url}"')
    assert told.startswith("f.toml: stores.main.url: names no database; it is written postgresql://")


def test_password_with_a_slash_and_an_at_sign_is_told_from_a_host() -> None:
    told = refusal('[stores.main]\nurl = "postgresql://app:pa@ss/word@db/shop"')
    assert told.endswith("characters such as @ : / in a password are written %40 %3A %2F")
    assert "word" not in told.replace("password", "")


@pytest.mark.parametrize("url", ["postgresql:///?dbname=shop&host=/run/pg", "postgresql://app:p%40%2Fw@db:5432/shop"])
def test_other_spellings_of_a_database_are_taken(url: str) -> None:
    assert parse_config(f'[stores.main]\nurl = "{url}"', {}, "f.toml").stores["main"].url == url


def test_store_without_url_is_refused() -> None:
    assert refusal("[stores.main]\npool = 3").startswith("f.toml: stores.main.url: is required")


# Refusals, key by key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1", 'server.prot: unknown key; did you mean "port"?'),
        ("[sever]", 'sever: unknown key; did you mean "server"?'),
        ("[server]\npasword_file = 'x'", 'server.pasword_file: unknown key; did you mean "password_file"?'),
        ("[http]\nxyz = 1", "http.xyz: unknown key; known are bind"),
        ("[stores.main]\nuri = 'memory:'", 'stores.main.uri: unknown key; did you mean "url"?'),
        ("[prefix.'a:']\nttl_jiter = 1", 'prefix."a:".ttl_jiter: unknown key; did you mean "ttl_jitter"?'),
        ("server = 5", "server: must be a table, written [server]"),
        ("stores = 5", "stores: must be a table, written [stores]"),
        ("[server]\nport = 65536", "server.port: must be from 0 to 65535, not 65536"),
        ("[server]\nport = true", "server.port: must be a whole number from 0 to 65535, not a boolean"),
        ("[server]\nport = 'x'", "server.port: must be a whole number from 0 to 65535, not a string"),
        ("[server]\ndatabases = 0", "server.databases: must be from 1 to 4096, not 0"),
        ("[server]\nmax_clients = 0", "server.max_clients: must be from 1 to 1000000, not 0"),
        ("[server]\npassword = 5", "server.password: must be a string in quotes, not a whole number"),
        ("[server]\nprotected_mode = 1", "server.protected_mode: must be true or false, not a whole number"),
        ("[server]\nbind = ['1.2.3.4:5']", "server.bind: must be an IP address or a host name without a port"),
        ("[server]\nbind = ['::1', '::1']", "server.bind: names the same address twice"),
        ("[server]\nbind = []", "server.bind: is empty and there is no unix_socket"),
        ("[server]\nbind = 5", "server.bind: must be a list of addresses"),
        ("[server]\ntimeout = 'x'", "server.timeout: must be a duration"),
        ("[server]\nunix_socket_mode = 600", "server.unix_socket_mode: must be octal permissions"),
        ("[memory]\nmaxmemory = 'x'", "memory.maxmemory: must be a size"),
        ("[memory]\neviction = 's3fifo'", "memory.eviction: unknown policy 's3fifo'; did you mean \"s3-fifo\"?"),
        ("[memory]\neviction = 'allkeys-lru'", 'written in two keys here: eviction = "lru" and scope = "all"'),
        ("[memory]\nscope = 'allkeys'", "memory.scope: unknown word 'allkeys'; did you mean \"all\"?"),
        ("[memory]\nshards = 0", "memory.shards: must be from 1 to 1024, not 0"),
        ("[journal]\nfsync = 'everysecond'", "journal.fsync: unknown word 'everysecond'; did you mean \"everysec\"?"),
        ("[http]\nbind = '9121'", "http.bind: must be ADDRESS:PORT"),
        ("[stores.m]\nurl = 'memory:'\npool = 0", "stores.m.pool: must be from 1 to 1000, not 0"),
        ("[stores.m]\nurl = 'memory:'\nstatement_timeout = 0", 'stores.m.statement_timeout: must be longer than "0"'),
        ("x = [", "f.toml: is not TOML: "),
        ("[prefix.user:{id:int}]", 'a key template is written in quotes: [prefix."user:{id:int}"]'),
    ],
)  # fmt: skip
def test_refusals_outside_rules(text: str, expected: str) -> None:
    message = refusal(text)
    assert expected in message
    assert message.startswith("f.toml: ")


def test_unknown_key_is_told_before_what_is_missing() -> None:
    assert "uri" in refusal("[stores.main]\nuri = 'memory:'")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("read = 'read-trough'", "read: unknown word 'read-trough'; did you mean \"read-through\"?"),
        ("write = 'write-back'", "write: unknown word 'write-back'; did you mean \"write-"),
        ("store = 'mian'", 'store: there is no [stores.mian]; did you mean "main"?'),
        ("read = 'read-through'", 'store: is required with read = "read-through"; known are main'),
        ("write = 'write-behind'", 'store: is required with write = "write-behind"; known are main'),
        ("negative_ttl = '6m'", "negative_ttl: is longer than ttl"),
        ("ttl = '1s'\nwrite_delay = '2s'", "write_delay: is longer than ttl"),
        ("store = 'main'\nread = 'refresh-ahead'\nttl = '0'", 'ttl: is "0" (none), so nothing grows old'),
        ("refresh_at = 1", "refresh_at: must be a number above 0 and below 1"),
        ("refresh_at = 0.0", "refresh_at: must be a number above 0 and below 1"),
        ("ttl_jitter = 1.0", "ttl_jitter: must be a number 0 or more and below 1"),
        ("ttl_jitter = -0.1", "ttl_jitter: must be a number 0 or more and below 1"),
        ("early_expiry = -1", "early_expiry: must be a number of 0 or more"),
        ("ttl = 'soon'", "ttl: must be a duration"),
        ("load_timeout = '0'", 'load_timeout: must be longer than "0"'),
        ("load_batch = 0", "load_batch: must be from 1 to 100000, not 0"),
        ("write_batch = 0", "write_batch: must be from 1 to 100000, not 0"),
        ("retry_limit = 0", "retry_limit: must be from 1 to 1000, not 0"),
        ("max_dirty = 0", "max_dirty: leaves no room for any unsaved write"),
        ("on_full = 'blok'", "on_full: unknown word 'blok'; did you mean \"block\"?"),
        ("on_dead = 'dorp'", "on_dead: unknown word 'dorp'; did you mean \"drop\"?"),
        ("unmapped = 'refuse'", "unmapped: unknown word 'refuse'; known are memory, reject"),
        ("invalidate = 'notfy'", "invalidate: unknown word 'notfy'; did you mean \"notify\"?"),
        ("value = 'jsn'\ntable = 't'", "value: unknown word 'jsn'; did you mean \"json\"?"),
        ("value = { col = 'x' }\ntable = 't'", 'value: must be "hash", "json", { column ='),
        ("value = { zset = ['m'] }\ntable = 't'", 'value: must be "hash", "json", { column = "name of a column" }'),
        ("value = { zset = ['m', ''] }\ntable = 't'", 'value: must be "hash", "json", { column = "name of a column" }'),
        ("value = { set = 'm' }", "value: needs a table (or a load statement)"),
        ("value = { column = 'id' }\ntable = 't'", "value: the column 'id' is part of the key"),
        ("value = 'hash'", "value: needs a table (or a load statement)"),
        ("columns = ['a']", "columns: needs a table (or a load statement)"),
        ("columns = ['a', 'a']\ntable = 't'", "columns: names the field 'a' twice"),
        ("columns = { a = 'c', b = 'c' }\ntable = 't'", "columns: names the column 'c' twice"),
        ("columns = 'a'\ntable = 't'", "columns: must be a list of columns or a table"),
        ("columns = ['']\ntable = 't'", "columns: holds an empty name"),
        ("columns = ['a']\ntable = 't'\nvalue = { column = 'b' }", "columns: has no effect beside value"),
        ("store = 'main'\ntable = 't'\nupsert = 'x'", 'upsert: has no effect while write = "cache-aside"'),
        ("store = 'main'\ntable = 't'\ndelete = 'x'", 'delete: has no effect while write = "cache-aside"'),
        ("store = 'main'\nwrite = 'write-through'\nupsert = 'x'", "upsert: needs a table (or a load statement)"),
        ("store = 'main'\ntable = 't'\nload = ' '", "load: is an empty statement"),
        ("store = 'main'\nwrite = 'write-through'\nload = 'x'", "upsert: is required to write without a table"),
        ("tags = 'a'", "tags: must be a list of columns"),
    ],
)  # fmt: skip
def test_refusals_of_rules(lines: str, expected: str) -> None:
    assert rule_refusal(lines).startswith(expected)


def test_table_needs_captures() -> None:
    assert rule_refusal("table = 'users'", "user:").startswith("table: needs captures in the template")
    assert rule_refusal("load = 'x'", "user:").startswith("load: needs captures in the template")


def test_sql_for_a_memory_store_is_refused() -> None:
    message = refusal("[stores.m]\nurl = 'memory:'\n[prefix.'a:{id}']\nstore = 'm'\nread = 'read-through'\nload = 'x'")
    assert message.endswith("load: the store 'm' is memory: and knows no SQL")


def test_store_hint_when_there_is_no_store_at_all() -> None:
    message = refusal("[prefix.'a:']\nread = 'read-through'")
    assert message.endswith('store: is required with read = "read-through"; there is no [stores.NAME] section yet')


@pytest.mark.parametrize("template", ["{id}", "user:{id", "user:{a}{b}", "user:{id:float}", "user:{a}:{a}"])
def test_template_errors_name_the_template(template: str) -> None:
    message = refusal(f"[prefix.'{template}']")
    assert message.startswith(f"f.toml: prefix: '{template}': ")


def test_two_rules_of_one_head_are_refused() -> None:
    message = refusal("[prefix.'user:{id:int}']\n[prefix.'user:{name}']")
    assert "'user:{id:int}'" in message
    assert "'user:{name}'" in message
    assert "have the same head 'user:'" in message


def test_control_characters_cannot_break_the_line() -> None:
    assert 'prefix."a\\nb"' in refusal('[prefix."a\\nb"]\nttl = "x"')


def test_clock_and_tags_reach_the_rule() -> None:
    keys = "early_expiry = 1.5\nstale_while_revalidate = '1s'\nstale_if_error = '2s'\nload_soft_timeout = '30ms'"
    made = rule(keys + "\ntags = ['tenant_id']")
    assert (made.early_expiry, made.stale_while_revalidate_s, made.stale_if_error_s) == (1.5, 1.0, 2.0)
    assert (made.load_soft_timeout_s, made.tags) == (0.03, ("tenant_id",))


# Warm-up


def test_warm_up_by_sql_and_by_hot_keys_reaches_the_rule() -> None:
    assert rule("warm = 'SELECT id FROM users'\ntable = 'users'").warm == "SELECT id FROM users"
    text = f"{STORE}[prefix.'a:']\nstore = 'main'\nread = 'read-through'\nwarm = 'hot-keys'"
    made = parse(f"[server]\ndata_dir = 'data'\n{text}")
    assert (made.rules[0].warm, made.server.data_dir) == ("hot-keys", "data")
    assert refusal(text) == (
        'f.toml: prefix."a:".warm: "hot-keys" needs [server] data_dir, the directory where they are noted'
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("warm = 'hot_keys'", "is 'hot_keys', neither a word of ours nor SQL; did you mean \"hot-keys\"?"),
        ("warm = ''", "is '', neither a word of ours nor SQL; known are none, hot-keys"),
    ],
)
def test_warm_up_that_is_no_sql_is_refused(lines: str, reason: str) -> None:
    assert rule_refusal(lines) == f"warm: {reason}"


def test_warm_up_needs_a_store_and_its_sql_a_database() -> None:
    assert refusal("[prefix.'a:']\nwarm = 'SELECT 1'").endswith("has nothing to load from; name the store")
    memory = "[stores.m]\nurl = 'memory:'\n[prefix.'a:']\nstore = 'm'\nread = 'read-through'\nwarm = 'SELECT 1'"
    assert refusal(memory).endswith("the store 'm' is memory: and knows no SQL")


# Keys that are many rows


def test_members_and_scores_reach_the_rule() -> None:
    carts = rule("table = 't'\nvalue = { set = 'item' }")
    assert (carts.value, carts.column, carts.score, carts.form) == ("set", "item", "", "set of item")
    scores = rule("table = 't'\nvalue = { zset = ['player', 'points'] }\nwrite = 'write-behind'")
    assert (scores.value, scores.column, scores.score) == ("zset", "player", "points")
    assert scores.form == "zset of player by points"
    assert (rule("table = 't'\nvalue = 'hash'").form, carts.has_children) == ("hash", True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "write = 'write-around'",
            "write: \"write-around\" drops the cached copy at each write, so every member that is written into 'item'"
            ' would cost the next reader the whole set; choose "write-through" or "write-behind"',
        ),
        ("columns = ['item']", "columns: has no effect beside value = { set = … }"),
        ("write = 'write-through'\ndelete = 'DELETE'", "delete: is for keys that are one row"),
        ("write = 'write-through'\nupsert = 'INSERT'", "upsert: is for keys that are one row"),
        ("tags = ['item']", "tags: 'item' is not a capture"),
        ("value = { set = 'id' }", "value: the column 'id' is part of the key; name the column that holds the members"),
        ("value = { zset = ['item', 'id'] }", "value: the column 'id' cannot be the score as well"),
        ("value = { zset = ['item', 'item'] }", "value: the column 'item' cannot be the score as well"),
        (
            "table = ''\nload = 'SELECT 1'\nwrite = 'write-through'",
            "table: is required to write members: each is a row of it, with column 'item'",
        ),
    ],
)
def test_nonsense_about_keys_that_are_many_rows_is_refused(lines: str, expected: str) -> None:
    given = [line.split(" ")[0] for line in lines.splitlines()]
    others = {"store": "'main'", "read": "'read-through'", "table": "'items'", "value": "{ set = 'item' }"}
    whole = "\n".join([lines, *[f"{key} = {value}" for key, value in others.items() if key not in given]])
    assert rule_refusal(whole).startswith(expected)


def test_journal_holds_at_least_three_segments() -> None:
    assert refusal("[journal]\ndir = '/x'\nsegment_size = '1mb'\nmax_size = '2mb'") == (
        "f.toml: journal.max_size: must hold at least 3 segments of segment_size"
    )
    assert refusal("[journal]\nsegment_size = 1000").endswith("journal.segment_size: must be 65536 … 2147483648 bytes")


# Budgets and policies of prefixes


def test_budget_and_policy_of_a_prefix() -> None:
    config = parse(
        """
        [memory]
        maxmemory = "100mb"
        [prefix."a:"]
        maxmemory = "10mb"
        [prefix."b:"]
        maxmemory = "25%"
        eviction = "s3-fifo"
        cost = "load-time"
        [prefix."c:"]
        eviction = "noeviction"
        [prefix."d:"]
        maxmemory = "shared"
        eviction = "shared"
        """
    )
    own = config_module.PrefixMemoryConfig
    assert config.budgets == {
        "a:": own(10 << 20),
        "b:": own(25 << 20, "s3-fifo", "load-time"),
        "c:": own(0, "noeviction"),
    }
    # Unsaved bytes are a share of the prefix's own budget.
    assert {rule.name: rule.max_dirty for rule in config.rules} == {
        "a:": (10 << 20) // 4,
        "b:": (25 << 20) // 4,
        "c:": 25 << 20,
        "d:": 25 << 20,
    }


@pytest.mark.parametrize(
    ("memory", "lines", "expected"),
    [
        ("", "maxmemory = '25%'", 'prefix."a:".maxmemory: is a share of [memory] maxmemory, which has no limit'),
        ("", "maxmemory = '1kb'", 'prefix."a:".maxmemory: must be at least 65536 bytes'),
        ("", "maxmemory = 'x'", 'prefix."a:".maxmemory: must be a size'),
        ("", "eviction = 'lrru'", 'prefix."a:".eviction: unknown policy \'lrru\'; did you mean "lru"?'),
        (
            "",
            "cost = 'load-time'\neviction = 'lru'",
            'prefix."a:".cost: "lru" does not weigh what a load costs; s3-fifo',
        ),
        (
            "cost = 'load-time'\neviction = 'lru'",
            "",
            'memory.cost: "lru" does not weigh what a load costs; s3-fifo does',
        ),
        ("", "cost = 'money'", "prefix.\"a:\".cost: unknown word 'money'"),
        ("", "maxmemory = '1mb'\neviction = 'noeviction'", 'prefix."a:".eviction: is "noeviction", and a budget needs'),
        ("eviction = 'noeviction'", "maxmemory = '1mb'", 'prefix."a:".eviction: is "noeviction", and a budget needs'),
        ("maxmemory = '1mb'", "maxmemory = '2mb'", "memory.maxmemory: is less than the budgets of the prefixes"),
        ("advise_sample = 1.0", "", "memory.advise_sample: must be a number 0 or more and below 1"),
    ],
)
def test_nonsense_about_memory_is_refused(memory: str, lines: str, expected: str) -> None:
    assert expected in refusal(f"[memory]\n{memory}\n[prefix.'a:']\n{lines}")


# Files


def test_missing_file_and_bad_encoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_config(tmp_path / "no.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(tmp_path / "latin.toml", {})


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().server.port = 1  # type: ignore[misc]


# Warnings


def test_write_behind_without_journal_is_a_warning() -> None:
    found = warnings(parse(f"{STORE}[prefix.'a:']\nstore = 'main'\nwrite = 'write-behind'"))
    assert len(found) == 1
    assert "lost when the process dies" in found[0]
    assert found[0].endswith("a:")
    assert warnings(Config()) == []


def test_foreign_address_without_password_is_a_warning() -> None:
    assert "protected mode" in warnings(parse("[server]\nbind = ['0.0.0.0']"))[0]
    assert "everybody" in warnings(parse("[server]\nbind = ['0.0.0.0']\nprotected_mode = false"))[0]
    assert warnings(parse("[server]\nbind = ['0.0.0.0']\npassword = 'x'")) == []
