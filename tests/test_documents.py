"""What the documents say is true: their links, names and commands exist, and the README's first five minutes run."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from persistence.errors import LoadTimeout, RowVanished, StoreDown, StoreRejected, StoreTimeout
from persistence.invalidation import FOLLOWER_FIELDS
from persistence.managed import COUNTERS
from server.commands.table import COMMANDS
from server.config_model import HttpModel, JournalModel, MemoryModel, PrefixModel, ServerModel, StoreModel
from server.control import GAUGES
from server.errors import DIRTY
from server.keyspace.keyspace import Keyspace
from server.store_errors import EXPECTED, reply_of
from tests.support.forebay import ForebayProcess

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/README.md",
    "docs/architecture.md",
    "docs/commands.md",
    "docs/decisions.md",
    "docs/durability.md",
    "docs/eviction.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/strategies.md",
)
# One is generated; the other is written while things are measured.
UNWRAPPED: Final = {"docs/commands.md", "docs/performance.md"}

_FENCED: Final = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE: Final = re.compile(r"`([^`\n]+)`")
_PATH: Final = re.compile(
    r"(?:(?:protocol|eviction|persistence|server|tests|bench|docs|script|container)/[A-Za-z0-9_./-]*|[a-z_]+\.(?:py|toml))"
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", text(name))


def anchors(name: str) -> set[str]:
    """The anchors of a page's headings, as hosting sites make them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose(name))}


def named(name: str) -> Iterator[str]:
    """Whatever stands between back quotes."""
    yield from _CODE.findall(prose(name))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    broken = []
    for target in _LINK.findall(prose(name)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        inside = str(file.resolve().relative_to(ROOT))
        if not file.exists() or (anchor and anchor not in anchors(inside)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    missing = []
    everywhere = {path.name for room in ("protocol", "eviction", "persistence", "server") for path in walk(room)}
    everywhere |= {path.name for path in ROOT.iterdir()} | {path.name for path in walk("script", "*")}
    for word in named(name):
        path = word.split(" ")[0]
        if not _PATH.fullmatch(path) or path.startswith("docs/commands"):
            continue
        # Within a list of files of one room only the first has its folder.
        if not (ROOT / path).exists() and path not in everywhere and not is_made_up(name, path):
            missing.append(path)
    assert missing == []


def walk(room: str, pattern: str = "*.py") -> Iterator[Path]:
    yield from (ROOT / room).rglob(pattern)


def is_made_up(name: str, path: str) -> bool:
    """Files of the reader's own, and of the bench's output."""
    of_benches = name in ("bench/README.md", "docs/performance.md")
    return path in ("forebay.toml",) or (of_benches and path.startswith("bench/results"))


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - UNWRAPPED))
def test_lines_are_wrapped_at_120(name: str) -> None:
    lines = text(name).splitlines()
    # (A row of a table cannot be wrapped.)
    assert [f"{name}:{at}" for at, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("|")] == []


def test_documents_speak_of_the_product_alone() -> None:
    wrong = [
        f"{name}: {word}"
        for name in DOCUMENTS
        for word in ("/work/", "/root/", "/home/", "localhost:")
        if word in text(name)
    ]
    assert wrong == []


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md", "CONTRIBUTING.md"])
def test_scripts_and_subcommands_that_are_named_exist(name: str) -> None:
    content = text(name)
    for script in set(re.findall(r"\bscript/([a-z]+)", content)):
        assert (ROOT / "script" / script).exists(), script
    known = {"serve", "check", "sql", "journal", "version"}
    for line in re.findall(r"^forebay ([a-z]+)", content, re.MULTILINE):
        assert line in known, line
    help_text = (ROOT / "server" / "cli.py").read_text(encoding="utf-8")
    for option in set(re.findall(r"`(--[a-z-]+)", content)) - {"--network"}:
        assert f'"{option}"' in help_text, option


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md", "docs/strategies.md", "CHANGELOG.md"])
def test_commands_of_ours_that_are_named_exist(name: str) -> None:
    for command in set(re.findall(r"\bCACHE\.[A-Z]+(?: (?:COUNT|LIST)\b)?", text(name))):
        parent, _, child = command.lower().partition(" ")
        assert parent in COMMANDS, command
        if child and COMMANDS[parent].subcommands:
            assert child.encode() in COMMANDS[parent].subcommands, command


