"""The walls of the house, checked on the syntax trees: who imports whom, what stays pure, and how large things grow."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
ROOMS: Final = ("protocol", "eviction", "persistence", "server")

# -- the modules ------------------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """Every module of the four rooms by its dotted name; a package's `__init__` has the package's name."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, as module names: `from server import errors` is `server.errors`."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules() else node.module)
    return frozenset(found)


def ours(name: str) -> set[str]:
    return {imported for imported in imports(name) if is_in(imported, *ROOMS)}


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def relative(name: str) -> str:
    return str(modules()[name].relative_to(ROOT))


@cache
def functions() -> tuple[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Every function of the four rooms with its module, methods and inner ones included."""
    return tuple(
        (name, node)
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


EVERY_MODULE: Final = tuple(modules())

# -- who imports whom -------------------------------------------------------------------------------------------------

KEYSPACE: Final = (
    "eviction",
    "persistence.change",
    "persistence.field_lifetimes",
    "persistence.lease",
    "server.keyspace",
)
COMMANDS: Final = (
    "protocol.replies",
    "persistence.change",
    "persistence.field_lifetimes",
    "server.commands",
    "server.errors",
    "server.keyspace",
)
# A session and the gates before it: what a client is, and what it may do.
SESSION: Final = ("protocol.replies", "server.commands", "server.errors", "server.keyspace")
DISPATCH: Final = (
    "protocol.encoder",
    "protocol.limits",
    "protocol.replies",
    "persistence.engine",
    "persistence.plan",
    "persistence.errors",
    "persistence.journal",
    "persistence.seams",
    "persistence.short_write",
    "server.afterwards",
    "server.answers",
    "server.blocking",
    "server.commands",
    "server.encoded",
    "server.errors",
    "server.gates",
    "server.keyspace",
    "server.long_replies",
    "server.misses",
    "server.monitors",
    "server.pausing",
    "server.roads",
    "server.runs",
    "server.session",
    "server.store_errors",
    "server.through_sets",
    "server.tracking",
    "server.untouched",
)
NET: Final = (
    "protocol",
    "persistence.parked",
    "server.commands.context",
    "server.commands.spec",
    "server.config",
    "server.dispatch",
    "server.errors",
    "server.keyspace",
    "server.net",
    "server.session",
)
CONFIG: Final = ("eviction.registry", "persistence.journal_options", "persistence.prefixes", "server.errors")
LISTENING: Final = ("protocol.encoder", "protocol.replies", "server.commands", "server.keyspace")
# What connects the running parts: it shows clients to commands, counts them and closes idle ones, so it may see
# server.net, which the rest of the server may not. Only server.app builds them.
WIRING: Final = ("eviction", "persistence", "protocol.limits", "server")

# Module or package → what it may import of ours; the longest name that fits decides.
MAY_IMPORT: Final[dict[str, tuple[str, ...]]] = {
    "protocol": ("protocol",),
    "eviction": ("eviction",),
    "persistence": ("persistence",),
    "server": (),  # the package itself, and every module that is not listed here
    "server.keyspace": KEYSPACE,
    "server.commands": COMMANDS,
    "server.errors": ("protocol.replies",),
    "server.store_errors": ("persistence.engine", "persistence.plan", "persistence.errors", "protocol.replies"),
    "server.gates": (*SESSION, "server.session"),
    "server.session": (*SESSION, "persistence.parked"),
    "server.misses": (
        *SESSION,
        "persistence.change",
        "persistence.engine",
        "persistence.flights",
        "persistence.short_load",
        "server.blocking",
        "server.session",
        "server.store_errors",
    ),
    "server.through_sets": (
        *SESSION,
        "persistence.change",
        "persistence.engine",
        "persistence.group_commit",
        "persistence.managed",
        "persistence.mapping",
        "persistence.short_through",
        "server.blocking",
        "server.session",
        "server.store_errors",
    ),
    "server.afterwards": (*SESSION, "persistence.plan", "server.encoded", "server.session"),
    "server.blocking": (*SESSION, "persistence.change", "persistence.seams", "server.session"),
    "server.dispatch": DISPATCH,
    "server.net": NET,
    # Those who look at what runs.
    "server.redaction": ("server.commands",),
    "server.slowlog": (),
    "server.latency": (),
    "server.stopwatch": ("server.commands", "server.latency", "server.redaction", "server.slowlog"),
    "server.monitors": ("server.commands", "server.redaction", "server.session"),
    "server.diagnostics": (*WIRING, "protocol.replies"),
    # Those who listen. What a message or an invalidation is in bytes is decided here, as replies are in the encoder.
    "server.encoded": ("protocol.replies",),
    "server.event_classes": (),
    "server.pubsub": (*LISTENING, "server.encoded"),
    "server.tracking": LISTENING,
    "server.notifications": ("server.event_classes", "server.pubsub"),
    "server.effects": ("server.keyspace", "server.notifications", "server.tracking"),
    "server.acl_rules": ("server.commands", "server.keyspace"),
    "server.advice": ("eviction", "server.keyspace"),
    "server.acl": ("protocol.replies", "server.acl_rules", "server.commands", "server.errors"),
    "server.access": WIRING,
    "server.audience": WIRING,
    "server.roads": ("server.commands",),
    "server.runs": (*SESSION, "persistence.change", "protocol.encoder"),
    "server.answers": (*SESSION, "protocol.encoder", "server.runs"),
    "server.untouched": ("server.keyspace",),
    # Scripts. The interpreter knows replies and nothing of who calls it.
    "server.lua": ("protocol.encoder", "protocol.replies", "server.errors", "server.lua"),
    "server.script_text": ("protocol.replies", "server.errors"),
    "server.script_libraries": ("protocol.replies", "server.errors", "server.lua", "server.script_text"),
    "server.script_run": (*SESSION, "server.gates", "server.roads", "server.session"),
    "server.scripting": (
        "protocol.replies",
        "persistence.engine",
        "server.commands",
        "server.errors",
        "server.keyspace",
        "server.lua",
        "server.script_libraries",
        "server.script_run",
        "server.script_text",
    ),
    "server.script_service": WIRING,
    "server.function_file": ("server.commands", "server.data_file", "server.errors"),
    "server.pausing": ("persistence.seams",),
    "server.clock": (),
    "server.collector": (),
    "server.long_replies": ("protocol.encoder", "protocol.replies", "server.keyspace", "server.session"),
    "server.headroom": (),
    "server.data_file": (),
    "server.progress": ("persistence.seams",),
    "server.logs": (),
    "server.info": ("protocol.quick",),
    "server.open_files": (),
    "server.settings": (),
    "server.fixed_settings": ("protocol.limits", "server.commands.object_encoding", "server.settings"),
    "server.config": (*CONFIG, "server.config_model", "server.config_rules", "server.config_units"),
    "server.config_model": (*CONFIG, "server.config_units", "server.event_classes"),
    "server.config_rules": (*CONFIG, "server.config_model", "server.config_units"),
    "server.config_units": (),
    "server.config_file": (
        "eviction.registry",
        "protocol.replies",
        "server.config",
        "server.errors",
        "server.settings",
    ),
    "server.control": WIRING,
    "server.memory_limits": WIRING,
    "server.metrics": WIRING,
    "server.parts": WIRING,
    "server.status_page": ("persistence.stores.base", "server.info", "server.parts"),
    "server.throughput": ("server.commands", "server.net.connection"),
    "server.info_sections": (
        "persistence.invalidation",
        "persistence.stores.base",
        "server.commands",
        "server.info",
        "server.keyspace",
        "server.parts",
    ),
    "server.background": WIRING,
    "server.app": (*ROOMS,),
    "server.demo": ("server.config",),
    "server.journaling": ("persistence", "server.clock", "server.config", "server.errors"),
    # Besides app and config: the SQL of the generic table (`forebay sql`) and the build (`forebay version`).
    "server.cli": (
        "persistence.errors",
        "persistence.prefixes",
        "persistence.stores.postgres",
        "persistence.stores.sqlite",
        "server.app",
        "server.config",
        "server.config_units",
        "server.demo",
        "server.errors",
        "server.info",
        "server.journal_tool",
        "server.logs",
    ),
    "server.journal_tool": (
        "persistence.disk",
        "persistence.errors",
        "persistence.journal_recovery",
        "persistence.journal_scan",
    ),
}


def allowed_for(name: str) -> tuple[str, ...]:
    while name not in MAY_IMPORT:
        name = name.rpartition(".")[0]
    return MAY_IMPORT[name]


@pytest.mark.parametrize("name", EVERY_MODULE)
def test_module_imports_only_what_the_architecture_allows(name: str) -> None:
    wrong = sorted(imported for imported in ours(name) if not is_in(imported, *allowed_for(name)))
    assert not wrong, f"{relative(name)} must not import {', '.join(wrong)}"


def test_every_rule_names_a_module_that_exists() -> None:
    named = set(MAY_IMPORT) | {package for allowed in MAY_IMPORT.values() for package in allowed}
    assert sorted(named - set(modules())) == []


def test_only_the_wiring_sees_the_app_and_the_network() -> None:
    seen = {"server.net.connection": [], "server.net.listener": [], "server.net.http": [], "server.app": []}  # type: dict[str, list[str]]
    for name in modules():
        for imported in ours(name) & seen.keys():
            seen[imported].append(name)
    assert seen["server.app"] == ["server.cli"]
    assert seen["server.net.listener"] == ["server.app"]
    assert seen["server.net.http"] == ["server.app"]
    wiring = {
        "server.access",
        "server.app",
        "server.audience",
        "server.background",
        "server.control",
        "server.net.listener",
        "server.parts",
        "server.throughput",
    }
    assert set(seen["server.net.connection"]) <= wiring


def test_nobody_imports_tests_benches_or_scripts() -> None:
    wrong = {name: found for name in modules() if (found := [i for i in imports(name) if is_in(i, "tests", "bench")])}
    assert wrong == {}


def test_imports_are_absolute() -> None:
    wrong = [
        f"{relative(name)}:{node.lineno}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert wrong == []


def test_imports_stand_at_the_top_of_the_module() -> None:
    wrong = [
        f"{relative(name)}:{inner.lineno}"
        for name, function in functions()
        for inner in ast.walk(function)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    ]
    assert wrong == []


def test_no_import_is_hidden_from_the_interpreter() -> None:
    wrong = [name for name in modules() if "TYPE_CHECKING" in modules()[name].read_text(encoding="utf-8")]
    assert wrong == []


def test_imports_form_no_circle() -> None:
    # Depth first; what is on the stack and met again closes a circle. Importing a module runs its packages first.
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        if state.get(name) == 1:
            circles.append(" → ".join((*path[path.index(name) :], name)))
            return
        state[name] = 1
        for imported in sorted(ours(name) & modules().keys()):
            visit(imported, (*path, name))
        state[name] = 2

    for name in modules():
        visit(name, ())
    assert circles == []


# -- what stays pure --------------------------------------------------------------------------------------------------

PURE: Final = ("protocol", "eviction", "server.keyspace", "server.commands")
CONCURRENCY: Final = ("asyncio", "socket", "ssl", "threading", "selectors", "concurrent", "multiprocessing", "uvloop")
# The engine and everything under it but the stores: a clock, randomness, files and databases are passed in.
PASSED_IN: Final = ("time", "datetime", "random", "secrets", "os", "pathlib", "io", "tempfile", "shutil", "subprocess")
DRIVERS: Final = {
    "asyncpg": {"persistence.stores.postgres"},
    # The demo writes its sample file before a server exists.
    "sqlite3": {"persistence.stores.sqlite", "server.demo"},
}
# Sockets and the event loop's own business: who else may import asyncio, and what for.
ASYNCIO: Final = {
    "persistence.group_commit": "gathers and wakes",
    "persistence.flights": "futures of tasks that wait",
    "persistence.loader": "futures, call_soon and tasks",
    "persistence.journal": "futures",
    "persistence.journal_thread": "its thread, and the way back",
    "persistence.journal_waiters": "futures",
    "persistence.locks": "futures",
    "persistence.flusher": "the flushing task",
    "persistence.unsaved": "futures of those who wait until something is saved",
    "persistence.stores.postgres": "timers",
    "persistence.stores.sqlite": "a thread per connection",
    "server.app": "signals",
    "server.audience": "broadcasts go out when the loop next turns",
    "server.background": "two loops",
    "server.blocking": "futures and timers of clients that wait",
    "server.clock": "sleep",
    "server.config_file": "a thread",
    "server.data_file": "a thread",
    "server.function_file": "one file is written after the other",
    "server.control": "lets clients in between two tables",
    "server.long_replies": "lets clients in between two slices",
    "server.pausing": "an event and a timer",
    "server.net.connection": "a protocol",
    "server.net.listener": "servers",
}


@pytest.mark.parametrize("name", [name for name in EVERY_MODULE if is_in(name, *PURE)])
def test_pure_room_knows_no_loop_socket_or_thread(name: str) -> None:
    assert sorted(imported for imported in imports(name) if is_in(imported, *CONCURRENCY)) == []


@pytest.mark.parametrize("name", [name for name in EVERY_MODULE if is_in(name, "server.keyspace", "server.commands")])
def test_handlers_and_keyspace_are_synchronous_but_for_what_a_wait_starts(name: str) -> None:
    # A handler that has to wait returns a Wait; the coroutine inside it, and the protocols that describe the engine,
    # are the only async text in these rooms.
    found = {
        function.name
        for module, function in functions()
        if module == name and isinstance(function, ast.AsyncFunctionDef)
    }
    asked = {"load", "flush", "purge", "wait_saved", "discard", "warm", "verify", "advise"}
    allowed = {"server.commands.cache": {"flush", "answer", "_told"}, "server.commands.context": asked}
    assert found <= allowed.get(name, set())


@pytest.mark.parametrize(
    "name",
    [name for name in EVERY_MODULE if is_in(name, "persistence", "eviction", "protocol", "server.keyspace")],
)
def test_clock_randomness_and_files_are_passed_in(name: str) -> None:
    # SQLite's progress handler runs inside the database's own thread and looks at the clock there.
    # The Disk that is passed in is made of the operating system's calls.
    own = {"persistence.stores.sqlite": {"time"}, "persistence.disk": {"os"}}.get(name, set())
    assert {imported for imported in imports(name) if is_in(imported, *PASSED_IN)} - own == set()
    opened = [
        node.lineno
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert opened == []


def test_commands_take_time_and_randomness_from_their_context() -> None:
    wrong = [
        f"{relative(name)}: {imported}"
        for name in modules()
        if is_in(name, "server.commands")
        for imported in imports(name)
        if is_in(imported, "time", "datetime", "random", "secrets", "os", "pathlib")
    ]
    assert wrong == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_driver_is_known_to_its_store_alone(driver: str) -> None:
    assert {name for name in modules() if any(is_in(i, driver) for i in imports(name))} <= DRIVERS[driver]


def test_only_known_modules_meet_the_event_loop() -> None:
    found = {name for name in modules() if any(is_in(i, "asyncio", "uvloop") for i in imports(name))}
    assert found == set(ASYNCIO)


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("pydantic", {"server.config_model"}),
        ("aiohttp", {"server.net.http"}),
        ("hiredis", {"protocol.decoder"}),
        ("msgpack", {"persistence.generic", "persistence.journal_records"}),
        ("fcntl", {"persistence.disk"}),
        ("prometheus_client", {"server.net.http", "server.metrics"}),
        ("lupa", {"server.lua.machine"}),
        ("tomllib", {"server.config"}),
        ("tomlkit", {"server.config_file"}),
        ("argparse", {"server.cli"}),
    ],
)
def test_library_has_one_home(package: str, home: set[str]) -> None:
    assert {name for name in modules() if any(is_in(i, package) for i in imports(name))} == home


# -- habits -----------------------------------------------------------------------------------------------------------

FORBIDDEN_NAMES: Final = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "base_classes"}
# Named before this rule; neither room has a program that could be started inside it.
NAMED_LIKE_THE_LIBRARY: Final = {
    "persistence.codecs": "the standard codecs is imported by the interpreter long before",
    "server.net.http": "the plan of the house names it so",
}
LINES_PER_FILE: Final = 600
LINES_PER_FUNCTION: Final = 80
# File → why it may be larger, and how far.
LARGER_FILES: Final = {
    "server/keyspace/database.py": (915, "the only road to keys: reading, changing, running out, leaving, moving"),
    "server/commands/strings.py": (665, "one table row above each of 22 short handlers"),
    "server/commands/lists.py": (650, "one table row above each of 17 short handlers"),
    "server/commands/keys.py": (700, "one table row above each of 27 short handlers"),
    "server/net/connection.py": (690, "one client's bytes: reading, waiting, holding back and writing share its state"),
    "persistence/stores/postgres.py": (850, "one driver's traps, translated at one edge"),
    "server/dispatch.py": (940, "the choke point: the short road, the long road, transactions and managed keys"),
    "persistence/loader.py": (660, "one table of loads: who asks, what flies, what is fenced and what lands share it"),
    "persistence/engine.py": (1010, "the strategies: plan, prepare, accept, apply, publish share their state"),
    "persistence/journal.py": (755, "one state machine: what is recorded, who has the file, who is told"),
    "persistence/invalidation.py": (770, "an essay on what may be missed, and the one follower that misses nothing"),
}
# Function → why it may be longer, and how far.
LONGER_FUNCTIONS: Final = {
    "server.dispatch.run_batch": (100, "the hot road: a call costs what the work of a command costs"),
}


@pytest.mark.parametrize("name", EVERY_MODULE)
def test_module_begins_with_its_explanation(name: str) -> None:
    if modules()[name].name != "__init__.py" or modules()[name].stat().st_size:
        assert ast.get_docstring(tree(name)), f"{relative(name)} has no docstring"


def test_file_names_say_what_is_inside() -> None:
    stems = {path.stem for path in modules().values()} | {path.parent.name for path in modules().values()}
    assert stems & FORBIDDEN_NAMES == set()


def test_no_file_is_named_like_a_module_of_the_standard_library() -> None:
    # A script that is started inside a room would import ours instead.
    named = [name for name, path in modules().items() if path.stem in sys.stdlib_module_names]
    assert sorted(set(named) - NAMED_LIKE_THE_LIBRARY.keys()) == []


def test_exceptions_are_caught_by_name() -> None:
    wrong = [
        f"{relative(name)}:{node.lineno}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert wrong == []


def test_whoever_catches_everything_raises_it_again() -> None:
    # `except BaseException` also catches a cancellation, which must not be swallowed.
    wrong = [
        f"{relative(name)}:{node.lineno}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler)
        and any(isinstance(part, ast.Name) and part.id == "BaseException" for part in ast.walk(node.type or node))
        and not any(isinstance(part, ast.Raise) and part.exc is None for part in ast.walk(node))
    ]
    assert wrong == []


def test_files_stay_small() -> None:
    wrong = []
    for name, path in modules().items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        most = LARGER_FILES.get(relative(name), (LINES_PER_FILE, ""))[0]
        if lines > most:
            wrong.append(f"{relative(name)}: {lines} lines, at most {most}")
    assert wrong == []


def test_functions_stay_small() -> None:
    wrong = []
    for name, function in functions():
        lines = (function.end_lineno or 0) - function.lineno + 1
        most = LONGER_FUNCTIONS.get(f"{name}.{function.name}", (LINES_PER_FUNCTION, ""))[0]
        if lines > most:
            wrong.append(f"{relative(name)}:{function.lineno} {function.name}: {lines} lines, at most {most}")
    assert wrong == []


def test_exceptions_from_the_sizes_are_still_needed() -> None:
    files = {relative(name): len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert [file for file in LARGER_FILES if files.get(file, 0) <= LINES_PER_FILE] == []
    assert {f"{name}.{function.name}" for name, function in functions()} >= LONGER_FUNCTIONS.keys()


def test_no_text_puts_work_off() -> None:
    wrong = [
        f"{relative(name)}: {word}"
        for name, path in modules().items()
        for word in ("TODO", "FIXME", "XXX", "HACK")
        if word in path.read_text(encoding="utf-8").split()
    ]
    assert wrong == []
