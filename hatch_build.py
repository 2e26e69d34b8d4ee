"""The compiled build: the hot road's modules through mypyc and the C compiler, from the same sources that Python runs.

Two users: hatchling when it makes a wheel, asked by HATCH_BUILD_HOOKS_ENABLE=true, and `script/compile`, which makes a
compiled tree beside the checkout, and makes it again after every change.

mypyc translates all modules together, so that they call each other directly: one file of C for each and one for all.
That is some 25 MB of C, and the C compiler is what takes the time. So it runs once for each processor, and objects
whose inputs have not changed are kept. One library holds everything; beside each `.py` lies a small extension module
that finds itself there. The `.py` files stay: tracebacks quote them.

Rejected: hatch-mypyc, which has setuptools compile one file after the other, all of them every time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
_EXTENSION: Final = str(sysconfig.get_config_var("EXT_SUFFIX"))
# -O3 makes the C compiler's work a third longer, and nothing faster that was measured.
_OPTIMIZATION: Final = "2"
# Hidden: what the modules call of each other is not looked up by name. The other two are Python's own for extensions.
_FLAGS: Final = ("-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-fwrapv")


class Extension(NamedTuple):
    """What becomes one extension module."""

    name: str
    sources: tuple[Path, ...]
    # Arguments for the C compiler.
    flags: tuple[str, ...]


# -- what is compiled -------------------------------------------------------------------------------------------------


def compiled_modules(root: Path) -> list[str]:
    """The modules that are compiled, as paths below `root`: `[tool.forebay.compile]` of pyproject.toml decides."""
    settings = _pyproject(root)["tool"]["forebay"]["compile"]
    wanted = [path for name in settings["modules"] for path in _modules(root, name)]
    left_out = {path for group in settings["interpreted"] for name in group["modules"] for path in _modules(root, name)}
    return [path for path in wanted if path not in left_out]


def _modules(root: Path, name: str) -> list[str]:
    # A module, or all of a package but the packages' own files, which are empty.
    path = root / name
    if path.is_file():
        return [name]
    if not path.is_dir():
        raise FileNotFoundError(f"pyproject.toml: tool.forebay.compile names {name}, which does not exist")
    found = sorted(path.rglob("*.py"))
    return [each.relative_to(root).as_posix() for each in found if each.name != "__init__.py"]


def _pyproject(root: Path) -> dict[str, Any]:
    with (root / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


# -- compiling --------------------------------------------------------------------------------------------------------


def compiler() -> list[str] | None:
    """The command of the C compiler that this Python wants for extensions; None when it is not installed."""
    command = shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc"))
    return command if shutil.which(command[0]) else None


def build(root: Path, work: Path, command: list[str]) -> dict[str, Path]:
    """Compile the modules of `root`: the extension modules made, by the path beside the sources where they belong.

    Everything made lies in `work`, which may be the one of an earlier build. subprocess.CalledProcessError when mypyc
    or the C compiler refuses; they have told why.
    """
    work.mkdir(parents=True, exist_ok=True)
    extensions = _translate(root, work)
    headers = _digest(sorted((work / "c").glob("*.h")))
    objects: dict[Path, Path] = {}
    missing: list[tuple[list[str], Path, Path]] = []
    (work / "objects").mkdir(exist_ok=True)
    for extension in extensions:
        argv = [*command, *extension.flags, *_FLAGS, f"-I{sysconfig.get_path('include')}", "-c"]
        for source in extension.sources:
            if source in objects:
                continue
            # What an object was made of is its name.
            made_of = hashlib.sha256(repr(argv).encode() + headers + source.read_bytes()).hexdigest()
            objects[source] = work / "objects" / f"{made_of[:32]}.o"
            if not objects[source].exists():
                missing.append((argv, source, objects[source]))
    for stale in set((work / "objects").iterdir()) - set(objects.values()):
        stale.unlink()
    say(f"{len(objects)} files of C, {len(missing)} of them new")
    # The largest first, so that at the end no processor has to wait for one of them.
    missing.sort(key=lambda each: -each[1].stat().st_size)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for count, _ in enumerate(pool.map(_compile, missing), 1):
            if count % 50 == 0:
                say(f"{count} compiled")
        made = list(pool.map(lambda each: _link(each, objects, work / "modules"), extensions))
    return {path.relative_to(work / "modules").as_posix(): path for path in made}


def _translate(root: Path, work: Path) -> list[Extension]:
    # mypyc names modules by where it stands, so it gets a process of its own that stands in the right place.
    say("mypyc translates")
    argv = [sys.executable, str(Path(__file__).resolve()), "--translate", str(work)]
    told = subprocess.run(argv, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if told.returncode:
        sys.stderr.write(told.stdout)
        raise subprocess.CalledProcessError(told.returncode, argv)
    extensions = []
    for line in told.stdout.splitlines():
        if line.startswith("extension\t"):
            _, name, sources, flags = line.split("\t")
            extensions.append(Extension(name, tuple(map(Path, sources.split("|"))), tuple(flags.split("|"))))
    return extensions


def translate(work: Path) -> None:
    """Write the C of the modules of the working directory, and tell on standard output what to make of it."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only this needs it, and it is slow to import

    # Types are checked by script/test, with stubs of the libraries that need not be installed here. Their absence must
    # not stop the build: what is not known is called as Python does it.
    options = ["--config-file=", "--ignore-missing-imports", f"--cache-dir={work / 'types'}"]
    for extension in mypycify(
        [*options, *compiled_modules(Path.cwd())],
        opt_level=_OPTIMIZATION,
        debug_level="0",
        multi_file=True,
        target_dir=str(work / "c"),
        group_name="forebay",
    ):
        flags = [*extension.extra_compile_args, *(f"-I{path}" for path in extension.include_dirs)]
        print("extension", extension.name, "|".join(extension.sources), "|".join(flags), sep="\t")


