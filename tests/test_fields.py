"""The table of a recipe's fields: text and value agree, and errors name the field."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloss_core import InputError, MergeRecipe
from mloss_core.fields import FIELDS
from views.state.error_text import error_text

SHARES = st.floats(0, 1, exclude_min=True)
VALUES = {
    "keep": SHARES,
    "variation": SHARES,
    "scaling": st.floats(allow_nan=False, allow_infinity=False),
    "samples": st.integers(1, 10**400),
    "seed": st.integers(0, 2**63 - 1),
    "tokens": st.integers(1, 10**6),
    "sources": st.lists(st.text("abc_-", min_size=1)).map(tuple),
    "weights": st.none() | st.lists(SHARES, min_size=1).map(tuple),
    "blocks": st.none() | st.sets(st.integers(0, 999)).map(lambda b: tuple(sorted(b))),
}


def recipe(**changes) -> MergeRecipe:
    return MergeRecipe(**({"family": "tiny", "method": "m-ties", "sources": ("a", "b")} | changes))


def test_the_table_holds_every_field_of_a_recipe_in_words():
    assert set(FIELDS) == {field.name for field in dataclasses.fields(MergeRecipe)}
    for field in FIELDS.values():
        assert field.label and field.help.endswith(".") and field.flag.startswith("--")
        assert not field.choices or field.default == next(iter(field.choices))


@pytest.mark.parametrize("name", VALUES)
@given(data=st.data())
def test_a_text_is_read_back_as_the_value_that_it_was_made_of(name, data):
    value = data.draw(VALUES[name])
    assert FIELDS[name].parse(FIELDS[name].format(value)) == value


@pytest.mark.parametrize(
    ("changes", "field", "plain", "labelled"),
    [
        ({"keep": 1.5}, "keep", "keep 1.5: is outside (0, 1];", "Base keep rate k: 1.5 is outside"),
        (
            {"variation": 0.3},
            "variation",
            "variation 0.3: is outside [0, k] = [0, 0.2];",
            "Pruning variation e: 0.3 is outside",
        ),
        ({"tokens": 0}, "tokens", "tokens 0: is below 1;", "Tokens per image: 0 is below 1;"),
        ({"scores": "x"}, "scores", "scores x: is not known;", "Nodes are ranked by: x is not"),
        ({"sources": ("a",)}, "sources", "sources a: is too few;", "Sources: a is too few;"),
    ],
)
def test_an_error_names_the_field_and_the_app_its_label(changes, field, plain, labelled):
    with pytest.raises(InputError) as error:
        recipe(**changes)
    assert error.value.field == field
    assert str(error.value).startswith(plain)
    assert error_text(error.value).startswith(labelled)
    assert "--" not in str(error.value) + error_text(error.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--keep", "1.5", "error: --keep 1.5: is outside (0, 1]; give a share"),
        ("--keep", "much", "error: --keep much: is not a number; give a share"),
        ("--inputs-from", "x", "error: --inputs-from x: is not known; choose from merged"),
    ],
)
def test_the_command_line_names_the_option(option, value, said, cli, family, out):
    outcome = cli("merge", "--family=tiny", "--out", out, option, value)
    assert outcome.status == 2 and outcome.err.startswith(said)
