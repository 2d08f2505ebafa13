"""Objects by import path, as configurations name them."""

from __future__ import annotations

import importlib
from typing import Any


def import_object(path: str) -> Any:
    """What an import path such as `river.linear_model.LogisticRegression` names.

    Raises:
        ValueError: there is no such module or attribute; the message says which.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or path.startswith("."):
        raise ValueError(f"{path!r} is not an import path; write it as package.module.Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}") from None
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"module {module_name!r} has no {name!r}") from None
