"""What pydantic finds wrong with a configuration, in plain words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel


def explain(schema: type[BaseModel], data: Any, errors: Sequence[Any]) -> list[tuple[str, str]]:
    """(dotted key, what is wrong and what to do) of every error, once; none that only follows from another.

    data: what ``schema`` was given, dictionaries and tuples.
    """
    told = [_explain(schema, data, error) for error in errors if not _follows(error, errors)]
    return list(dict.fromkeys(told))


def _follows(error: Any, errors: Sequence[Any]) -> bool:
    """A tuple counts as too short when an entry of it is wrong."""
    place = error["loc"]
    inside = (other["loc"] for other in errors if len(other["loc"]) > len(place))
    return error["type"] == "too_short" and any(loc[: len(place)] == place for loc in inside)


def _explain(schema: type[BaseModel], data: Any, error: Any) -> tuple[str, str]:
    """The tags that unions put into the path are left out."""
    keys, here = [], data
    for part in error["loc"]:
        known = isinstance(here, dict) and part in here
        entry = isinstance(here, tuple) and isinstance(part, int) and part < len(here)
        if known or entry:
            here = here[part]
        elif isinstance(here, dict) and here.get("name") != part:  # a missing key
            here = None
        else:
            continue
        keys.append(str(part))
    return ".".join(keys), _words(schema, error, keys, data, here)


def _words(schema: type[BaseModel], error: Any, keys: list[str], data: Any, here: Any) -> str:
    kind, given = error["type"], error["input"]
    if isinstance(here, tuple) and (wanted := _length(_annotation(keys, data, schema))) and len(here) != wanted:
        return f"{_numbers(len(here))} given: give {wanted}"
    if kind == "missing":
        return "is missing: write it"
    if kind == "extra_forbidden":
        fields = getattr(_member(_annotation(keys[:-1], data, schema), _at(keys[:-1], data)), "model_fields", {})
        near = difflib.get_close_matches(keys[-1], list(fields), 1, 0.6)
        return "no such key" + (f": did you mean {near[0]}?" if near else ": remove it")
    if kind == "union_tag_invalid":
        return f"name: no {error['ctx']['tag']!r}: there is {error['ctx']['expected_tags']}".replace("'", "")
    if kind == "union_tag_not_found":
        return "name is missing: say which one it is"
    if kind == "value_error":  # of a validator, which says what to do
        return str(error["ctx"]["error"])
    if kind == "tuple_type":
        annotation = _annotation(keys, data, schema)
        entries = ", ".join([_flow(_named(annotation, given))] * (_length(annotation) or 1))
        return f"write a list, such as [{entries}]" + ("" if isinstance(given, dict) else f" (got {given!r})")
    if kind == "model_attributes_type":
        example = _named(_annotation(keys, data, schema), given)
        return f"write keys and values, such as {_flow(example)} (got {given!r})" if example != given else error["msg"]
    return f"{error['msg']} (got {given!r})" if not isinstance(given, dict) else str(error["msg"])


def _named(annotation: Any, given: Any) -> Any:
    """What was given, or where classes with names are asked for, one by its name: that which was given, or the first.

    Of a class without a name, what was given.
    """
    names = [str(name) for name in _names(annotation)]
    return given if isinstance(given, dict) or not names else {"name": given if given in names else names[0]}


def _names(annotation: Any) -> Iterator[Any]:
    """Of the configuration classes in an annotation."""
    if fields := getattr(annotation, "model_fields", None):
        yield from (fields["name"].default,) if "name" in fields else ()
        return
    for inside in getattr(annotation, "__args__", ()):
        yield from _names(inside)


def _flow(value: Any) -> str:
    """As YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(child)}" for key, child in value.items()) + "}"
    return "[" + ", ".join(map(_flow, value)) + "]" if isinstance(value, tuple) else str(value)


def _numbers(count: int) -> str:
    return f"{count} number" + ("" if count == 1 else "s")


def _at(keys: Sequence[str], data: Any) -> Any:
    for key in keys:
        data = data[int(key)] if isinstance(data, tuple) else data.get(key) if isinstance(data, dict) else None
    return data


def _annotation(keys: Sequence[str], data: Any, annotation: Any) -> Any:
    """What the configuration classes say of the value at ``keys``."""
    for i, key in enumerate(keys):
        here = _at(keys[:i], data)
        if isinstance(here, tuple):  # its entries share one annotation
            continue
        field = getattr(_member(annotation, here), "model_fields", {}).get(key)
        annotation = field.annotation if field else None
    return annotation


def _length(annotation: Any) -> int | None:
    """How many entries a tuple of a fixed length has."""
    inside = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is tuple:
        return None if Ellipsis in inside else len(inside)
    return next((length for one in inside if (length := _length(one))), None)


def _member(annotation: Any, data: Any) -> Any:
    """Of the configuration classes in an annotation, the one that ``data`` names."""
    if fields := getattr(annotation, "model_fields", None):
        named = isinstance(data, dict) and "name" in fields
        return annotation if not named or fields["name"].default == data.get("name", fields["name"].default) else None
    found = (_member(candidate, data) for candidate in getattr(annotation, "__args__", ()))
    return next((one for one in found if one is not None), None)
