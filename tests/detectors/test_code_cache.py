"""Machine code is compiled once for each machine, whatever the folders are like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest

from streamgauge.detectors.code_cache import origin_of
from streamgauge.detectors.compiled import compiled

ROOT = Path(__file__).parents[2]

SOURCES = {
    "inner.py": """
from streamgauge.detectors.compiled import compiled
@compiled
def helper(x):
    return x + 1.0
""",
    "outer.py": """
from streamgauge.detectors.compiled import compiled
from inner import helper
def doubled(function):
    def twice(x):
        return 2 * function(x)
    return compiled(twice)
twice = doubled(helper)
""",
    "main.py": """
import json
import outer
from streamgauge.detectors.compiled import FUNCTIONS
answer = outer.twice(1.0)
ours = [f for f in FUNCTIONS if f.__module__ in ("inner", "outer")]
print(json.dumps({
    "answer": answer,
    "hits": sum(sum(f.stats.cache_hits.values()) for f in ours),
    "misses": sum(sum(f.stats.cache_misses.values()) for f in ours),
    "paths": [f.stats.cache_path for f in ours if f.stats.cache_path],
}))
""",
}
# Runs a command that may write only where the owner of a folder may, even if root runs it: without
# CAP_DAC_OVERRIDE.
WITHOUT_POWERS = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@pytest.fixture
def program(tmp_path):
    """Writes the sources to a folder; runs them in a process of their own."""
    folder = tmp_path / "program"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)

    def run(*, powers=True, **variables):
        prefix = [] if powers else [sys.executable, "-c", WITHOUT_POWERS]
        home = tmp_path / "home"
        environment = {"HOME": str(home), "PYTHONPATH": str(ROOT), **variables}
        done = subprocess.run(
            [*prefix, sys.executable, "-W", "error", str(folder / "main.py")],
            cwd=tmp_path,
            env={**_without_numba(os.environ), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.folder = folder
    return run


def _without_numba(environment):
    keep = {k: v for k, v in environment.items() if not k.startswith(("NUMBA_", "XDG_"))}
    return {**keep, "PYTHONDONTWRITEBYTECODE": "1"}


def kept(folder):
    return sorted(folder.rglob("*.nbc"))


def test_the_second_process_compiles_nothing(program):
    beside_source = str(program.folder / "__pycache__")
    assert program() == {"answer": 4.0, "hits": 0, "misses": 2, "paths": [beside_source] * 2}
    # What it needs to compile another one, it need not even load.
    assert program() == {"answer": 4.0, "hits": 1, "misses": 0, "paths": [beside_source]}


def test_what_cannot_be_written_is_read_and_what_cannot_be_read_is_compiled(program, tmp_path):
    program.folder.chmod(0o555)
    nowhere = {"NUMBA_CACHE_DIR": "/dev/null/x", "XDG_CACHE_HOME": "~/cache", "HOME": "/dev/null"}
    done = program(powers=False, **nowhere)
    assert done == {"answer": 4.0, "hits": 0, "misses": 2, "paths": []}

    done = program(powers=False)
    in_home = tmp_path / "home" / ".cache" / "numba"
    assert done["misses"] == 2
    assert all(path.startswith(str(in_home)) for path in done["paths"])

    for path in (in_home, *in_home.iterdir()):
        path.chmod(0o555)
    done = program(powers=False)
    assert (done["answer"], done["hits"], done["misses"]) == (4.0, 1, 0)


def test_processes_that_compile_at_once_leave_what_each_can_use(program):
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: program(), range(3)))
    assert [one["answer"] for one in done] == [4.0] * 3
    last = program()
    assert (last["answer"], last["misses"]) == (4.0, 0)
    assert list(program.folder.rglob("*.tmp.*")) == []


SCALE, TABLE = 2.0, "abc"


@compiled
def callee(x):
    return x * SCALE


def caller(x):
    return callee(x)


def multiplier(factor):
    def multiplied(x):
        return factor * callee(x)

    return multiplied


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "chosen"))
    return tmp_path / "chosen"


def called(function, x=1.0):
    """What the function answers as another process would make it, and whether it was compiled."""
    dispatcher = compiled(function)
    answer = dispatcher(x)
    return answer, bool(dispatcher.stats.cache_misses)


def test_the_chosen_folder_comes_first(chosen):
    assert called(caller) == (2.0, True)
    assert called(caller) == (2.0, False)
    assert called(caller, 1) == (2.0, True)
    assert [called(caller), called(caller, 1)] == [(2.0, False)] * 2
    assert kept(chosen)


def test_what_a_function_calls_is_part_of_it(chosen, monkeypatch):
    called(caller)
    before = list(chosen.rglob("*caller*"))
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    monkeypatch.setattr(sys.modules[__name__], "callee", compiled(callee.py_func))
    assert called(caller) == (3.0, True)
    # In place of the old one.
    assert list(chosen.rglob("*caller*")) == before


def test_functions_of_one_name_have_files_of_their_own(chosen):
    answers = [called(multiplier(factor)) for factor in (3.0, 5.0)]
    assert answers == [(6.0, True), (10.0, True)]
    assert [called(multiplier(factor)) for factor in (3.0, 5.0)] == [(6.0, False), (10.0, False)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-100] + bytes(100),
        lambda data: b"\x80\x05]" + data[3:],
        lambda data: b"N.",
        lambda data: data[: len(data) // 2] + b"\xff" * 64 + data[len(data) // 2 + 64 :],
    ],
)
def test_damaged_files_are_made_anew(chosen, damage):
    called(caller)
    for path in kept(chosen):
        path.write_bytes(damage(path.read_bytes()))
    assert called(caller) == (2.0, True)
    assert called(caller) == (2.0, False)


def test_what_another_numba_has_left_is_not_used(chosen, monkeypatch):
    called(caller)
    monkeypatch.setattr(numba, "__version__", "0")
    assert called(caller) == (2.0, True)


def of_constants(x):
    return x if TABLE in {"abc", "b", "c", "d"} else [y * x for y in (x, 1)]


def test_the_origin_is_the_same_in_every_process(monkeypatch):
    # Sets of text, and the addresses of code in code, differ from process to process.
    program = (
        "from streamgauge.detectors.code_cache import origin_of; from tests.detectors.test_code_cache import *;"
        "print(origin_of(of_constants))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    before = origin_of(of_constants)
    assert done.stdout.strip() == before
    monkeypatch.setattr(sys.modules[__name__], "TABLE", "x")
    assert origin_of(of_constants) != before
