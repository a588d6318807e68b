"""Bad input: one line that names argument, value and remedy; nothing lost, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mloss_core import Tower
from mloss_core import mloss as scoring

ROOT = Path(__file__).resolve().parents[1]
FEW = ("--family=tiny", "--samples=6")
TIES = ("merge", "--family=tiny", "--method=ties", "--out")

# Option, its text, and what of the text the message must show.
ARGUMENTS = [
    *(("--family", name, name) for name in ("nothing", "../tiny", "/etc", ".", "tiny/")),
    ("--family", "", "(empty)"),
    ("--sources", "apples,nothing", "nothing"),
    ("--sources", "../apples,clouds", "../apples"),
    ("--sources", "apples", "at least two sources"),
    ("--sources", "", "at least two sources"),
    ("--sources", "apples,clouds,apples", "apples: is named twice"),
    ("--method", "magic", "magic"),
    ("--method", "ensembling", "ensembling"),
    ("--device", "tpu", "tpu"),
    ("--device", "cuda:7", "cuda:7"),
    ("--dtype", "int8", "int8"),
    *(("--blocks", b, b) for b in ("5-3", "3-", "-3", "1,,2", "3", "0-99", "x", "1.5", "²")),
    ("--blocks", "", "(empty)"),
    *(("--samples", n, n) for n in ("0", "-1", "25", "1e3", "many")),
    *(("--seed", n, n) for n in ("-1", "x", str(2**63))),
    *(("--tokens", n, n) for n in ("0", "-1", "6", "x")),
    *(("--precision", p, p) for p in ("fp16", "fp8")),
    ("--precision", "", "(empty)"),
    *(("--weights", w, w) for w in ("0.5,0.5", "0.5,0.5,0.5", "-0.5,0.5,1", "nan,0.5,0.5")),
    *(("--weights", w, w) for w in ("inf,0,0", "a,b,c", "1", "0.5;0.5")),
    ("--weights", "", "(empty)"),
    *(("--keep", k, k) for k in ("0", "0.0", "-0.1", "1.5", "nan", "inf", "text")),
    *(("--variation", e, e) for e in ("0.9", "-0.1", "nan", "text")),
    *(("--scaling", x, x) for x in ("nan", "inf", "text")),
]


@pytest.mark.parametrize("json_lines", [False, True], ids=["table", "json"])
@pytest.mark.parametrize("option, text, shown", ARGUMENTS)
def test_bad_arguments_are_refused(option, text, shown, json_lines, cli, family, out, refused):
    flags = ["--json"] if json_lines else []
    outcome = cli("merge", "--family", "tiny", f"{option}={text}", "--out", out, *flags)
    refused(outcome, option, shown)
    assert outcome.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["merge"],
        ["merge", "--out"],
        ["evaluate"],
        ["score", "--out=a", "--magic", "1"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_read_is_refused(arguments, cli, refused):
    refused(cli(*arguments), "--help")


@pytest.mark.parametrize("tasks", ["nothing", "", "apples,,clouds"])
def test_unknown_tasks_are_refused(tasks, cli, family, refused):
    shown = "nothing" if tasks == "nothing" else "(empty)"
    outcome = cli("evaluate", "--family=tiny", "--model=base", f"--tasks={tasks}")
    refused(outcome, "--tasks", shown)


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["merge", "score"])
@pytest.mark.parametrize("make", ["file", "folder", "dangling link"])
def test_what_exists_is_never_overwritten(make, command, cli, family, tmp_path):
    out = tmp_path / "here"
    if make == "file":
        out.write_text("mine")
    elif make == "folder":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "nowhere")
    outcome = cli(command, "--family=tiny", "--samples=6", "--out", out)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"--out {out}: exists" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert make != "file" or out.read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_overwritten(cli, family, out, monkeypatch):
    link = os.link

    def late(source, target):
        out.write_text("mine")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert cli(*TIES, out).status == 2
    assert out.read_text() == "mine"
    assert list(out.parent.iterdir()) == [out]


def test_an_output_folder_is_never_created(cli, family, tmp_path, out, refused):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        outcome = cli("merge", "--family=tiny", "--out", folder / "m")
        refused(outcome, "--out", folder / "m", "create the folder first")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_too_long_for_the_disk_is_refused(cli, family, out, refused):
    long = out.with_name("m" * 300)
    refused(cli(*TIES, long), "--out")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_an_output_folder_that_cannot_be_written_to_is_refused(cli, family, out, refused):
    out.parent.chmod(0o500)
    refused(cli("merge", "--family=tiny", "--out", out), "--out", out)


def test_a_full_disk_leaves_nothing(cli, family, out, monkeypatch, refused):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mloss_core.checkpoints.image_tower.save_file", full)
    outcome = cli(*TIES, out)
    refused(outcome, "--out", out, "No space left")


def test_values_that_the_dtype_cannot_hold_are_refused(cli, family, out, refused):
    arguments = ("--method=ties", "--scaling=1e6", "--dtype=fp16")
    refused(cli("merge", "--family=tiny", *arguments, "--out", out), "--dtype fp16", "bf16")


# --- out of memory, and Ctrl-C --------------------------------------------------------------------

FULL = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes."),
    "numpy": MemoryError("Unable to allocate 9 GiB"),
}


@pytest.mark.parametrize("command", ["merge", "score", "evaluate"])
@pytest.mark.parametrize("error", FULL.values(), ids=FULL.keys())
def test_out_of_memory_is_one_line_with_a_remedy(
    error, command, cli, family, out, monkeypatch, refused
):
    def fail(*_):
        raise error

    monkeypatch.setattr(scoring, "_gap", fail)
    monkeypatch.setattr(Tower, "features", fail)
    rest = ("--model=base",) if command == "evaluate" else ("--samples=6", "--out", out)
    outcome = cli(command, "--family=tiny", "--json", *rest)
    refused(outcome, "out of memory", status=1)


@pytest.mark.parametrize(
    "place", ["mloss_core.mloss._gap", "mloss_core.checkpoints.image_tower.save_file"]
)
def test_an_interruption_anywhere_leaves_nothing(place, cli, family, out, monkeypatch, refused):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    refused(cli("merge", *FEW, "--json", "--out", out), "interrupted", status=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_in_the_middle_of_a_merge_leaves_nothing(models, tmp_path, out):
    pictures = tmp_path / "pictures.npz"
    np.savez_compressed(pictures, images=np.zeros((30_000, 16, 16, 3), np.uint8))
    command = [sys.executable, "-m", "mloss_core", "merge", "--family=tiny", "--json"]
    command += ["--device=cpu", f"--calibration={pictures}", f"--out={out}"]
    environment = os.environ | {"MLOSS_MODELS": str(models)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in the background of a shell ignore Ctrl-C, and so would what they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=heed, **pipes) as process:
        assert json.loads(process.stdout.readline())["event"] == "Planned"
        assert json.loads(process.stdout.readline())["event"] == "BlockScored"
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert "Finished" not in rest, f"the interruption was lost, or came too late: {err}"
    assert (process.returncode, err) == (1, "error: interrupted; nothing was written\n")
    assert list(out.parent.iterdir()) == []
