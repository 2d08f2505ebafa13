"""numba's and llvmlite's names without a promise that our code leans on: what each must do.

A new version of either is let in (pyproject.toml caps them) when these pass with it.
"""

import inspect
import re
import tomllib
from pathlib import Path

import llvmlite
import numba
import numpy as np
import pytest
from llvmlite import ir
from numba.core import caching as numba_caching
from numba.core import cgutils, config, types
from numba.core.dispatcher import Dispatcher
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def step(x):
    return x + 1


@pytest.fixture
def dispatcher():
    return numba.njit(step)


@pytest.mark.parametrize("module", [numba, llvmlite])
def test_what_is_newer_than_what_is_tested_is_not_let_in(module):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    pins = (ROOT / "constraints.txt").read_text()
    tested = re.search(rf"^{module.__name__}==([\d.]+)$", pins, re.MULTILINE)[1]
    major, minor = map(int, tested.split(".")[:2])
    specifier = wanted[module.__name__]
    assert specifier.contains(tested)
    assert not specifier.contains(f"{major}.{minor + 1}.0")


def test_a_dispatcher_asks_its_cache_before_it_compiles_and_gives_it_what_it_compiled(dispatcher):
    asked = []

    class Cache(numba_caching.NullCache):
        def load_overload(self, sig, target_context):
            asked.append(("load", sig, target_context is not None))

        def save_overload(self, sig, data):
            asked.append(("save", sig, data.signature.return_type))

    dispatcher._cache = Cache()
    assert dispatcher(1) == 2
    assert [name for name, *_ in asked] == ["load", "save"]
    assert asked[0][1] == asked[1][1] == (types.intp,)


def test_a_dispatcher_has_its_function_its_options_and_its_counts(dispatcher):
    assert isinstance(dispatcher, Dispatcher)
    assert dispatcher.py_func is step
    assert dict(dispatcher.targetoptions)["nopython"] is True
    assert {"cache_path", "cache_hits", "cache_misses"} <= set(dispatcher.stats._fields)


def test_compile_gives_a_function_that_takes_just_these_types(dispatcher):
    assert dispatcher.compile((numba.float64,))(1.0) == 2.0


def test_options_that_have_no_promise_are_known():
    for option in ({"_nrt": False}, {"forceinline": True}):
        assert numba.njit(**option)(step)(1) == 2


def test_the_cache_classes_have_the_methods_that_ours_override_and_call():
    files = numba_caching.IndexDataCacheFile
    assert list(inspect.signature(files.__init__).parameters)[1:] == [
        "cache_path", "filename_base", "source_stamp",
    ]  # fmt: skip
    for name in ("_dump", "_save_data", "_load_data", "save", "load"):
        assert callable(getattr(files, name))
    for name in ("load_overload", "save_overload", "_index_key"):
        assert callable(getattr(numba_caching.FunctionCache, name))


def test_a_function_cache_has_an_implementation_a_path_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    cache = numba_caching.FunctionCache(step)
    assert issubclass(type(cache._impl), numba_caching.FunctionCache._impl_class)
    assert cache._cache_path == cache._impl.locator.get_cache_path()
    assert isinstance(cache._cache_file, numba_caching.IndexDataCacheFile)


def test_code_for_another_processor_has_another_number(dispatcher):
    dispatcher(1)
    assert isinstance(dispatcher.targetctx.codegen().magic_tuple(), tuple)


def test_locators_are_made_of_a_function_and_its_file():
    for locator in (
        numba_caching.InTreeCacheLocator,
        numba_caching.UserProvidedCacheLocator,
        numba_caching.UserWideCacheLocator,
    ):
        assert list(inspect.signature(locator.__init__).parameters)[1:] == ["py_func", "py_file"]
        for name in ("from_function", "get_cache_path", "get_disambiguator", "get_source_stamp"):
            assert callable(getattr(locator, name))


def test_a_cache_file_has_an_index_name_that_ends_as_we_cut_it(tmp_path):
    file = numba_caching.IndexDataCacheFile(str(tmp_path), "base", "stamp")
    assert re.fullmatch(r"base\.nbi", file._index_name)
    file._save_data("one.nbc", (1, b"two"))
    assert file._load_data("one.nbc") == (1, b"two")
    with pytest.raises(FileNotFoundError):
        file._load_data("other.nbc")


def test_an_implementation_takes_its_places_from_its_class(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    implementation = type(
        "_Impl",
        (numba_caching.CompileResultCacheImpl,),
        {"_locator_classes": [numba_caching.UserProvidedCacheLocator]},
    )(step)
    assert implementation.locator.get_cache_path().startswith(str(tmp_path))
    assert implementation.filename_base
    assert implementation.locator.get_source_stamp()


def test_an_intrinsic_can_call_into_llvm():
    @numba.extending.intrinsic
    def fenced(_, array):
        def generate(context, builder, signature, args):
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            zero = context.get_constant(types.intp, 0)
            address = builder.bitcast(builder.gep(data, [zero]), cgutils.voidptr_t)
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [address, number(0), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array), generate

    @numba.njit
    def call(array):
        fenced(array)
        return array[0]

    assert call(np.array([4.0])) == 4.0
