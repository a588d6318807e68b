"""What is possible but nearly always a mistake is said aloud, in the app and on stderr."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from visitor import visit

from dialect_files import prefixed
from mloss_core import load
from mloss_core.families.sanity import doubts

EQUALS_BASE = "source bridges equals the base in every tensor"
EQUALS_SOURCE = "sources apples and bridges are equal in every tensor"


def as_base(family):
    shutil.copyfile(family / "base.safetensors", family / "sources" / "bridges.safetensors")


def as_apples(family):
    place = family / "sources"
    shutil.copyfile(place / "apples.safetensors", place / "bridges.safetensors")


def as_apples_in_other_bytes(family):
    """The same model as a training script writes it, in torch's format."""
    place = family / "sources"
    tensors = prefixed("module.", load_file(place / "apples.safetensors"))
    (place / "bridges.safetensors").unlink()
    torch.save({"state_dict": tensors}, place / "bridges.safetensors")


CASES = [
    (as_base, EQUALS_BASE),
    (as_apples, EQUALS_SOURCE),
    (as_apples_in_other_bytes, EQUALS_SOURCE),
]


def test_sources_that_differ_raise_no_doubt(family):
    assert doubts(family, family.sources) == []


@pytest.mark.parametrize("change, said", CASES)
def test_equal_models_are_said_on_stderr_and_merged(change, said, cli, own_family, out):
    change(own_family)
    outcome = cli("merge", "--family=tiny", "--method=ties", "--out", out)
    assert outcome.status == 0 and out.is_file()
    assert [line.startswith(f"warning: {said}") for line in outcome.err.splitlines()] == [True]


@pytest.mark.parametrize("page", ["explore", "experiments"])
@pytest.mark.parametrize("change, said", CASES[:2])
def test_the_app_says_it_where_sources_are_chosen_and_used(page, change, said, visit, own_family):
    change(own_family)
    test = visit(page)
    (warning,) = test.warning
    assert said[1:] in warning.value and test.error.len == 0


def test_only_chosen_sources_are_doubted(own_family):
    as_apples(own_family)
    assert doubts(load("tiny"), ("bridges", "clouds")) == []


def test_what_cannot_be_read_is_left_to_whoever_reads_it(own_family):
    as_base(own_family)
    (own_family / "sources" / "apples.safetensors").write_bytes(b"torn")
    (said,) = doubts(load("tiny"), ("apples", "bridges", "unknown"))
    assert EQUALS_BASE in said
