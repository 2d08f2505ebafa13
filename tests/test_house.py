"""Rules of the whole house: one name for one thing, and one root of all errors."""

import ast
import importlib
import re
from collections import defaultdict
from pathlib import Path

import click
import pytest

from streamgauge.detectors import DetectorError
from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.stream.config import ConfigError
from tests.test_imports import FILES, ROOT, tree

# Not constants, which are all capitals: `Name = Literal[...]`, `Name = A | B`, `Name: TypeAlias`.
_TYPE_NAME = re.compile(r"_?[A-Z]\w*[a-z]\w*")

STARTED = re.compile(r'("-P", )?"-m", "streamgauge\b')


def starts(source):
    """For each command that starts our program by its module: whether it has `-P`."""
    return [bool(flag) for flag in STARTED.findall(" ".join(source.split()))]


def class_names(module):
    """Names of the classes that a tree defines, at whatever depth."""
    return [node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)]


def alias_names(module):
    """Names that a module's own statements give to types."""
    found = []
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp()):
                found.append(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=value)):
                found += [name] if _TYPE_NAME.fullmatch(value) else []
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                found += [name] if "TypeAlias" in ast.unparse(annotation) else []
            case _ if type(node).__name__ == "TypeAlias":  # `type Name = ...`, from Python 3.12
                found.append(node.name.id)
    return [name for name in found if _TYPE_NAME.fullmatch(name)]


def test_no_name_of_a_class_or_type_is_given_twice():
    homes = defaultdict(list)
    for file in FILES:
        module = tree(file)
        for name in (*class_names(module), *alias_names(module)):
            homes[name].append(file)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def errors_of(file):
    """The exception classes that a file defines."""
    path = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = importlib.import_module(f"streamgauge.{path}")
    for value in vars(module).values():
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        if is_error and value.__module__ == module.__name__:
            yield value


def test_every_error_has_the_root():
    files = [file for file in FILES if not file.endswith("__main__.py")]
    errors = [error for file in files for error in errors_of(file)]
    assert len(errors) > 20
    roots = (StreamgaugeError, click.ClickException)
    assert [error for error in errors if not issubclass(error, roots)] == []


def test_an_error_is_still_what_it_is_in_python():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DetectorError, RuntimeError)


def test_our_program_is_never_started_with_the_current_folder_on_its_path():
    files = [path for top in ("consumers", "tests", "docs") for path in (ROOT / top).rglob("*.py")]
    found = {str(path): starts(path.read_text(encoding="utf-8")) for path in files}
    del found[str(Path(__file__))]
    assert sum(map(len, found.values())) > 10
    assert [path for path, are_safe in found.items() if not all(are_safe)] == []


# The rules themselves: a check that finds nothing must be able to find something.


@pytest.mark.parametrize(
    "source",
    [
        "Kind = Literal['a', 'b']",
        "Kind = dict[str, Any]",
        "Kind = A | B",
        "Kind = Other",
        "Kind: TypeAlias = int",
    ],
)
def test_a_type_alias_is_found(source):
    assert alias_names(ast.parse(source)) == ["Kind"]


@pytest.mark.parametrize("source", ["KIND_MAX = table[1]", "Kind = 5", "T = A | B", "kind = A | B"])
def test_a_constant_is_no_type_alias(source):
    assert alias_names(ast.parse(source)) == []


def test_classes_are_found_wherever_they_are():
    source = "class A:\n    class B: pass\ndef f():\n    class C: pass\n"
    assert class_names(ast.parse(source)) == ["A", "B", "C"]


def test_a_start_from_the_current_folder_is_found():
    source = '[sys.executable, "-X", "dev",\n  "-m",\n  "streamgauge.consumers.cli"]'
    assert starts(source) == [False]
    assert starts(source.replace('"-m"', '"-P",\n "-m"')) == [True]


def _docstrings(module):
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "name", "the module"), text


@pytest.mark.parametrize("file", FILES)
def test_docstrings_open_with_a_verb_or_a_noun(file):
    """The imperative of functions is ruff's business (D401)."""
    questions = ("What", "Whether", "How", "Where", "Which", "Who", "When", "Why")
    asking = [name for name, text in _docstrings(tree(file)) if text.split()[0] in questions]
    assert asking == []
