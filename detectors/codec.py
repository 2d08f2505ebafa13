"""River's objects as plain data and back, without pickle.

`pickle` runs whatever code the bytes name. This codec makes objects of named packages only, from
numbers, strings, bytes, lists and dicts, which any format for messages can carry. An object is
`{"class": "module:name", "newargs": [...], "state": ...}`; whatever else is not plain is a dict
with its `type`. River's objects that are written in Rust give their state as bytes.
"""

from __future__ import annotations

import copyreg
import random
from collections import deque
from importlib import import_module
from inspect import ismethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_PLAIN = (type(None), bool, float, str, bytes)
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_COLLECTIONS = {"tuple": tuple, "dict": dict, "set": set, "frozenset": frozenset}


def encode(value: Any, packages: Collection[str]) -> Any:
    """`value` as None, bools, ints, floats, strings, bytes, lists, and dicts with string keys.

    Args:
        value: plain data, collections, numpy arrays and random generators, and objects of
            classes in `packages`; a tree: nothing that can change may be in it twice.
        packages: names of top-level packages.

    Raises:
        ValueError: something in `value` is of another kind.

    >>> encode({"seed": 1, "window": (0.5,)}, ["river"])
    {'type': 'dict', 'items': [['seed', 1], ['window', {'type': 'tuple', 'items': [0.5]}]]}
    """
    return _Encoder(packages).encode(value, None)


