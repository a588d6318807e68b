"""What the Sources page says before a merge: norms, confidence, warnings, and equal norms."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from visitor import button, go, link_of, session_recipe, settled, sound, visit, words

from mloss_core import METHODS, geometry, load
from mloss_core.analysis.before import confidences
from mloss_core.errors import MlossError
from views.jobs import analyses
from views.state import session


@pytest.fixture
def poor(models, tmp_path, monkeypatch):
    """The folder of a copy of the tiny family that pages read instead."""
    folder = shutil.copytree(models / "tiny", tmp_path / "poor" / "tiny")
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "poor"))
    return folder


def test_norms_and_confidences_stand_in_the_table(visit, family):
    test = settled(visit())
    table = test.dataframe[0].value
    norms = geometry(family, family.sources).norms
    assert list(table["norm"]) == pytest.approx(list(norms))
    sure = [c.mean for c in confidences(family, family.sources, device="cpu")]
    assert list(table["confidence"]) == [f"{mean:.1%}" for mean in sure]
    assert "Before merging" in words(test) and test.warning.len == 0
    assert "of a kind in both" in words(test)


def test_without_a_pool_confidence_is_unknown_and_the_help_says_why(visit, poor):
    (poor / "calibration.npz").unlink()
    test = settled(visit())
    table = test.dataframe[0]
    assert list(table.value["confidence"]) == ["unknown"] * 3
    assert "Unknown: " in table.proto.columns and "calibration pool" in table.proto.columns
    assert "not every confidence is measured" in words(test) and test.error.len == 0


def test_a_source_that_drowns_the_others_is_warned_of(visit, poor):
    base, path = load_file(poor / "base.safetensors"), poor / "sources" / "clouds.safetensors"
    save_file({n: b + 4 * (t - b) for (n, t) in load_file(path).items() for b in [base[n]]}, path)
    test = settled(visit())
    assert any("Clouds is 4.0 times as long as that of" in w.value for w in test.warning)
    assert "Make norms equal" in test.warning[0].value


def test_norms_are_made_equal_and_let_be(visit):
    test = settled(visit("sources", "method=ties"))
    assert session_recipe(test).norms == "own" and "norms" not in link_of(test)
    pressed = button(test, "Make norms equal")
    readers = [m.title for m in METHODS.values() if "norms" in m.reads]
    assert all(title in pressed.help for title in readers) and "M-TIES" not in pressed.help
    pressed.click().run()
    assert session_recipe(sound(test)).norms == "equal" and link_of(test)["norms"] == "equal"
    assert "all at their mean" in words(test) and "ignores it" not in words(test)
    button(test, "Norms as they are").click().run()
    assert session_recipe(sound(test)).norms == "own" and "norms" not in link_of(test)
    test = settled(visit("sources", "method=m-ties&norms=equal"))
    assert "M-TIES, the chosen method, ignores it" in words(test) and test.error.len == 0
    assert button(test, "Norms as they are") and session_recipe(test).norms == "own"
    assert link_of(test)["norms"] == "equal", "it waits for a method that reads it"
    mapped = settled(go(settled(visit("explain", "method=ties&norms=equal")), "explain"))
    assert mapped.error.len == 0, "M-TIES, whose map is explained, takes norms as they are"


def test_confidence_that_fails_is_said_and_measured_again(visit, monkeypatch):
    def failing(*arguments):
        raise MlossError("device cpu: out of memory")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(analyses, "confidences", failing)
        test = settled(visit())
        assert any("out of memory" in e.value for e in test.error)
        assert list(test.dataframe[0].value["confidence"]) == ["unknown"] * 3
        jobs = [j for j in session.board()._jobs.values() if j.kind == "confidences"]
        assert len(jobs) == 1, "it does not begin again by itself"
    button(test, "Measure confidence again").click().run()
    test = settled(test)
    assert test.error.len == 0
    assert all(text.endswith("%") for text in test.dataframe[0].value["confidence"])


def test_a_lecture_shows_it_too(visit):
    test = settled(visit("sources", "view=lecture"))
    assert "Before merging" in words(test) and button(test, "Make norms equal")
    assert np.isfinite(test.dataframe[0].value["norm"]).all() and load("tiny").sources


def test_a_card_in_another_encoding_is_shown(visit, own_family):
    (own_family / "README.md").write_bytes("# Äpfel\r\n".encode("latin-1"))
    assert "# Äpfel" in [text.value for text in visit("sources").markdown]
    (own_family / "README.md").write_bytes("# яблоки".encode("cp1251"))
    test = visit("sources")
    assert "README.md" in test.warning[0].value and "line 1, column 3" in test.warning[0].value


def test_a_card_that_is_a_link_is_not_sent_to_a_browser(visit, own_family, tmp_path):
    (tmp_path / "secret").write_text("# a secret")
    (own_family / "README.md").symlink_to(tmp_path / "secret")
    assert "secret" not in str([text.value for text in visit("sources").markdown])


def test_a_bad_picture_leaves_the_other_sources_accuracies(visit, own_family):
    (own_family / "tasks" / "bridges.npz").unlink()
    for name in ("one", "two", "three", "four"):
        place = own_family / "tasks" / "bridges" / "test" / name
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(b"no picture")
    test = settled(visit("sources"))
    own = test.dataframe[0].value["own task, this source"].tolist()
    assert own[1] == "not measured" and "n = 12" in own[0] and "n = 12" in own[2]
    assert "1 of 3 tasks were not evaluated. Task bridges: picture" in test.error[0].value


def test_assumed_pixels_are_told(visit, own_family):
    assert "CLIP's are assumed" not in words(visit("sources"))
    (own_family / "family.json").unlink()
    toml = 'activation = "quick_gelu"\nnum_attention_heads = 2\nmean = [0, 0, 0]\n'
    (own_family / "family.toml").write_text(toml)
    said = words(visit("sources"))
    assert "Nothing tells the standard deviation of pixels: CLIP's are assumed." in said
