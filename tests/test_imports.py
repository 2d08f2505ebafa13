"""Imports run one way, the core touches nothing of the world, and slow things wait."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import streamgauge

ROOT = Path(__file__).parents[1]
LAYERS = ("detectors", "stream", "consumers")
FULL_NAMES = tuple(f"streamgauge.{layer}" for layer in LAYERS)
PURE = ("detectors", "stream")
FILES = {
    str(path.relative_to(ROOT)): path
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
}
PURE_FILES = [name for name in FILES if name.split("/")[0] in PURE]

# Modules whose mere import says that a clock, a log, a thread, a file or a socket is wanted.
WORLDLY = {
    "asyncio", "fcntl", "glob", "http", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "queue", "requests", "sched", "select", "selectors", "shutil", "signal", "socket",
    "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib.request", "uuid",
    "concurrent",
}  # fmt: skip
NOW = {"now", "utcnow", "today"}
UNSEEDED = {
    "betavariate", "choice", "choices", "gauss", "getrandbits", "normalvariate", "randbytes",
    "randint", "random", "randrange", "sample", "seed", "shuffle", "uniform", "SystemRandom",
    "default_rng", "rand", "randn", "normal", "permutation",
}  # fmt: skip
# Generators that are made to be given a stored state at once.
RESTORED = {"detectors/codec.py": ("random.Random()", "np.random.RandomState()")}


def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"), name)


def imports(node, *, package=""):
    """Absolute names of what a tree imports, with the line."""
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            yield from ((alias.name, item.lineno) for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{package}:{item.lineno}: imports are absolute here"
            yield item.module, item.lineno
            yield from ((f"{item.module}.{alias.name}", item.lineno) for alias in item.names)


def is_of(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


def at_module_level(module):
    """The module's statements that run when it is imported, without those for type checkers."""
    top = ast.Module(body=[], type_ignores=[])
    todo = list(module.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            top.body.append(node)
        todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return top


def dotted(node):
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def worldly_uses(module):
    """Calls in a tree that read a clock, open a file or draw unseeded randomness."""
    imported = {
        alias.asname or alias.name: f"{item.module}.{alias.name}"
        for item in ast.walk(module)
        if isinstance(item, ast.ImportFrom)
        for alias in item.names
    }
    for call in ast.walk(module):
        if not isinstance(call, ast.Call):
            continue
        name = dotted(call.func)
        owner, _, last = imported.get(name, name).rpartition(".")
        if (
            name in ("open", "input", "exec", "eval", "__import__", "breakpoint")
            or (last in NOW and owner.split(".")[-1] in ("datetime", "date"))
            or (
                owner in ("random", "np.random", "numpy.random", "secrets")
                and last in UNSEEDED
                and not (last == "default_rng" and call.args)
            )
            or (
                last in ("Random", "RandomState")
                and owner.split(".")[-1] == "random"
                and not call.args
            )
        ):
            yield f"{call.lineno}: {ast.unparse(call)}"


def test_there_are_files_in_every_layer():
    assert {name.split("/")[0] for name in FILES} == set(LAYERS)
    assert len(FILES) > 30


@pytest.mark.parametrize("name", FILES)
def test_no_layer_imports_one_above_it(name):
    layer = LAYERS.index(name.split("/")[0])
    above = FULL_NAMES[layer + 1 :]
    assert [entry for entry in imports(tree(name), package=name) if is_of(entry[0], above)] == []


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_imported_by_a_bare_name(name):
    assert [entry for entry in imports(tree(name), package=name) if is_of(entry[0], LAYERS)] == []


@pytest.mark.parametrize("name", PURE_FILES)
def test_the_core_touches_nothing_of_the_world(name):
    module = tree(name)
    assert [entry for entry in imports(module, package=name) if is_of(entry[0], WORLDLY)] == []
    assert [
        use for use in worldly_uses(module) if use.split(": ")[1] not in RESTORED.get(name, ())
    ] == []


@pytest.mark.parametrize("name", FILES)
def test_kafka_and_mlflow_are_each_imported_in_one_place_only(name):
    module = tree(name)
    of_kafka = [e for e in imports(module) if is_of(e[0], ("kafka", "confluent_kafka"))]
    of_mlflow = [e for e in imports(module) if is_of(e[0], ("mlflow",))]
    if not name.startswith("consumers/kafka/"):
        assert of_kafka == []
    if not name.startswith("consumers/mlflow/"):
        assert [e for e in of_mlflow if not _for_type_checkers(module, e)] == []
    assert [e for e in imports(at_module_level(module)) if is_of(e[0], ("mlflow",))] == []


def _for_type_checkers(module, entry):
    return any(
        entry in imports(node)
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )


SLOW = ("river", "mlflow", "numpy", "pandas", "scipy", "sklearn", "kafka", "sqlalchemy")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("streamgauge.detectors", SLOW),
        ("streamgauge.detectors.base", (*SLOW, "pydantic")),
        ("streamgauge", SLOW),
        ("streamgauge.stream.config", SLOW),
        ("streamgauge.stream.contracts", SLOW),
        ("streamgauge.stream.events", SLOW),
        ("streamgauge.stream.records", SLOW),
        ("streamgauge.consumers.broker", SLOW),
        ("streamgauge.consumers.cli.main", (*SLOW, "rich.live")),
        ("streamgauge.consumers.terminal.tail", SLOW),
        ("streamgauge.consumers.traffic.produce", SLOW),
    ],
)
def test_what_must_start_at_once_does_not_import_what_is_slow(module, absent):
    program = f"import sys, {module}; print(*[m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == []


def test_every_name_of_a_package_can_be_had():
    program = (
        "import streamgauge, streamgauge.detectors\n"
        "for package in (streamgauge, streamgauge.detectors):\n"
        "    for name in package.__all__:\n"
        "        getattr(package, name)\n"
        "    try:\n"
        "        package.no_such_name\n"
        "    except AttributeError as error:\n"
        "        assert 'no_such_name' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_the_public_names_are_the_same_wherever_they_are_listed():
    module = ast.parse((ROOT / "streamgauge" / "__init__.py").read_text(encoding="utf-8"))
    for_checkers = {
        alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for item in node.body
        for alias in item.names
    }
    assert set(streamgauge.__all__) == streamgauge._MODULES.keys() == for_checkers


# The rules themselves: a check that finds nothing must be able to find something.


@pytest.mark.parametrize(
    "source",
    [
        "open('x')",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "from datetime import date\ndate.today()",
        "import random\nrandom.random()",
        "import random\nrandom.Random()",
        "from random import shuffle\nshuffle(x)",
        "import numpy as np\nnp.random.default_rng()",
        "import numpy as np\nnp.random.normal(0, 1)",
    ],
)
def test_worldly_uses_are_found(source):
    assert list(worldly_uses(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import random\nrandom.Random(1).random()",
        "import numpy as np\nnp.random.default_rng(3)",
        "from datetime import datetime\ndatetime.fromtimestamp(1, tz)",
    ],
)
def test_seeded_and_timeless_uses_are_not(source):
    assert list(worldly_uses(ast.parse(source))) == []


def test_imports_in_functions_and_for_type_checkers_are_not_at_module_level():
    source = "if TYPE_CHECKING:\n    import a\ntry:\n    import b\nfinally:\n    pass\ndef f():\n    import c\nclass C:\n    import d\n"
    assert {name for name, _ in imports(at_module_level(ast.parse(source)))} == {"b", "d"}
