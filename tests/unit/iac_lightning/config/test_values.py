"""YAML as the project reads it, and values in words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from iac_lightning.config.keys import leaves
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import WrongValueError, coerce, plain, python_value, read_yaml, safe_show, type_words


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), (".5e-2", 0.005), ("-2E+1", -20.0), ("1.5", 1.5), ("7", 7), ("1e", "1e")]
)
def test_numbers_are_read_as_people_write_them(text: str, value: Any) -> None:
    assert read_yaml(text) == value
    assert type(read_yaml(text)) is type(value)


def test_a_node_without_a_value_keeps_its_text() -> None:
    assert python_value(yaml.SafeLoader("2024-13-45").get_single_node()) == "2024-13-45"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", 3.0, 3),
        ("optimizer.lr", 1, 1.0),
        ("data.sampling.crop", [1, 2, 3], (1, 2, 3)),
        ("model.vit.dim", None, None),
        ("tracking.enabled", False, False),
        ("trainer.compile", False, "off"),  # `off` in YAML, and settings that were stored as truth values
        ("trainer.compile", True, "default"),
        ("trainer.compile", "cuda_graphs", "cuda_graphs"),
        ("trainer.deterministic", False, "off"),
        ("trainer.deterministic", True, "strict"),
    ],
)
def test_values_become_the_type_of_their_setting(key: str, value: Any, expected: Any) -> None:
    found = coerce(key, value, leaves(ExperimentConfig)[key])
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a.nii.gz", "a.nii.gz"), (["a.nii.gz", "b.nii.gz"], ("a.nii.gz", "b.nii.gz")), (None, None)],
)
def test_a_template_or_several(value: Any, expected: Any) -> None:
    hint = leaves(ExperimentConfig)["data.grid.template"]
    assert coerce("data.grid.template", value, hint) == expected
    with pytest.raises(WrongValueError, match="expected text or a list of them or null"):
        coerce("data.grid.template", ["a.nii.gz", 3], hint)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", True, "expected a whole number"),
        ("seed", None, "expected a whole number"),
        ("optimizer.lr", float("inf"), "expected a number"),
        ("model.name", "Vit", "did you mean vit"),
        ("model.name", False, "expected text; YAML reads yes, no, on, off"),
        ("data.sampling.crop", [1, 2], r"expected three whole numbers, such as \[48, 48, 24\]"),
    ],
)
def test_others_say_what_was_expected(key: str, value: Any, words: str) -> None:
    with pytest.raises(WrongValueError, match=words):
        coerce(key, value, leaves(ExperimentConfig)[key])


def test_types_and_values_in_words() -> None:
    assert type_words(tuple[float, ...] | None) == "a list of numbers or null"
    assert type_words(tuple[str, ...]) == "a list of texts"
    assert plain({"a": (1, [(2,)])}) == {"a": [1, [[2]]]}
    assert safe_show("tracking.uri", "http://me:secret@host") == "'http://…'"