def test_command_page_is_what_the_table_says() -> None:
    # The generator installs first when it is not started by the project's own interpreter; here it is the same.
    result = subprocess.run(
        [shutil.which("python3", path=str(ROOT / ".venv" / "bin")) or "python3", ROOT / "script" / "docs", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_readme_lists_the_commands_of_each_kind_that_it_promises() -> None:
    kinds = {spec.group for spec in COMMANDS.values()}
    promised = {
        "string", "bitmap", "hash", "list", "set", "sorted-set", "stream", "generic", "transactions", "scripting",
    }  # fmt: skip
    assert promised <= kinds


# -- configuration ----------------------------------------------------------------------------------------------------


def test_configuration_examples_have_keys_that_the_example_file_has() -> None:
    example = text("config.example.toml")
    for name in DOCUMENTS:
        for language, block in _FENCED.findall(text(name)):
            if language != "toml":
                continue
            for key in keys_of(tomllib.loads(block)):
                assert re.search(rf"^#? ?{re.escape(key)} *=", example, re.MULTILINE), f"{name}: {key}"


def keys_of(table: dict[str, object]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict) and not re.fullmatch(r"value|columns", key):
            yield from keys_of(value)
        else:
            yield key


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md", "docs/strategies.md"])
def test_configuration_keys_that_are_named_exist(name: str) -> None:
    sections = (ServerModel, MemoryModel, JournalModel, HttpModel, StoreModel, PrefixModel)
    known = {key for section in sections for key in section.model_fields}
    # Names with an underscore are keys, counters, or one of these.
    others = {"forebay_kv", "forebay_version", "redis_version", "unsaved_writes", "used_memory", "used_memory_rss"}
    others |= {"expires_at", "updated_at", "key_file", "forebay_build"}
    # An example's column, and PostgreSQL's own names.
    others |= {"tenant_id", "search_path", "pg_stat_activity"}
    words = {word for code in named(name) for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", code)}
    # Metrics have a test of their own (tests/server/test_http.py).
    words = {word for word in words if not word.startswith(("forebay_", "process_", "json_")) or word in others}
    modules = {path.stem for room in ("protocol", "eviction", "persistence", "server") for path in walk(room)}
    # Fields of what CACHE.ADVISE and INFO memory say.
    others |= set(re.findall(r'"([a-z_]+)": ', text("server/advice.py")))
    others |= set(re.findall(r'yield "([a-z_]+)"', text("server/memory_limits.py") + text("server/collector.py")))
    others |= {"mem_reserve", "mem_not_counted_for_evict"}
    # What INFO tells of the journal, and tests, of which the loss table names one for each cell.
    others |= set(re.findall(r'"(journal_[a-z_]+)"', text("server/journaling.py")))
    tests = {
        name for path in walk("tests") for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    tests |= {path.stem for path in walk("tests")}
    unknown = words - known - others - counters() - modules - tests
    assert sorted(unknown) == []


def test_every_field_about_followers_is_explained() -> None:
    assert sorted(set(FOLLOWER_FIELDS) - set(named("docs/operations.md"))) == []


def counters() -> set[str]:
    return {*COUNTERS, *GAUGES}


def test_every_counter_is_explained() -> None:
    explained = {word for code in named("docs/operations.md") for word in re.findall(r"[a-z_]+", code)}
    assert sorted(counters() - explained) == []


# -- facts ------------------------------------------------------------------------------------------------------------


def test_changelog_has_the_version() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    headings = re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == version


def test_error_table_of_the_readme_is_what_the_server_answers() -> None:
    rows = set(re.findall(r"^\| `-([A-Z]+)", text("README.md"), re.MULTILINE))
    errors = [StoreDown(), StoreRejected("23514", "x"), StoreTimeout(), LoadTimeout(), RowVanished([])]
    replies = {reply_of(error).code for error in errors} | {
        reply_of(kind("x")).code for kind in EXPECTED if kind.__name__ in ("Busy", "CrossStore", "JournalError")
    }
    assert rows == replies | {DIRTY.code}


def test_redis_errors_of_the_readme_exist() -> None:
    ours = text("server/errors.py")
    line = re.search(r"All others are Redis's own: (.*)\.$", text("README.md"), re.MULTILINE)
    assert line is not None
    for code in re.findall(r"`-([A-Z]+)`", line[1]):
        assert f'Error("{code} ' in ours or f'"{code} ' in ours, code


def test_number_of_dictionaries_is_what_the_tour_says() -> None:
    assert len(Keyspace(1, 16).database(0).tables) == 1639
    assert "1,639 dictionaries" in text("docs/architecture.md")


# -- the first five minutes -------------------------------------------------------------------------------------------


def sessions() -> list[list[tuple[str, list[str]]]]:
    """The README's blocks of commands and replies: (command, lines of the reply)."""
    found = []
    for language, block in _FENCED.findall(text("README.md")):
        if language or not block.startswith("> "):
            continue
        steps: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("> "):
                # Two spaces begin the remark behind a command.
                steps.append((re.split(r" {2,}", line[2:])[0], []))
            else:
                steps[-1][1].append(line)
        found.append(steps)
    return found


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
def test_first_five_minutes_show_what_the_readme_says() -> None:
    blocks = sessions()
    assert len(blocks) == 2
    with ForebayProcess(arguments=["serve", "--demo", "--port", "0"]) as server:
        for steps in blocks:
            result = subprocess.run(
                ["redis-cli", "--no-raw", "-p", str(server.port)],
                input="".join(command + "\n" for command, _ in steps),
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            # redis-cli puts an empty line behind some errors.
            shown = [line for line in result.stdout.splitlines() if line]
            assert shown == [line for _, reply in steps for line in reply]
