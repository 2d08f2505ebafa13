"""Machine code kept in files, so that it is compiled once for each machine.

numba's own cache needs a folder that it can write to even to read from it; a damaged file breaks
the call that reads it; two processes that compile at once can put one function's code under
another one's name; and a change in what a function calls from elsewhere goes unnoticed. So this
one keeps numba's folders and formats, and goes its own way about the names of the files and what
is in them: a file for each function, signature and processor, written whole, sealed by a digest,
and headed by all that its code was made from.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from functools import cached_property
from types import CodeType
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba.core import config
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    InTreeCacheLocator,
    NullCache,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)
from numba.core.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class CodeCache(NullCache):  # type: ignore[misc]
    """The machine code of one function: read wherever it is, written to the first place that can.

    The places are the folder `$NUMBA_CACHE_DIR`, the `__pycache__` beside the source, and the
    user's cache folder. Where there is none to write to, nothing is kept; what cannot be read is
    compiled anew.

    Args:
        function: the function, as Python knows it.
        options: how it is to be compiled.
    """

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self._function = function
        self._options = sorted(options.items())
        self._used: _CacheFolder | None = None

    @cached_property
    def _places(self) -> list[_CacheFolder]:
        # At the first call, when all that the function calls is defined.
        origin = f"{origin_of(self._function)} {self._options}"
        places = []
        for locator in (_InChosenFolder, _BesideSource, _InUserFolder):
            try:
                places.append(_CacheFolder(self._function, locator, origin))
            except (RuntimeError, OSError):  # no such place, or no source file
                continue
        return places

    @property
    def cache_path(self) -> str | None:
        """The folder that the code came from or went to, None where there is neither."""
        return None if self._used is None else str(self._used.cache_path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for a signature, None where there is none that can be used."""
        for place in self._places:
            try:
                found = place.load_overload(sig, target_context)
            except Exception:  # noqa: BLE001, S112 - a damaged file may fail in any way, and is no loss
                continue
            if found is not None:
                self._used = place
                return found
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, where that is possible."""
        for place in self._places:
            try:
                place.save_overload(sig, data)
            except OSError:  # a folder that cannot be made or written to, a full disk
                continue
            self._used = place
            return


class _CacheFolder(FunctionCache):  # type: ignore[misc]
    """One folder's files of one function."""

    def __init__(self, function: Callable[..., Any], locator: type, origin: str) -> None:
        self._impl_class = type("_Impl", (CompileResultCacheImpl,), {"_locator_classes": [locator]})
        super().__init__(function)
        base, stamp = self._impl.filename_base, self._impl.locator.get_source_stamp()
        self._cache_file = _Files(self._cache_path, base, stamp)
        self._name = _name(function)
        self._origin = origin, stamp, numba.__version__

    def _index_key(self, sig: Any, codegen: Any) -> tuple[str, str]:
        """Return what names the file, and what must be as it was for its code to be right."""
        name = repr((self._name, sig, codegen.magic_tuple()))
        return _digest(name.encode()), _digest(repr((name, self._origin)).encode())


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    """Files by the key's first part, that hold its second, the data's digest and the data."""

    def save(self, key: tuple[str, str], data: Any) -> None:
        name, origin = key
        text = self._dump(data)
        self._save_data(self._data_name(name), (origin, _digest(text), text))

    def load(self, key: tuple[str, str]) -> Any:
        name, origin = key
        try:
            kept_origin, digest, text = self._load_data(self._data_name(name))
        except FileNotFoundError:
            return None
        # Code that is not what was written could do anything.
        if kept_origin != origin or digest != _digest(text):
            return None
        return pickle.loads(text)  # noqa: S301 - as trusted as the source beside it

    def _data_name(self, number: str) -> str:
        return f"{self._index_name.removesuffix('.nbi')}.{number}.nbc"


class _Anywhere:
    """The part that numba's places have in common here."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        # numba's own asks here whether the folder can be written to; saving asks again.
        return cls(py_func, py_file)  # type: ignore[call-arg]

    def get_disambiguator(self) -> str:
        # numba's is the line: a function that has only moved would get another file.
        return "code"


class _InChosenFolder(_Anywhere, UserProvidedCacheLocator):  # type: ignore[misc]
    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        return cls(py_func, py_file) if config.CACHE_DIR else None


class _BesideSource(_Anywhere, InTreeCacheLocator):  # type: ignore[misc]
    pass


class _InUserFolder(_Anywhere, UserWideCacheLocator):  # type: ignore[misc]
    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        self = cls(py_func, py_file)
        # A user without a home would get a folder named `~` wherever the process is.
        return None if self.get_cache_path().startswith("~") else self


def origin_of(function: Callable[..., Any]) -> str:
    """Return a digest of all that a function's machine code is made from.

    That is its own code, the functions it calls that are compiled into it, and the constants it
    takes from outside.
    """
    return _digest("\n".join(_parts(function, set())).encode())


def _parts(function: Callable[..., Any], seen: set[int]) -> Iterator[str]:
    seen.add(id(function))
    yield from _code(function.__code__)
    outside = inspect.getclosurevars(function)
    for name, value in sorted({**outside.globals, **outside.nonlocals}.items()):
        inner = value.py_func if isinstance(value, Dispatcher) else value
        if inspect.isfunction(inner):
            yield f"{name} {inner.__module__}.{inner.__qualname__}"
            if id(inner) not in seen:
                yield from _parts(inner, seen)
        elif isinstance(inner, np.ndarray):
            yield f"{name} {inner.dtype} {inner.shape} {inner.tobytes().hex()}"
        elif isinstance(inner, bool | int | float | str | tuple | np.generic | None):
            yield f"{name} {inner!r}"


def _code(code: CodeType) -> Iterator[str]:
    """Return the text of a function's code, the same in every process."""
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _name(function: Callable[..., Any]) -> str:
    """Return a function's name and what it closes over: a factory's have the same name."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inner = [
        _name(cell.py_func) if isinstance(cell, Dispatcher) else f"{cell!r:.40}" for cell in cells
    ]
    return f"{function.__module__}.{function.__qualname__}({', '.join(inner)})"


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()