def _compile(job: tuple[list[str], Path, Path]) -> None:
    argv, source, made = job
    part = made.with_suffix(".part")
    subprocess.run([*argv, str(source), "-o", str(part)], check=True)
    part.replace(made)


def _link(extension: Extension, objects: dict[Path, Path], target: Path) -> Path:
    made = target / (extension.name.replace(".", "/") + _EXTENSION)
    parts = [objects[source] for source in extension.sources]
    if not made.exists() or made.stat().st_mtime < max(part.stat().st_mtime for part in parts):
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_suffix(".part")
        linker = shlex.split(str(sysconfig.get_config_var("LDSHARED")))
        subprocess.run([*linker, "-s", *map(str, parts), "-o", str(new)], check=True)
        new.replace(made)
    return made


def _digest(paths: Iterable[Path]) -> bytes:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.digest()


def say(text: str) -> None:
    """Progress, for whoever watches."""
    print(f"compile: {text}", file=sys.stderr, flush=True)


# -- for hatchling ----------------------------------------------------------------------------------------------------


class CompiledRooms(BuildHookInterface[Any]):
    """Puts the extension modules into a wheel; without a C compiler it becomes the interpreted one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is put together."""
        # Removed in `finalize`, when the wheel has been written.
        self.work: Path | None = None
        if version == "editable":
            say("an editable installation runs the sources; script/compile makes a compiled tree of them")
            return
        command = compiler()
        if command is None:
            say("there is no C compiler: the wheel will be an interpreted one")
            return
        self.work = Path(tempfile.mkdtemp(prefix="forebay-compile-"))
        for place, made in build(Path(self.root), self.work, command).items():
            build_data["force_include"][str(made)] = place
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After it."""
        if self.work is not None:
            shutil.rmtree(self.work)


# -- for script/compile -----------------------------------------------------------------------------------------------


def build_tree(target: Path) -> None:
    """Make `target` a copy of what a source distribution holds, compiled; what is there stays until that is done."""
    command = compiler()
    if command is None:
        raise SystemExit("script/compile: there is no C compiler; on Debian and Ubuntu: apt-get install gcc")
    work = target.with_name(f"{target.name}.work")
    # A copy first: what is edited while the compiler runs is either in both forms or in neither.
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    # By its time script/serve tells whether the sources have changed since.
    (tree / ".made").touch()
    for name in ["pyproject.toml", *_pyproject(ROOT)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]:
        _copy(ROOT / name, tree / name)
    try:
        made = build(tree, work, command)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"script/compile: {Path(error.cmd[0]).name} failed; {target} is what it was") from None
    for place, path in made.items():
        shutil.copy2(path, tree / place)
    shutil.rmtree(target, ignore_errors=True)
    tree.rename(target)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    else:
        shutil.copy2(source, target)


def main() -> None:
    """`hatch_build.py TARGET`: make a compiled tree."""
    parser = argparse.ArgumentParser(description="Makes a compiled copy of the checkout.")
    parser.add_argument("target", type=Path, nargs="?", default=ROOT / "build" / "compiled")
    parser.add_argument("--translate", type=Path, metavar="WORK", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.translate is not None:
        translate(options.translate)
    else:
        build_tree(options.target.resolve())


if __name__ == "__main__":
    main()
