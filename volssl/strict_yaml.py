"""YAML as plain data: no tags, no aliases, no duplicate keys, numbers that are numbers, and where each key stood."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml

from volssl.errors import ConfigError

MAX_BYTES, MAX_DEPTH, MAX_ENTRIES = 1_000_000, 50, 10_000
SHOWN = 60  # characters of a word that a message shows
Path = tuple[str | int, ...]

_NATURAL = re.compile(r"[0-9]{1,18}")
_INT = re.compile(rf"[-+]?{_NATURAL.pattern}")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_CONTROL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # control, format, surrogate, private use, line, paragraph
_QUOTED = ("'", '"', "|", ">")


@dataclass(frozen=True, slots=True)
class Document:
    """data: dictionaries, tuples and scalars. marks: (line, column), counted from 1, of every key and entry."""

    data: Any
    marks: dict[Path, tuple[int, int]]


def parse(text: str, name: str) -> Document:
    """Parse one YAML document; ``name`` is what messages call it.

    Raises:
        ConfigError: not YAML, or more than plain data. The message starts with ``name:line:column``.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: a configuration of {len(text)} characters: the limit is {MAX_BYTES}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{name}: not UTF-8: write it in UTF-8")
    try:
        _refuse_more_than_data(text, name)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: not YAML: {e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(e).split())}") from None
    marks: dict[Path, tuple[int, int]] = {}
    return Document(_build(node, (), marks, name) if node else None, marks)


def natural(text: str) -> int | None:
    """0, 1, 2, ...; None for what is no such number, in digits of another script, or of over 18."""
    return int(text) if _NATURAL.fullmatch(text) else None


def _refuse_more_than_data(text: str, name: str) -> None:
    depth = entries = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{_at(event, name)}: anchors and aliases (& and *) are not taken: write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            raise ConfigError(
                f"{_at(event, name)}: tags ({ascii(tag[:SHOWN])[1:-1]}) are not taken: a configuration is plain data"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{_at(event, name)}: nested more than {MAX_DEPTH} deep")
        entries += isinstance(event, yaml.ScalarEvent)
        if entries > MAX_ENTRIES:
            raise ConfigError(f"{_at(event, name)}: more than {MAX_ENTRIES} keys and values: this is no configuration")
        if (word := getattr(event, "value", None)) and (odd := _unprintable(word)):
            what = f"{odd} in a word: a configuration is plain text of one line"
            raise ConfigError(f"{_at(event, name)}: {what}")


def _unprintable(word: str) -> str:
    """The name of the first character that would break a line, turn its direction or be none; "" without one."""
    odd = next((c for c in word if c != " " and unicodedata.category(c) in _CONTROL), "")
    return f"U+{ord(odd):04X}" if odd else ""


def _at(thing: Any, name: str) -> str:
    return f"{name}:{thing.start_mark.line + 1}:{thing.start_mark.column + 1}"


def _build(node: yaml.Node, path: Path, marks: dict[Path, tuple[int, int]], name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, marks, name)
    if isinstance(node, yaml.SequenceNode):
        entries = []
        for i, child in enumerate(node.value):
            marks[(*path, i)] = (child.start_mark.line + 1, child.start_mark.column + 1)
            entries.append(_build(child, (*path, i), marks, name))
        return tuple(entries)
    return _scalar(node.value, quoted=node.style in _QUOTED) if isinstance(node, yaml.ScalarNode) else None


def _mapping(node: yaml.MappingNode, path: Path, marks: dict[Path, tuple[int, int]], name: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{_at(key_node, name)}: a key must be a word")
        key = key_node.value
        if key in result:
            first = marks[(*path, key)][0]
            raise ConfigError(
                f"{_at(key_node, name)}: {key[:SHOWN]} is written twice (first on line {first}): keep one"
            )
        marks[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        result[key] = _build(value_node, (*path, key), marks, name)
    return result


def _scalar(word: str, *, quoted: bool) -> Any:
    """Plain words become null, booleans and numbers as in YAML 1.2 (so 1e-4 is a number); quoted ones stay text."""
    if quoted:
        return word
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if _INT.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word) and math.isfinite(float(word)):
        return float(word)
    return word
