"""The command line: argv → Config → one of five commands → exit code.

0  clean            2  bad configuration or usage: one line on standard error
1  crash            3  journal corrupt        4  shut down with unsaved writes
141  whoever read the output went before its end (`| head`), as for any program that SIGPIPE ends
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from persistence.errors import JournalCorrupt, JournalError
from persistence.prefixes import WRITE_BEHIND, PrefixRule
from persistence.stores import postgres, sqlite
from server import app, journal_tool
from server.config import Config, StoreConfig, load_config, warnings
from server.config_units import host, whole
from server.demo import Demo
from server.errors import ConfigError
from server.info import BUILD
from server.logs import FORMATS, LEVELS, set_up_logging

CLEAN: Final = 0
BAD_USAGE: Final = 2
JOURNAL_CORRUPT: Final = 3
READER_GONE: Final = 128 + 13
_GENERIC_TABLE: Final = {"postgresql": postgres.CREATE_GENERIC, "sqlite": ";\n".join(sqlite.CREATE_GENERIC) + ";"}
_APPLIED_TABLE: Final = {"postgresql": postgres.CREATE_APPLIED, "sqlite": sqlite.CREATE_APPLIED + ";"}

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """argparse, with refusals of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` (default: this process's) names; the exit code."""
    code = READER_GONE
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go: the interpreter would fail over it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(argv: list[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as done:
        # --help, or a refusal that has been printed.
        return int(done.code or 0)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        print(f"forebay: {error}", file=sys.stderr)
        return BAD_USAGE
    except JournalCorrupt as error:
        print(f"forebay: the journal is damaged: {error}; see `forebay journal repair`", file=sys.stderr)
        return JOURNAL_CORRUPT
    except JournalError as error:
        print(f"forebay: {error}", file=sys.stderr)
        return BAD_USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="forebay", description="A cache server that speaks the Redis protocol.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_own_version(), help="print the version alone")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    serve = commands.add_parser("serve", help="run the server", allow_abbrev=False)
    source = serve.add_mutually_exclusive_group()
    source.add_argument("-c", "--config", metavar="FILE", type=Path, help="configuration (without: a plain cache)")
    source.add_argument("--demo", action="store_true", help="sample tables in an embedded SQLite file, every strategy")
    serve.add_argument(
        "--bind", metavar="ADDR", type=_typed(host), action="append", help="listen here instead (repeatable)"
    )
    serve.add_argument("--port", metavar="N", type=_typed(whole(0, 65535)), help="TCP port; 0 picks a free one")
    serve.add_argument("--log-level", choices=LEVELS, default="info", metavar="LEVEL", help=", ".join(LEVELS))
    serve.add_argument("--log-format", choices=FORMATS, default="text", metavar="FORMAT", help=", ".join(FORMATS))
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate a configuration", allow_abbrev=False)
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--connect", action="store_true", help="compare every mapping with the live schema, too")
    check.set_defaults(run=_check)

    sql = commands.add_parser("sql", help="print the SQL that a configuration wants", allow_abbrev=False)
    sql.add_argument("file", metavar="FILE", type=Path)
    sql.set_defaults(run=_sql)

    journal = commands.add_parser("journal", help="look after a journal directory", allow_abbrev=False)
    journal.add_argument("action", choices=("inspect", "verify", "repair"))
    journal.add_argument("dir", metavar="DIR", type=Path)
    journal.set_defaults(run=_journal)

    commands.add_parser("version", help="print versions", allow_abbrev=False).set_defaults(run=_version)
    return parser


def _typed(reader: Callable[[object], T]) -> Callable[[str], T]:
    # argparse shows the text of an ArgumentTypeError only.
    def read(text: str) -> T:
        try:
            return reader(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _serve(options: argparse.Namespace) -> int:
    if options.demo:
        return _serve_demo(options)
    config = load_config(options.config, os.environ) if options.config else Config()
    set_up_logging(options.log_level, options.log_format)
    return app.serve(_overridden(config, options), options.config, None)


def _serve_demo(options: argparse.Namespace) -> int:
    set_up_logging(options.log_level, options.log_format)
    demo = Demo()
    config = _overridden(demo.config, options)
    code = app.serve(config, demo.config_path, demo.banner)
    # After anything but a clean exit the file stays, to be looked at.
    if code == CLEAN:
        demo.remove()
    return code


def _overridden(config: Config, options: argparse.Namespace) -> Config:
    server = config.server
    if options.bind:
        server = dataclasses.replace(server, bind=tuple(dict.fromkeys(options.bind)))
    if options.port is not None:
        server = dataclasses.replace(server, port=options.port)
    return dataclasses.replace(config, server=server)


def _check(options: argparse.Namespace) -> int:
    config = load_config(options.file, os.environ)
    print(f"{options.file}: {_count(len(config.stores), 'store')}, {_count(len(config.rules), 'rule')}")
    for rule in config.rules:
        print(f"  {_summary(rule)}")
    for warning in warnings(config):
        print(f"forebay: {options.file}: warning: {warning}", file=sys.stderr)
    problems = app.check_connect(config) if options.connect else []
    for problem in problems:
        print(f"forebay: {options.file}: {problem}", file=sys.stderr)
    return BAD_USAGE if problems else CLEAN


def _summary(rule: PrefixRule) -> str:
    parts = [rule.name, f"read {rule.read}", f"write {rule.write}"]
    if rule.loads or rule.saves:
        source = rule.table or ("custom load" if rule.load else "generic table")
        value = f" as {rule.form}" if not rule.generic else ""
        parts.append(f"{rule.store}: {source}{value}")
    parts.append(f"ttl {_duration(rule.ttl_s)}" if rule.ttl_s else "no ttl")
    if rule.write == WRITE_BEHIND:
        parts.append(f"saved within {_duration(rule.write_delay_s)}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    # As the configuration spells it.
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sql(options: argparse.Namespace) -> int:
    config = load_config(options.file, os.environ)
    scripts = list(_scripts(config))
    if not scripts:
        print(
            f"-- {options.file} wants no tables: no prefix uses the generic table of an SQL store, none has"
            ' invalidate = "notify", and there is no journal for one with write = "write-behind"'
        )
    for store, what, sql in scripts:
        # The URL is not shown: what is printed here is piped and mailed around.
        print(f"-- [stores.{store.name}], {store.kind}: {what}\nBEGIN;")
        if store.kind == "postgresql":
            # It need not tell what is there already.
            print("SET LOCAL client_min_messages = warning;")
        print(f"{sql.strip()}\nCOMMIT;")
    return CLEAN


def _scripts(config: Config) -> Iterator[tuple[StoreConfig, str, str]]:
    """What is to be run where: the store, what for, the SQL."""
    for store in config.stores.values():
        if store.kind == "memory":
            continue
        rules = [rule for rule in config.rules if rule.store == store.name]
        if any(rule.generic and (rule.loads or rule.saves) for rule in rules):
            yield store, "the generic table, created at start unless it exists", _GENERIC_TABLE[store.kind]
        if config.journal.dir and any(rule.write == WRITE_BEHIND for rule in rules):
            what = "the journal's numbers of what is committed, created by the first flush unless it exists"
            yield store, what, _APPLIED_TABLE[store.kind]
        triggers = app.triggers_sql(config, store.name)
        if triggers:
            yield store, "the outbox and the triggers of prefixes that follow their tables", triggers


def _journal(options: argparse.Namespace) -> int:
    return journal_tool.run(options.action, options.dir)


def _own_version() -> str:
    try:
        return f"forebay {version('forebay')}"
    except PackageNotFoundError:
        return "forebay (a checkout that is not installed)"


def _version(_options: argparse.Namespace) -> int:
    print(_own_version())
    print(f"python {platform.python_version()} ({platform.python_implementation()})")
    print(BUILD)
    print(f"uvloop {version('uvloop')}")
    return CLEAN