def decode(data: Any, packages: Collection[str]) -> Any:
    """Return what `encode` was given; every object is new.

    Raises:
        ValueError: `data` names a class outside `packages`, or is not what `encode` returned.

    >>> decode({"type": "deque", "items": [1, 2], "maxlen": 2}, ["river"])
    deque([1, 2], maxlen=2)
    """
    try:
        return _Decoder(packages).decode(data, None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not encoded data: {error!r}") from error


class _Classes:
    """The classes of some packages, by name."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def named(self, name: str) -> type:
        module, _, qualname = name.partition(":")
        if module.partition(".")[0] not in self._packages:
            raise ValueError(f"{name} is not a class of {', '.join(sorted(self._packages))}")
        try:
            found: Any = import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no class {name}: {error}") from None
        # A module also holds what it imports; that goes by the name of its own module.
        if not isinstance(found, type) or _name(found) != name:
            raise ValueError(f"{name} is not where a class is defined")
        return found


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


class _Encoder:
    def __init__(self, packages: Collection[str]) -> None:
        self._classes = _Classes(packages)
        # By id; the objects are kept so that no id is used again.
        self._seen: dict[int, object] = {}

    def encode(self, value: Any, owner: object) -> Any:
        if type(value) in _PLAIN:
            return value
        if type(value) is int:
            fits = -(2**63) <= value < 2**64
            return value if fits else {"type": "int", "hex": hex(value)}
        if type(value) is tuple:
            return {"type": "tuple", "items": self._items(value, owner)}
        if type(value) is frozenset:
            return {"type": "frozenset", "items": sorted(self._items(value, owner), key=repr)}
        if isinstance(value, np.generic) and value.dtype.kind in "biufc":
            return {"type": "scalar", "dtype": value.dtype.str, "data": value.tobytes()}
        if ismethod(value) and value.__self__ is owner:
            return {"type": "method", "name": value.__name__}
        return self._once(value, owner)

    def _once(self, value: Any, owner: object) -> Any:
        """Note what can change: two references to it would come back as two objects."""
        if id(value) in self._seen:
            raise ValueError(f"a {type(value).__name__} is referred to twice, which is not kept")
        self._seen[id(value)] = value
        kind = type(value)
        if kind is list:
            return self._items(value, owner)
        if kind is dict:
            return {"type": "dict", "items": [self._items(i, owner) for i in value.items()]}
        if kind is deque:
            return {"type": "deque", "items": self._items(value, owner), "maxlen": value.maxlen}
        if kind is set:
            return {"type": "set", "items": sorted(self._items(value, owner), key=repr)}
        if kind is np.ndarray and value.dtype.kind in "biufc":
            return {
                "type": "array",
                "dtype": value.dtype.str,
                "shape": list(value.shape),
                "data": value.tobytes(),
            }
        return self._generator(value) or self._object(value)

    def _items(self, values: Iterable[Any], owner: object) -> list[Any]:
        return [self.encode(value, owner) for value in values]

    def _generator(self, value: Any) -> dict[str, Any] | None:
        """Return a random generator."""
        if type(value) is random.Random:
            state: Any = value.getstate()
        elif type(value) is np.random.RandomState:
            state = value.get_state(legacy=False)
        elif type(value) is np.random.Generator:
            state = value.bit_generator.state
        else:
            return None
        return {"type": _name(type(value)), "state": self.encode(state, None)}

    def _object(self, value: Any) -> dict[str, Any]:
        cls = type(value)
        name = _name(cls)
        if self._classes.named(name) is not cls:
            raise ValueError(f"{name} is another class now")
        # Ordinary classes are made by __newobj__; lists and dicts have their items at the end.
        reduced: tuple[Any, ...] = tuple(value.__reduce_ex__(4))
        if reduced[0] is not copyreg.__newobj__ or any(reduced[3:]):  # type: ignore[attr-defined]
            raise ValueError(f"a {name} is made in a way that is not kept")
        _, args, state = reduced[:3]
        return {
            "class": name,
            "newargs": self._items(args[1:], None),
            "state": self.encode(state, value),
        }


class _Decoder:
    def __init__(self, packages: Collection[str]) -> None:
        self._classes = _Classes(packages)

    def decode(self, data: Any, owner: object) -> Any:
        if type(data) in (*_PLAIN, int):
            return data
        if type(data) is list:
            return self._items(data, owner)
        if "class" in data:
            return self._object(data)
        match data["type"]:
            case "int":
                return int(data["hex"], 16)
            case "deque":
                return deque(self._items(data["items"], owner), data["maxlen"])
            case kind if kind in _COLLECTIONS:
                return _COLLECTIONS[kind](self._items(data["items"], owner))
            case "scalar":
                return np.frombuffer(data["data"], _number_type(data["dtype"]))[0]
            case "array":
                flat = np.frombuffer(data["data"], _number_type(data["dtype"]))
                return flat.reshape(data["shape"]).copy()
            case "method":
                return _method(owner, data["name"])
            case kind:
                return _generator(kind, self.decode(data["state"], None))

    def _items(self, data: list[Any], owner: object) -> list[Any]:
        return [self.decode(item, owner) for item in data]

    def _object(self, data: dict[str, Any]) -> object:
        cls = self._classes.named(data["class"])
        made = cls.__new__(cls, *self._items(data["newargs"], None))
        state = self.decode(data["state"], made)
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        elif state is not None:
            # With slots the state is a pair of dicts.
            attributes, slots = state if isinstance(state, tuple) else (state, {})
            for name, value in {**(attributes or {}), **slots}.items():
                setattr(made, name, value)
        return made


def _number_type(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} is not a type of numbers")
    return dtype


def _method(owner: object, name: str) -> Any:
    method = getattr(owner, name)
    if not ismethod(method):
        raise ValueError(f"{name} is not a method of {type(owner).__name__}")
    return method


def _generator(kind: str, state: Any) -> Any:
    if kind == "random:Random":
        generator = random.Random()
        generator.setstate(state)
        return generator
    if kind == _name(np.random.RandomState):
        legacy = np.random.RandomState()
        legacy.set_state(state)
        return legacy
    if kind == _name(np.random.Generator) and state["bit_generator"] in _BIT_GENERATORS:
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        return np.random.Generator(bits)
    raise ValueError(f"there is no type {kind!r}")
