"""A configuration's errors in words: a line for each, with its field's path."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import BaseModel, ValidationError

Schema = dict[str, Any]


def explain(error: ValidationError, config: type[BaseModel]) -> list[str]:
    """Return a line for each error that `config` has found; it starts with the field's path."""
    lines = []
    root = config.model_json_schema()
    for item in error.errors(include_url=False):
        fields = _fields(root, item["loc"])
        path = ".".join(fields) or "config"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            near = _near(root, item["loc"])
            hint = f"did you mean {near!r}? " if near else ""
            message = f"unknown key; {hint}`streamgauge config schema` lists the known ones"
        elif item["type"] == "union_tag_invalid":
            path += ".kind"
            message = f"no {item['ctx']['tag']!r}; use {item['ctx']['expected_tags']}"
        lines.append(f"{path}: {message}")
    return lines


def _fields(root: Schema, loc: tuple[int | str, ...]) -> list[str]:
    """Return the path as it stands in the file: pydantic puts a union's kind into it."""
    fields = [str(part) for part in loc]
    if len(fields) > 1 and "discriminator" in root["properties"].get(fields[0], {}):
        del fields[1]
    return fields


def _near(root: Schema, loc: tuple[int | str, ...]) -> str | None:
    """Return what an unknown key may have been meant for."""
    key = str(loc[-1])
    if len(loc) == 1 and key in _keys(root, ("defaults",)):
        return f"defaults.{key}"
    return next(iter(get_close_matches(key, _keys(root, loc[:-1]), n=1, cutoff=0.8)), None)


def _keys(root: Schema, loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the section at `loc` may have."""
    sections = [root]
    for key in loc:
        sections = [
            inner
            for section in _choices(sections, root)
            for inner in (
                section.get("properties", {}).get(key),
                section.get("additionalProperties"),
                _kind(section, key),
            )
            if isinstance(inner, dict)
        ]
    return [key for section in _choices(sections, root) for key in section.get("properties", {})]


def _kind(union: Schema, tag: int | str) -> Schema | None:
    ref = union.get("discriminator", {}).get("mapping", {}).get(tag)
    return None if ref is None else {"$ref": ref}


def _choices(schemas: Sequence[Schema], root: Schema) -> Iterator[Schema]:
    """Each schema, references followed, and what it may be instead."""
    for schema in schemas:
        found = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        yield found
        yield from _choices(found.get("anyOf", ()), root)
