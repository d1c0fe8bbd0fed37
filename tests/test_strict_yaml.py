"""YAML as plain data: what is read, what is refused, and where the message points."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from volssl.errors import ConfigError
from volssl.strict_yaml import MAX_BYTES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # a string to PyYAML, a number to everybody else
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("-3", -3),
        ("true", True),
        ("yes", "yes"),  # a boolean to PyYAML
        ("1:30", "1:30"),  # 90 to PyYAML
        ("010", 10),  # 8 to PyYAML
        ("'1'", "1"),
        ("~", None),
        ("", None),
        ("1e999", "1e999"),  # not a finite number, so no number: the schema refuses it by its key
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-11-22", "2026-11-22"),
        ("9" * 5000, "9" * 5000),
        ("[1, [2, a]]", (1, (2, "a"))),
    ],
)
def test_values(text: str, value: Any) -> None:
    got = parse(text, "x.yaml").data
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3:1: a is written twice (first on line 1): keep one"),
        ("a: &x 1\nb: *x", "x.yaml:1:4: anchors and aliases"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x.yaml:1:4: tags (tag:yaml.org,2002:python/object/apply",
        ),
        ("a: !!int 3", "x.yaml:1:4: tags"),
        ("a: {b: [1, 2}", "x.yaml:1:13: not YAML"),
        ("a: \x00", "x.yaml: not YAML"),
        ("? [1]\n: 2", "x.yaml:1:3: a key must be a word"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("a: 1\n---\nb: 2", "x.yaml:2:1: not YAML"),
        ("#" * (MAX_BYTES + 1), f"the limit is {MAX_BYTES}"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        parse(text, "x.yaml")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_marks_say_where_each_key_and_entry_stands() -> None:
    marks = parse("a: 1\nb:\n  c: [5, 6]\n", "x.yaml").marks
    assert marks == {
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", "c"): (3, 3),
        ("b", "c", 0): (3, 7),
        ("b", "c", 1): (3, 10),
    }


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
TREES = st.recursive(
    SCALARS | WORDS, lambda t: st.lists(t, max_size=3) | st.dictionaries(WORDS, t, max_size=3), max_leaves=12
)


def tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(tuples, value))
    return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


@given(st.dictionaries(WORDS, TREES, max_size=4))
def test_what_pyyaml_writes_comes_back(tree: dict[str, Any]) -> None:
    assert parse(yaml.safe_dump(tree, allow_unicode=True), "x.yaml").data == tuples(tree)


@given(st.text(max_size=60))
def test_any_text_is_data_or_one_error(text: str) -> None:
    try:
        parse(text, "x.yaml")
    except ConfigError as e:
        if "\n" in str(e):
            raise AssertionError("more than one line") from e
