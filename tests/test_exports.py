"""The package's outside: its names, what importing it loads, and how its files read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

import mloss_core
from mloss_core.cli.main import COMMANDS, imported

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "ACTIVATIONS",
    "METHODS",
    "Accuracy",
    "BlockMerged",
    "BlockScored",
    "BlockTheory",
    "CalibrationBatch",
    "Checkpoint",
    "Comparison",
    "Embedded",
    "Evaluate",
    "Evaluator",
    "Event",
    "Family",
    "Finished",
    "Geometry",
    "InputError",
    "Merge",
    "MergeRecipe",
    "Method",
    "MlossError",
    "NodeScores",
    "Planned",
    "RunRecord",
    "SecondOrder",
    "Setting",
    "TaskEvaluated",
    "Tower",
    "ViTConfig",
    "__version__",
    "cell",
    "compare",
    "draw_batch",
    "expected",
    "families",
    "geometry",
    "keep_rates",
    "launch",
    "layer_mloss",
    "list_runs",
    "live",
    "load",
    "load_batch",
    "load_run",
    "mean_accuracy",
    "node_mloss",
    "node_sums",
    "progress",
    "recorded",
    "run",
    "save",
    "score_block",
    "second_order",
    "simulated",
    "theory",
    "token_gap",
    "verdict",
]
# Imports every core module afresh and says which user interface libraries came along.
PROBE = """
import importlib, json, pkgutil, sys
import mloss_core
found = [m.name for m in pkgutil.walk_packages(mloss_core.__path__, "mloss_core.")]
for name in found:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([found, sorted(loaded & {"streamlit", "plotly", "open_clip", "hypothesis"})]))
"""


def test_the_public_names_are_the_listed_ones():
    assert mloss_core.__all__ == NAMES
    assert all(hasattr(mloss_core, name) for name in NAMES)


def test_the_core_loads_no_user_interface_library():
    command = [sys.executable, "-c", PROBE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules, loaded = json.loads(result.stdout)
    assert {"mloss_core.run", "mloss_core.sweep"} <= set(modules)
    assert loaded == []


@pytest.mark.parametrize("argument", ["--help", "--version", "nosuch", "app"])
def test_what_needs_no_torch_does_not_import_it(argument):
    code = f"""
import os, sys
os.execv = lambda *line: None  # the app would start
from mloss_core.cli.main import main
main([{argument!r}])
print(sorted({{"torch", "numpy", "scipy", "pandas", "streamlit"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_list_of_commands_says_what_their_docstrings_say():
    for name, (_, line) in COMMANDS.items():
        command = imported(name)
        assert command.name == name
        assert line == command.get_short_help_str(limit=1000) + "." * (not line.endswith("."))


def test_functions_named_like_a_module_stay_functions():
    code = "import mloss_core as m, mloss_core.run; from mloss_core.families import folders; "
    code += "assert m.run.__module__ == 'mloss_core.run' and m.families is folders.families"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError):
        mloss_core.keep_rates(np.zeros((2, 2)), 0.5, 0.1)


def test_no_tracked_file_mentions_the_machine_it_was_written_on():
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = "/" + "work/", "../" + "shared"
    guilty = []
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content[:1024] and any(word.encode() in content for word in words):
            guilty.append(name)
    assert guilty == []
