"""One visual language: colours in one place, contrast AA in both themes, words for each figure."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from views.shared import theme as looks

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*(ROOT / "pages").glob("*.py"), *(ROOT / "views").rglob("*.py")]
THEME = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
AA, AA_LARGE = 4.5, 3.0  # contrast of text, and of what is large or no text (WCAG 2.1)
FADED = 0.6  # Streamlit writes captions and ticks with so much of the text's colour


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def luminance(colour: list[float]) -> float:
    """WCAG's relative luminance."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    assert contrast(channels("#767676"), [1, 1, 1]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("behind", ["backgroundColor", "secondaryBackgroundColor"])
def test_text_captions_and_links_stand_off_their_background(scheme, behind):
    theme = THEME[scheme]
    back, text = channels(theme[behind]), channels(theme["textColor"])
    faded = [FADED * t + (1 - FADED) * b for t, b in zip(text, back, strict=True)]
    assert contrast(text, back) >= AA and contrast(faded, back) >= AA
    assert contrast(channels(theme["primaryColor"]), back) >= AA


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hues_and_marks_stand_off_the_page(scheme):
    back = channels(THEME[scheme]["backgroundColor"])
    for colour in (*looks.HUES, *looks.MARKS.values()):
        assert contrast(channels(colour), back) >= AA_LARGE, colour


def test_every_figure_says_in_words_what_it_shows():
    silent, charts = [], 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "plotly_chart":
                charts += 1
                if "alt" not in {keyword.arg for keyword in node.keywords}:
                    silent.append(f"{path.name}:{node.lineno}")
    assert silent == [] and charts > 10


def test_colours_are_named_in_one_place():
    literals = [
        f"{path.name}: {colour}"
        for path in SOURCES
        if path.name not in ("theme.py", "style.py")
        for colour in re.findall(r"#[0-9a-fA-F]{6}\b|rgba?\(\d", path.read_text())
    ]
    assert literals == []
