"""The two builds: what runs is what the tree under test says, and the hook makes a wheel of either kind."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from protocol.quick import COMPILED

ROOT: Final = Path(__file__).resolve().parent.parent
# An extension module as mypyc might have written it, in short.
C: Final = """
#include <Python.h>
#include "answer.h"
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, "counter", NULL, 0, NULL};
PyMODINIT_FUNC PyInit_counter(void) {
    PyObject *module = PyModule_Create(&def);
    PyModule_AddIntConstant(module, "ANSWER", ANSWER);
    return module;
}
"""


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """hatch_build.py, loaded as hatchling loads it: without a place in sys.modules."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hook_of(builder: ModuleType, root: Path) -> Any:
    return builder.CompiledRooms(str(root), {}, None, None, str(root), "wheel")


def test_build_under_test_is_that_of_its_tree() -> None:
    assert any(ROOT.glob("protocol/quick.*.so")) == COMPILED


def test_modules_named_in_pyproject_exist_and_run_as_they_should(builder: ModuleType) -> None:
    names = builder.compiled_modules(ROOT)
    assert "server/dispatch.py" in names
    assert "persistence/engine.py" in names
    assert "persistence/stores/postgres.py" not in names
    loader = importlib.machinery.ExtensionFileLoader if COMPILED else importlib.machinery.SourceFileLoader
    for name in names:
        spec = importlib.util.find_spec(name.removesuffix(".py").replace("/", "."))
        assert spec is not None, name
        assert isinstance(spec.loader, loader), name
        assert Path(str(spec.origin)).is_relative_to(ROOT), name


def test_module_that_is_named_but_not_there_is_an_error(builder: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.forebay.compile]\nmodules = ["gone.py"]\ninterpreted = []\n')
    with pytest.raises(FileNotFoundError, match=r"gone\.py"):
        builder.compiled_modules(tmp_path)


def test_hook_without_a_compiler_leaves_the_wheel_interpreted(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    hook = hook_of(builder, ROOT)
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize("standard", data)
    hook.finalize("standard", data, "")
    assert data == {"force_include": {}, "pure_python": True}
    assert "no C compiler" in capsys.readouterr().err


def test_hook_puts_what_it_made_into_the_wheel_and_leaves_no_work_behind(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Path] = []

    def build(root: Path, work: Path, command: list[str]) -> dict[str, Path]:
        works.append(work)
        return {"protocol/quick.so": work / "quick.so"}

    monkeypatch.setattr(builder, "build", build)
    monkeypatch.setattr(builder, "compiler", lambda: ["cc"])
    hook = hook_of(builder, ROOT)
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize("standard", data)
    assert data["force_include"] == {str(works[0] / "quick.so"): "protocol/quick.so"}
    # A wheel for this Python on this machine, and not for any.
    assert (data["pure_python"], data["infer_tag"]) == (False, True)
    hook.finalize("standard", data, "")
    assert not works[0].exists()


def test_hook_leaves_an_editable_installation_alone(builder: ModuleType) -> None:
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook = hook_of(builder, ROOT)
    hook.initialize("editable", data)
    hook.finalize("editable", data, "")
    assert data == {"force_include": {}, "pure_python": True}


def test_objects_are_kept_until_their_source_or_a_header_changes(
    builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # mypyc itself takes ten seconds to start; script/test --compiled has it, all modules and all tests.
    command = builder.compiler()
    if command is None:
        pytest.skip("there is no C compiler")
    written = tmp_path / "work" / "c"
    written.mkdir(parents=True)
    (written / "counter.c").write_text(C)
    extension = builder.Extension("small.counter", (written / "counter.c",), ("-O0", f"-I{written}"))
    monkeypatch.setattr(builder, "_translate", lambda root, work: [extension])

    def answer(new: int) -> str:
        ((place, made),) = builder.build(tmp_path, tmp_path / "work", command).items()
        assert place == "small/counter" + str(sysconfig.get_config_var("EXT_SUFFIX"))
        assert f"1 files of C, {new} of them new" in capsys.readouterr().err
        program = "import counter; print(counter.ANSWER)"
        return subprocess.check_output([sys.executable, "-c", program], cwd=made.parent, text=True).strip()

    (written / "answer.h").write_text("#define ANSWER 42\n")
    assert answer(1) == "42"
    assert answer(0) == "42"
    (written / "answer.h").write_text("#define ANSWER 43\n")
    assert answer(1) == "43"
    (written / "counter.c").write_text(C.replace("ANSWER)", "ANSWER + 1)"))
    assert answer(1) == "44"
    assert len(list((tmp_path / "work" / "objects").iterdir())) == 1


def test_what_the_c_compiler_refuses_leaves_no_object(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = builder.compiler()
    if command is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "wrong.c"
    source.write_text("this is no C\n")
    monkeypatch.setattr(builder, "_translate", lambda root, work: [builder.Extension("wrong", (source,), ("-O0",))])
    with pytest.raises(subprocess.CalledProcessError):
        builder.build(tmp_path, tmp_path / "work", command)
    assert "wrong.c" in capfd.readouterr().err
    assert list((tmp_path / "work" / "objects").glob("*.o")) == []


def test_handlers_of_one_function_that_catch_different_things_name_them_differently(builder: ModuleType) -> None:
    # Compiled, a name has one type in the whole function: the second handler would raise TypeError instead of running.
    wrong = []
    for name in builder.compiled_modules(ROOT):
        for function in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            caught: dict[str, set[str]] = {}
            for handler in ast.walk(function):
                if isinstance(handler, ast.ExceptHandler) and handler.name and handler.type is not None:
                    caught.setdefault(handler.name, set()).add(ast.unparse(handler.type))
            wrong += [f"{name}, {function.name}: {each}" for each, kinds in caught.items() if len(kinds) > 1]
    assert wrong == []


def test_no_interpreted_class_inherits_from_a_compiled_one(builder: ModuleType) -> None:
    compiled = set(builder.compiled_modules(ROOT))
    trees = {path: ast.parse((ROOT / path).read_text()) for path in modules_of_the_rooms()}
    # Compiled all the same as classes of Python's own: protocols, and what inherits from an exception or a tuple.
    native = {
        (path, node.name)
        for path in compiled
        for node in ast.walk(trees[path])
        if isinstance(node, ast.ClassDef)
        and not any("allow_interpreted" in ast.unparse(d) for d in node.decorator_list)
    }
    wrong = []
    for path in trees.keys() - compiled:
        imported = {
            alias.asname or alias.name: (node.module.replace(".", "/") + ".py", alias.name)
            for node in ast.walk(trees[path])
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ClassDef):
                bases = [imported.get(ast.unparse(base)) for base in node.bases]
                wrong += [f"{path}: {node.name} inherits from {base[1]}" for base in bases if base in native]
    assert wrong == []


def modules_of_the_rooms() -> list[str]:
    """Every module of the four rooms."""
    rooms = ("protocol", "eviction", "persistence", "server")
    return [str(path.relative_to(ROOT)) for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
