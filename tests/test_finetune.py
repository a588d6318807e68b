"""Fine-tuning: settings and steps, that it resumes byte for byte, pictures, and merges along it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import signal
import stat
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from mloss_core import Checkpoint, Evaluator, InputError, MergeRecipe, Tower, progress, run
from mloss_core.data.calibration import preprocess
from mloss_core.data.images import Pictures
from mloss_core.errors import BadFile, BadValue, UnknownName
from mloss_core.evaluation.paired_test import compare
from mloss_core.families import family as zoo
from mloss_core.families import folders
from mloss_core.run import Evaluate, Merge
from mloss_core.training import archives, keeping
from mloss_core.training import lesson as lesson_module
from mloss_core.training.along import MergedAt, along, collapse
from mloss_core.training.events import (
    Begun,
    Diverged,
    Looked,
    Stepped,
    Tuned,
    Written,
    event_json,
)
from mloss_core.training.finetune import batch_at, finetune, fingerprint, provenance
from mloss_core.training.keep_as import keep_as
from mloss_core.training.keeping import checkpoints, usual_folder
from mloss_core.training.lesson import of_pictures, of_task, split
from mloss_core.training.settings import SETTINGS, Finetune
from mloss_core.training.student import Gradient, Student
from text_files import WRITERS, whole_model
from tiny import write_family

CPU = torch.device("cpu")
SHORT = Finetune(rate=3e-3, steps=12, batch=8, checkpoints=3)
COLOURS = {"blue": (30, 40, 220), "green": (40, 200, 50), "red": (220, 40, 30)}


def picture(colour: tuple[int, int, int], seed: int) -> np.ndarray:
    """A noisy picture of a colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (16, 16, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def lab_models(tmp_path_factory) -> Path:
    """A folder with a tiny family whose task "apples" has validation pictures to learn from."""
    folder = tmp_path_factory.mktemp("lab")
    write_family(folder / "tiny")
    path = folder / "tiny" / "tasks" / "apples.npz"
    with np.load(path) as file:
        arrays = dict(file)
    colours = [*COLOURS.values(), (200, 200, 30)]
    arrays["val_labels"] = np.repeat(np.arange(4), 10)
    arrays["val_images"] = np.stack(
        [picture(colours[label], i) for i, label in enumerate(arrays["val_labels"])]
    )
    np.savez(path, **arrays)
    return folder


@pytest.fixture
def tiny(lab_models, tmp_path, monkeypatch):
    """That family; one's own families go into an empty folder."""
    monkeypatch.setattr(folders, "ZOO", lab_models)
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "mine"))
    return zoo.load("tiny")


@pytest.fixture
def lesson(tiny):
    return of_task(tiny, "apples")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of pictures, a folder per class of 10."""
    return write_pictures(tmp_path / "colours")


def write_pictures(folder: Path, each: int = 10) -> Path:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(picture(colour, i)).save(folder / name / f"{i:02}.png")
    return folder


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def done(settings, family, lesson, folder) -> list:
    return list(finetune(settings, family, lesson, folder, device="cpu"))


def bytes_of(tuned: Tuned) -> bytes:
    return save(dict(sorted(tuned.weights.items())), {"mloss": json.dumps(tuned.metadata)})


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Settings.


@pytest.mark.parametrize("name, value", [
    ("rate", 0.0), ("rate", -1e-4), ("rate", math.nan), ("rate", math.inf), ("steps", 0),
    ("steps", -3), ("batch", 0), ("decay", -0.1), ("decay", math.nan), ("warm_up", -1),
    ("warm_up", 200), ("optimizer", "adam"), ("outside", "maybe"), ("seed", -1),
    ("checkpoints", 0),
])  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError) as caught:
        Finetune(**{name: value})
    assert caught.value.field == name and caught.value.remedy


def test_a_fine_tune_of_nothing_is_refused():
    with pytest.raises(BadValue, match="nothing to train"):
        Finetune(blocks=(), outside="frozen")


def test_every_setting_is_in_the_table():
    assert [field.name for field in dataclasses.fields(Finetune)] == list(SETTINGS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Finetune().rate = 1.0  # pyright: ignore
    with pytest.raises(TypeError):
        Finetune(1e-4)  # pyright: ignore


sizes = st.integers(1, 400)


@given(steps=sizes, checkpoints=st.integers(1, 30), share=st.floats(0, 0.99))
def test_the_rate_rises_then_falls_and_checkpoints_end_with_the_last_step(
    steps, checkpoints, share
):
    settings = Finetune(steps=steps, checkpoints=checkpoints, warm_up=int(share * steps))
    rates = [settings.rate_at(step) for step in range(1, steps + 1)]
    peak = settings.warm
    assert rates[peak] == settings.rate == max(rates) and min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    written = settings.written_at()
    assert written[-1] == steps and len(written) == min(checkpoints, len(written)) and written[0]
    assert {0, *written} <= set(settings.looked_at())


@given(size=st.integers(1, 20), pictures=st.integers(1, 15), seed=st.integers(0, 99))
def test_batches_are_epochs_end_to_end(size, pictures, seed):
    steps = 3 * pictures
    seen = np.concatenate([batch_at(s, size, pictures, seed) for s in range(1, steps + 1)])
    assert len(seen) == steps * size
    for epoch in range(len(seen) // pictures):
        own = seen[epoch * pictures : (epoch + 1) * pictures]
        assert sorted(own) == list(range(pictures))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_a_fifth_of_each_class_is_held_out(labels):
    labels = np.array(labels)
    trained, held = split(labels)
    assert sorted([*trained, *held]) == list(range(len(labels)))
    for label in set(labels.tolist()):
        count, aside = int((labels == label).sum()), int((labels[held] == label).sum())
        assert aside == (max(1, round(0.2 * count)) if count > 1 else 0) < count


# A step, beside a naive one.


def naive(settings, family, lesson, steps):
    """The same steps in plain formulas: one graph, one tensor at a time, no library code but the
    tower."""
    weights = family.base().load(CPU)
    state = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in weights.items()}
    for step in range(1, steps + 1):
        chosen = batch_at(step, settings.batch, len(lesson.labels), settings.seed)
        pixels = preprocess(lesson.images[chosen], family.model, CPU)
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        features = F.normalize(Tower(family.model, leaves).features(pixels), dim=-1)
        logits = family.logit_scale * features @ lesson.head.T
        picked = logits.log_softmax(1)[range(len(chosen)), lesson.labels[chosen].tolist()]
        (-picked.mean()).backward()
        norm = math.sqrt(sum(float(w.grad.square().sum()) for w in leaves.values()))
        for name, w in weights.items():
            g = leaves[name].grad * min(1.0, 1 / norm)
            decay = settings.decay if w.ndim > 1 else 0.0
            rate, (m, v) = settings.rate_at(step), state[name]
            if settings.optimizer == "sgd":
                m.copy_(0.9 * m + g + decay * w if step > 1 else g + decay * w)
                w -= rate * m
            else:
                w *= 1 - rate * decay
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                w -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights


@pytest.mark.parametrize("optimizer, rate", [("adamw", 1e-3), ("sgd", 0.05)])
def test_a_step_is_that_of_the_formulas(optimizer, rate, tiny, lesson):
    settings = Finetune(rate=rate, steps=4, batch=8, warm_up=1, optimizer=optimizer, decay=0.3)
    base = tiny.base().load(CPU)
    student = Student(settings, tiny.model, base, lesson.head, tiny.logit_scale)
    for step in (1, 2, 3):
        chosen = batch_at(step, 8, len(lesson.labels), 0)
        pixels = preprocess(lesson.images[chosen], tiny.model, CPU)
        student.step(student.gradient(pixels, torch.from_numpy(lesson.labels[chosen])), step)
    expected = naive(settings, tiny, lesson, 3)
    for name, tensor in expected.items():
        away, moved = student.weights[name].detach() - tensor, tensor - base[name]
        if name.endswith(
            "in_proj_bias"
        ):  # the keys' has no gradient but rounding, which Adam scales
            away, moved = (x.view(3, -1)[[0, 2]] for x in (away, moved))
        assert float(moved.norm()) > 0 and float(away.norm()) < 2e-3 * float(moved.norm()), name
    blocks, outside = student.distances()
    for block, distance in enumerate(blocks):
        names = tiny.model.block_names(block)
        flat = [torch.cat([w[n].flatten() for n in names]) for w in (expected, base)]
        assert distance == pytest.approx(float((flat[0] - flat[1]).norm() / flat[1].norm()), 1e-2)
    assert outside > 0


def test_threads_share_a_batch_without_changing_its_gradient(tiny, lesson, monkeypatch):
    student = Student(SHORT, tiny.model, tiny.base().load(CPU), lesson.head, tiny.logit_scale)
    pixels = preprocess(lesson.images[:16], tiny.model, CPU)
    labels = torch.from_numpy(lesson.labels[:16])
    whole = student.gradient(pixels, labels)
    monkeypatch.setattr(Student, "_pieces", lambda self, total: 3)
    parts = student.gradient(pixels, labels)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    for group, flat in whole.groups.items():
        torch.testing.assert_close(parts.groups[group], flat, rtol=1e-3, atol=1e-5)


# Events, files, and that the same is the same.


def test_events_are_planned_and_a_result_is_a_source(tiny, lesson, tmp_path):
    events = []
    for event in finetune(SHORT, tiny, lesson, tmp_path / "f", device="cpu"):
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        json.dumps(event_json(event), allow_nan=False)
        events.append(event)
    planned, begun, *_, tuned = events
    assert planned.steps == len(events) - 1 and progress(events) == 1
    assert (begun.head, begun.trained, begun.held_out, begun.resumed) == ("zero-shot", 32, 8, 0)
    assert begun.expected == pytest.approx(12 * begun.a_step)
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 13))
    assert steps[-1].loss < steps[0].loss
    looks = {event.step: event for event in events if isinstance(event, Looked)}
    assert tuple(looks) == SHORT.looked_at()
    assert looks[0].distances.tolist() == [0, 0, 0] and (looks[12].distances > 0).all()
    assert looks[12].accuracy.rate > looks[0].accuracy.rate, "colours are easily told apart"
    written = [event for event in events if isinstance(event, Written)]
    assert [event.step for event in written] == [4, 8, 12]
    assert checkpoints(tmp_path / "f") == {event.step: event.path for event in written}
    last = Checkpoint.open(written[-1].path, "source new", tiny.base())
    last.audit(tiny.model.shapes(), tiny.base())
    assert last.metadata == json.loads(json.dumps(tuned.metadata))
    assert last.metadata["task"] == "apples" and last.metadata["finetune"]["warm_up"] == 1
    stored = load_file(written[-1].path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in tuned.weights.items())


def test_the_same_seed_gives_the_same_bytes_and_another_others(tiny, lesson, tmp_path):
    first, same, other = (
        bytes_of(done(settings, tiny, lesson, tmp_path / name)[-1])
        for name, settings in (
            ("a", SHORT), ("b", SHORT), ("c", dataclasses.replace(SHORT, seed=1)),
        )
    )  # fmt: skip
    assert first == same != other


@pytest.mark.parametrize("changes, moved", [
    ({"blocks": (1,), "outside": "frozen"}, {"resblocks.1."}),
    ({"blocks": (), "outside": "trained"}, {"conv1", "embedding", "ln_p", "proj"}),
    ({"blocks": (0, 2)}, {"resblocks.0.", "resblocks.2.", "conv1", "embedding", "ln_p", "proj"}),
])  # fmt: skip
def test_only_what_is_to_be_trained_moves(changes, moved, tiny, lesson, tmp_path):
    settings = dataclasses.replace(SHORT, steps=3, checkpoints=1, rate=0.01, **changes)
    tuned = done(settings, tiny, lesson, tmp_path / "f")[-1]
    base = tiny.base().read(tiny.model.shapes())
    for name, tensor in tuned.weights.items():
        wanted = any(word in name.removeprefix("visual.") for word in moved)
        inside = "resblocks" in name
        wanted = wanted and (not inside or any(w in name for w in moved if "resblocks" in w))
        assert torch.equal(tensor, base[name]) != wanted, name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_closed_fine_tune_goes_on_to_the_same_bytes(optimizer, tiny, lesson, tmp_path):
    settings = dataclasses.replace(SHORT, optimizer=optimizer)
    whole = done(settings, tiny, lesson, tmp_path / "whole")
    events = finetune(settings, tiny, lesson, tmp_path / "parts", device="cpu")
    for event in events:
        if isinstance(event, Stepped) and event.step == 7:
            break
    events.close()
    again = done(settings, tiny, lesson, tmp_path / "parts")
    assert again[1].resumed == 4, "the last checkpoint"
    assert bytes_of(again[-1]) == bytes_of(whole[-1])
    said = [[(type(e), e.step) for e in es if hasattr(e, "step")] for es in (again, whole)]
    assert said[0] == said[1], "what was said before is said again"
    third = done(settings, tiny, lesson, tmp_path / "parts")
    assert third[1].resumed == 12 and third[1].expected is None
    assert bytes_of(third[-1]) == bytes_of(whole[-1])


def test_a_killed_process_loses_no_more_than_the_steps_since_its_checkpoint(
    tiny, lab_models, tmp_path
):
    arguments = [
        "finetune", "--family", "tiny", "--task", "apples", "--lr", "0.01", "--steps", "160",
        "--batch", "8", "--checkpoints", "20", "--threads", "1",
        "--device", "cpu", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "MLOSS_MODELS": str(lab_models), "PYTHONUNBUFFERED": "1"}
    cut, out = tmp_path / "cut", tmp_path / "out.safetensors"
    line = [sys.executable, "-m", "mloss_core", *arguments, "--keep-in", str(cut)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        [*line, "--out", str(out)], stdout=subprocess.PIPE, env=environment, cwd=root
    ) as process:
        assert process.stdout is not None
        for row in process.stdout:
            event = json.loads(row)
            if event["event"] == "Stepped" and event["step"] == 19:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    settings = Finetune(rate=0.01, steps=160, batch=8, checkpoints=20)
    lesson = of_task(tiny, "apples")
    again = done(settings, tiny, lesson, cut)
    assert 16 <= again[1].resumed < 160 and again[1].resumed % 8 == 0
    whole = done(settings, tiny, lesson, tmp_path / "whole")
    assert bytes_of(again[-1]) == bytes_of(whole[-1])
    assert tree(cut).keys() == tree(tmp_path / "whole").keys(), "nothing is left aside"


def test_another_fine_tune_never_goes_on_from_a_folder(tiny, lesson, tmp_path):
    done(SHORT, tiny, lesson, tmp_path / "f")
    before = tree(tmp_path / "f")
    with pytest.raises(BadFile, match="another fine-tune: finetune differ"):
        done(dataclasses.replace(SHORT, seed=1), tiny, lesson, tmp_path / "f")
    assert tree(tmp_path / "f") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadFile, match=r"notes.txt"):
        done(SHORT, tiny, lesson, tmp_path / "mine")
    (tmp_path / "f" / keeping.STATE).write_bytes(b"damaged")
    with pytest.raises(BadFile, match="cannot be read"):
        done(SHORT, tiny, lesson, tmp_path / "f")


def poisoned(monkeypatch, at: int) -> None:
    """The gradient of one step is no number."""
    real, taken = Student.gradient, []

    def gradient(self, pixels, labels):
        found = real(self, pixels, labels)
        steps = {int(s["step"]) for s in self.optimizer.state.values() if "step" in s} or {0}
        taken.append(max(steps))
        return Gradient(math.nan, found.groups, found.norm) if max(steps) + 1 == at else found

    monkeypatch.setattr(Student, "gradient", gradient)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    tiny, lesson, tmp_path, monkeypatch
):
    poisoned(monkeypatch, 7)
    events = done(SHORT, tiny, lesson, tmp_path / "f")
    diverged, tuned = events[-2:]
    assert isinstance(diverged, Diverged) and (diverged.step, diverged.kept) == (7, 4)
    assert tuned.step == 4 and tuned.metadata["step"] == 4
    stored = load_file(keeping.checkpoint(tmp_path / "f", 4))
    assert all(torch.equal(stored[name], tensor) for name, tensor in tuned.weights.items())
    monkeypatch.undo()
    monkeypatch.setattr(folders, "ZOO", tiny.folder.parent)
    again = done(SHORT, tiny, lesson, tmp_path / "f")
    assert isinstance(again[-2], Diverged) and again[-2].step == 7, "it is known"
    assert bytes_of(again[-1]) == bytes_of(tuned)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_rate_far_too_high_is_named(optimizer, tiny, lesson, tmp_path):
    settings = dataclasses.replace(SHORT, rate=1e30, optimizer=optimizer, warm_up=0)
    with pytest.raises(BadValue, match=r"no number at step [1-4], before any") as caught:
        done(settings, tiny, lesson, tmp_path / "f")
    assert caught.value.field == "rate"


def test_a_full_disk_loses_nothing(tiny, lesson, tmp_path, monkeypatch):
    whole = done(SHORT, tiny, lesson, tmp_path / "whole")[-1]
    real, calls = keeping.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 4:  # the state of the second checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(keeping, "save_file", full)
    with pytest.raises(BadFile, match=r"No space left .*free space"):
        done(SHORT, tiny, lesson, tmp_path / "f")
    monkeypatch.setattr(keeping, "save_file", real)
    assert not list((tmp_path / "f").glob(".*")), "nothing half is left"
    again = done(SHORT, tiny, lesson, tmp_path / "f")
    assert again[1].resumed == 4 and bytes_of(again[-1]) == bytes_of(whole)


def test_blocks_that_do_not_exist_are_refused_before_any_work(tiny, lesson, tmp_path):
    with pytest.raises(BadValue, match="blocks 0 to 2"):
        done(dataclasses.replace(SHORT, blocks=(3,)), tiny, lesson, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_task_without_enough_pictures_is_refused(tiny):
    with pytest.raises(UnknownName):
        of_task(tiny, "pears")
    path = tiny.folder / "tasks" / "bridges.npz"
    kept = path.read_bytes()
    try:
        with np.load(path) as file:
            arrays = {**file, "val_images": file["val_images"][:1], "val_labels": np.array([0])}
        np.savez(path, **arrays)
        with pytest.raises(BadValue, match="held out"):
            of_task(tiny, "bridges")
    finally:
        path.write_bytes(kept)


def test_a_familys_test_pictures_are_never_looked_at(tiny, monkeypatch):
    asked = []
    real = type(tiny).task
    monkeypatch.setattr(
        type(tiny),
        "task",
        lambda self, name, split="test": asked.append(split) or real(self, name, split),
    )
    of_task(tiny, "apples")
    assert asked == ["val"]


def test_many_pictures_hold_out_no_more_than_are_looked_at_in_time():
    trained, held = split(np.repeat(np.arange(10), 1000))
    assert (len(trained), len(held)) == (9490, 510)


@pytest.mark.gpu
def test_on_cuda_it_learns_in_half_precision_and_keeps_the_stream_in_full(tiny, lesson, tmp_path):
    settings = dataclasses.replace(SHORT, rate=1e-3)
    looks = []
    for device in ("cpu", "cuda"):
        events = list(finetune(settings, tiny, lesson, tmp_path / device, device=device))
        looks.append([event for event in events if isinstance(event, Looked)][-1])
        assert all(tensor.device.type == "cpu" for tensor in events[-1].weights.values())
    np.testing.assert_allclose(looks[1].distances, looks[0].distances, rtol=0.1)


# Pictures of one's own.


def test_pictures_that_would_fill_the_memory_stay_files(tiny, folder, tmp_path, monkeypatch):
    small = of_pictures(folder, tiny)
    monkeypatch.setattr(lesson_module, "IN_MEMORY", 20 * 3 * 16 * 16)
    large = of_pictures(folder, tiny)
    assert isinstance(large.images, Pictures) and isinstance(large.held_images, Pictures)
    np.testing.assert_array_equal(large.images[:], small.images)
    torch.testing.assert_close(large.head, small.head)
    first, second = (done(SHORT, tiny, each, tmp_path / each.sha256) for each in (small, large))
    assert all(torch.equal(t, second[-1].weights[n]) for n, t in first[-1].weights.items())
    with pytest.raises(BadFile, match="more than memory should"):
        of_pictures(zipped(folder, tmp_path / "colours.zip"), tiny)


def test_a_folder_is_learnt_with_class_means(tiny, folder, tmp_path):
    lesson = of_pictures(folder, tiny)
    assert lesson.classes == ("blue", "green", "red") and lesson.name == "colours"
    assert (len(lesson.labels), len(lesson.held_labels)) == (24, 6)
    assert lesson.head_from == "class means" and not lesson.of_family
    tower = Tower(tiny.model, tiny.base().load(CPU))
    for label in range(3):
        own = lesson.images[:][lesson.labels == label]
        units = F.normalize(tower.features(preprocess(own, tiny.model, CPU)), dim=-1)
        expected = F.normalize(units.mean(0), dim=0)
        torch.testing.assert_close(lesson.head[label], expected)
    looks = [e for e in done(SHORT, tiny, lesson, tmp_path / "f") if isinstance(e, Looked)]
    assert looks[-1].accuracy.rate == 1


@pytest.mark.parametrize("top", ["", "pets/", "a/b/"])
def test_a_zip_is_as_its_folder(top, tiny, folder, tmp_path):
    packed = of_pictures(zipped(folder, tmp_path / "colours.zip", top), tiny)
    assert packed.sha256 == of_pictures(folder, tiny).sha256


def test_what_systems_pack_beside_pictures_is_nothing(tiny, folder, tmp_path):
    path = zipped(folder, tmp_path / "colours.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/red/._00.png", b"x")
        archive.writestr("red/.DS_Store", b"x")
    assert of_pictures(path, tiny).sha256 == of_pictures(folder, tiny).sha256


def test_zero_shot_needs_a_text_tower(tiny, folder):
    with pytest.raises(BadFile, match="no whole text tower"):
        of_pictures(folder, tiny, head="zero-shot")
    with pytest.raises(UnknownName):
        of_pictures(folder, tiny, head="magic")


def test_a_family_with_a_text_tower_gives_zero_shot_heads(folder, tmp_path, monkeypatch):
    """As it would be of a CLIP from elsewhere, without any task or source; and kept from there."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    clip, model = tmp_path / "models" / "clip", whole_model()
    clip.mkdir(parents=True)
    WRITERS["base.safetensors"](model, clip / "base.safetensors")
    toml = 'base = "base.safetensors"\nnum_attention_heads = 2\nactivation = "quick_gelu"\n'
    (clip / "family.toml").write_text(toml)
    family = zoo.load("clip")
    lesson = of_pictures(folder, family)
    assert lesson.head_from == "zero-shot"
    prompts = [f"a photo of a {name}." for name in lesson.classes]
    with torch.no_grad():
        tokens = open_clip.SimpleTokenizer(context_length=16)(prompts)
        expected = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(lesson.head, expected, atol=1e-5, rtol=0)
    assert of_pictures(folder, family, head="class means").head_from == "class means"
    tuned = done(SHORT, family, lesson, tmp_path / "f")[-1]
    assert {tensor.dtype for tensor in tuned.weights.values()} == {torch.float32}
    keep_as(family, lesson, tuned.weights, tuned.metadata, "mine", "hues")
    mine = zoo.load("mine")
    assert mine.source("hues").sha256 and mine.model == dataclasses.replace(
        family.model, name="mine"
    )
    torch.testing.assert_close(mine.heads(CPU)["colours"], lesson.head)


def test_too_few_pictures_are_named(tiny, folder):
    for number in (7, 1):
        for path in sorted((folder / "red").iterdir())[number:]:
            path.unlink()
        with pytest.raises(BadValue, match=f"red: has {number} pictures .*8 or more"):
            of_pictures(folder, tiny)
    next((folder / "red").iterdir()).unlink()
    with pytest.raises(BadFile, match="holds no pictures"):
        of_pictures(folder, tiny)


def test_folders_that_cannot_be_classes_are_refused(tiny, folder, tmp_path):
    with pytest.raises(BadFile, match="does not exist"):
        of_pictures(tmp_path / "nothing", tiny)
    with pytest.raises(BadFile, match="no class folders"):
        of_pictures(folder / "red", tiny)
    write_pictures(tmp_path / "one")
    for name in ("red", "green"):
        (tmp_path / "one" / name).rename(tmp_path / name)
    with pytest.raises(BadFile, match="one class, blue"):
        of_pictures(tmp_path / "one", tiny)
    for name in ("train", "val"):
        write_pictures(tmp_path / "splits" / name)
    with pytest.raises(BadFile, match="splits and no classes"):
        of_pictures(tmp_path / "splits", tiny)


@pytest.mark.parametrize("twin", [unicodedata.normalize("NFD", "für"), "für ", "f_r"])
def test_two_classes_of_one_name_are_refused(twin, tiny, folder):
    first = "f r" if twin == "f_r" else "für"
    (folder / "red").rename(folder / first)
    (folder / "green").rename(folder / twin)
    with pytest.raises(BadFile, match="two folders of one class"):
        of_pictures(folder, tiny)


def test_damaged_pictures_are_named_and_skipped_only_by_word(tiny, folder):
    data = (folder / "red" / "03.png").read_bytes()
    (folder / "red" / "03.png").write_bytes(data[: len(data) // 2])
    (folder / "blue" / "photo.heic").write_bytes(b"heic")
    with pytest.raises(BadFile, match=r"2 damaged pictures: blue/photo.heic, red/03.png"):
        of_pictures(folder, tiny)
    lesson = of_pictures(folder, tiny, skip_damaged=True)
    assert lesson.skipped == ("blue/photo.heic", "red/03.png")
    assert len(lesson.labels) + len(lesson.held_labels) == 29


# Archives that mean harm.


def packed(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


@given(st.lists(st.sampled_from(["..", "a", "b"]), max_size=3), st.sampled_from(["/", "\\"]))
def test_no_path_leads_out_of_an_archive(parts, slash):
    name = slash.join([*parts, "..", "..", "out.png"])
    with pytest.raises(BadFile, match="leads out of it"):
        archives._check(zipfile.ZipInfo(name), Path("x.zip"))


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png", "C:\\out.png"])
def test_paths_out_of_an_archive_write_nothing(name, tiny, tmp_path):
    path = packed(tmp_path / "bad.zip", ("red/1.png", b"x"), (name, b"x"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadFile, match="leads out of it"):
        of_pictures(path, tiny)
    assert sorted(tmp_path.iterdir()) == before and not Path("/tmp/out.png").exists()


def test_links_in_an_archive_are_refused(tiny, tmp_path):
    link = zipfile.ZipInfo("red/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(BadFile, match="a link"):
        of_pictures(packed(tmp_path / "bad.zip", (link, b"/etc/passwd")), tiny)


def test_a_bomb_is_refused_whatever_it_says_of_itself(tiny, tmp_path, monkeypatch):
    path = packed(tmp_path / "bomb.zip", ("red/1.png", bytes(3_000_000)))
    monkeypatch.setattr(archives, "MOST_BYTES", 1_000_000)
    with pytest.raises(BadFile, match="unpacks to more than"):
        of_pictures(path, tiny)
    data = bytearray(path.read_bytes())
    place = data.rfind((3_000_000).to_bytes(4, "little"))  # a smaller size in its directory
    data[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BadFile):
        of_pictures(path, tiny)
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    many = packed(tmp_path / "many.zip", *[(f"red/{i}.png", b"x") for i in range(4)])
    with pytest.raises(BadFile, match="4 files"):
        of_pictures(many, tiny)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_cannot_be_read_are_said_so(tiny, folder, tmp_path):
    (tmp_path / "no.zip").write_bytes(b"no zip at all")
    twice = packed(tmp_path / "twice.zip", ("red/1.png", b"x"), ("red/1.png", b"y"))
    whole = zipped(folder, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[60] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    for path, words in (
        (tmp_path / "no.zip", "no .zip"), (tmp_path / "half.zip", "no .zip"), (twice, "twice"),
        (tmp_path / "flipped.zip", "no .zip"),
    ):  # fmt: skip
        with pytest.raises(BadFile, match=words):
            of_pictures(path, tiny)


# A family of one's own.


def test_a_fine_tune_is_kept_in_a_family_of_ones_own(tiny, folder, tmp_path, lab_models):
    before = tree(lab_models)
    lesson = of_pictures(folder, tiny)
    tuned = done(SHORT, tiny, lesson, tmp_path / "f")[-1]
    place = keep_as(
        tiny, lesson, tuned.weights, tuned.metadata, "mine", "hues", beside=("apples", "clouds")
    )
    assert place == tmp_path / "mine" / "mine" and tree(lab_models) == before
    mine = zoo.load("mine")
    assert mine.sources == ("apples", "clouds", "hues")
    assert mine.tasks == ("apples", "clouds", "colours") and mine.own_task("hues") == "colours"
    assert len(mine.task("colours").images) == 6, "those held out"
    assert mine.model == dataclasses.replace(tiny.model, name="mine")
    recipe = MergeRecipe(family="mine", method="m-ties", sources=mine.sources, samples=9)
    stages = (Merge(), Evaluate(stage="full", models=("merged", "own")))
    events = list(run(recipe, mine, stages=stages, device="cpu", tasks=mine.tasks))
    own = {e.task: e.accuracy for e in events if getattr(e, "model", "") == "own"}
    assert own["colours"].rate == 1 and own.keys() == set(mine.tasks)
    of_family = of_task(tiny, "apples")
    more = done(SHORT, tiny, of_family, tmp_path / "g")[-1]
    keep_as(tiny, of_family, more.weights, more.metadata, "mine", "apples again")
    mine = zoo.load("mine")
    assert mine.own_task("apples again") == "apples" and "apples again" in mine.sources
    assert Evaluator(mine, CPU).of_file("apples again", "apples").shape[0] == 12
    learnt = of_task(tiny, "bridges")
    keep_as(tiny, learnt, more.weights, more.metadata, "mine", "third")
    assert zoo.load("mine").tasks[-1] == "bridges" and tree(lab_models) == before
    assert zoo.load("mine").source("third").sha256


def test_a_family_that_cannot_be_extended_is_left_alone(tiny, folder, tmp_path, lab_models):
    lesson = of_task(tiny, "apples")
    tuned = done(SHORT, tiny, lesson, tmp_path / "f")[-1]
    arguments = (tiny, lesson, tuned.weights, tuned.metadata)
    for family, source, words in (
        ("tiny", "new", "never changes"), ("../x", "new", "no plain name"),
        ("x", "a/b", "no plain name"), ("", "new", "no plain name"), (".x", "n", "no plain name"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            keep_as(*arguments, family, source)
    with pytest.raises(UnknownName):
        keep_as(*arguments, "x", "new", beside=("pears",))
    with pytest.raises(BadValue, match="a source beside"):
        keep_as(*arguments, "x", "clouds", beside=("clouds",))
    assert not (tmp_path / "mine").exists()
    write_family(tmp_path / "mine" / "other", seed=3)
    before = tree(tmp_path / "mine")
    with pytest.raises(BadFile, match="another base"):
        keep_as(*arguments, "other", "new")
    assert tree(tmp_path / "mine") == before
    keep_as(*arguments, "x", "new")
    before = tree(tmp_path / "mine")
    with pytest.raises(BadValue, match="there already"):
        keep_as(*arguments, "x", "new")
    assert tree(tmp_path / "mine") == before


# Merges along it.


@pytest.mark.parametrize("method", ["m-ties", "ties"])
def test_checkpoints_are_merged_with_others(method, tiny, folder, tmp_path):
    lesson = of_pictures(folder, tiny)
    done(SHORT, tiny, lesson, tmp_path / "f")
    found = list(
        along(
            checkpoints(tmp_path / "f"), tiny, lesson, ("apples", "clouds"), method=method,
            settings={"samples": 9, "keep": 0.5}, images=8, device="cpu",
        )
    )  # fmt: skip
    assert [getattr(event, "step", None) for event in found] == [None, 4, 8, 12]
    assert progress(found) == 1
    point = found[-1]
    assert point.mloss.shape == (3, 3) and (point.mloss[0] > 0).all()
    assert (point.mloss[1] <= point.mloss[0]).all() and (point.mloss[0] <= point.mloss[2]).all()
    assert {task: len(hits) for task, hits in point.merged.items()} == {
        "colours": 6, "apples": 8, "clouds": 8,
    }  # fmt: skip
    mean, low, high = point.merged_accuracy()
    assert low <= mean <= high and point.own_accuracy.total == 6
    verdict = collapse(found[1:])
    assert verdict.last == 12 and verdict.words.startswith("**")


def test_a_checkpoint_of_a_familys_task_is_merged_beside_that_tasks_source(tiny, lesson, tmp_path):
    done(SHORT, tiny, lesson, tmp_path / "f")
    settings = {"samples": 8, "keep": 0.5}
    options = {"settings": settings, "images": 8, "device": "cpu"}
    at = {12: checkpoints(tmp_path / "f")[12]}
    (_, point) = along(at, tiny, lesson, ("apples", "clouds"), **options)
    assert {task: len(hits) for task, hits in point.merged.items()} == {"apples": 8, "clouds": 8}
    with pytest.raises(UnknownName):
        list(along(at, tiny, lesson, ("pears",), **options))
    with pytest.raises(UnknownName, match="method emr"):
        list(along(at, tiny, lesson, ("apples",), method="emr", **options))
    with pytest.raises(BadFile, match="train first"):
        checkpoints(tmp_path / "nothing")


def points(rates, rng, pictures=(60, 200, 200)) -> list[MergedAt]:
    """Checkpoints whose merges answer with these rates, picture by picture alike."""
    luck = {str(i): rng.random(n) for i, n in enumerate(pictures)}
    noise = 0.3
    return [
        MergedAt(
            step=step, mloss=np.zeros((3, 1)), own=np.ones(1, bool), seconds=0.0,
            merged={
                task: np.where(rng.random(len(u)) < noise, rng.random(len(u)), u) < rate
                for task, u in luck.items()
            },
        )
        for step, rate in enumerate(rates, 1)
    ]  # fmt: skip


def naively_there(found: list[MergedAt]) -> bool:
    """The verdict where the same pictures choose the best checkpoint and test it."""
    best = max(found, key=lambda point: point.merged_accuracy()[0])
    return best is not found[-1] and compare(best.merged, found[-1].merged).low > 0


def test_a_collapse_that_is_not_there_is_seldom_seen_and_one_that_is_mostly():
    rng, times = np.random.default_rng(0), 100
    level = [points([0.6] * 8, rng) for _ in range(times)]
    fallen = [points([0.4, 0.6, 0.7, 0.7, 0.65, 0.6, 0.55, 0.5], rng) for _ in range(times)]
    wrong, right = (sum(collapse(found).there for found in each) for each in (level, fallen))
    assert wrong <= 0.06 * times, "1 in 40 would be right"
    assert right >= 0.9 * times
    assert sum(map(naively_there, level)) > max(0.1 * times, 2 * wrong), "why halves are needed"


def test_the_statement_says_which_way_it_is():
    rng = np.random.default_rng(1)
    fallen = collapse(points([0.3, 0.9, 0.4], rng))
    assert fallen.there and fallen.best == 2 and "collapse after step 2" in fallen.words
    risen = collapse(points([0.3, 0.5, 0.9], rng))
    assert not risen.there and risen.comparison is None and "merges best" in risen.words


# The command line.

SHORTLY = (
    "--family", "tiny", "--lr", "0.003", "--steps", "12", "--batch", "8", "--checkpoints", "3",
    "--device", "cpu",
)  # fmt: skip


def test_the_command_line_writes_what_the_library_trains(cli, tiny, lesson, out, runs, tmp_path):
    outcome = cli("finetune", *SHORTLY, "--task", "apples", "--json", "--out", out)
    assert (outcome.status, outcome.err) == (0, "")
    kinds = [event["event"] for event in outcome.events]
    assert kinds[:3] == ["Planned", "Begun", "Looked"] and kinds[-1] == "Tuned"
    assert outcome.events[0]["steps"] == len(kinds) - 1
    tuned = done(SHORT, tiny, lesson, tmp_path / "f")[-1]
    assert out.read_bytes() == keeping.checkpoint(tmp_path / "f", 12).read_bytes()
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["mloss"]) == json.loads(json.dumps(tuned.metadata))
    assert not list(runs.rglob("*.safetensors")), "nobody asked for the checkpoints"


def test_the_command_line_goes_on_where_it_was_stopped(cli, tiny, lesson, out):
    place = usual_folder(fingerprint(provenance(SHORT, tiny, lesson, CPU)))
    events = finetune(SHORT, tiny, lesson, place, device="cpu")
    assert next(event for event in events if isinstance(event, Written))
    events.close()
    outcome = cli("finetune", *SHORTLY, "--task", "apples", "--out", out)
    assert outcome.status == 0 and "going on after step 4 of 12" in outcome.err
    assert "zero-shot head" in outcome.out and "held out" in outcome.out and out.exists()


def test_an_interrupted_one_says_how_to_go_on(cli, tiny, out, monkeypatch):
    real = Student.step

    def step(self, gradient, step):
        if step == 7:
            raise KeyboardInterrupt
        return real(self, gradient, step)

    monkeypatch.setattr(Student, "step", step)
    outcome = cli("finetune", *SHORTLY, "--task", "apples", "--out", out)
    assert outcome.status == 1 and "after step 6; the same command goes on" in outcome.err
    monkeypatch.setattr(Student, "step", real)
    outcome = cli("finetune", *SHORTLY, "--task", "apples", "--out", out)
    assert outcome.status == 0 and "going on after step 4" in outcome.err


def test_pictures_become_a_family_at_the_command_line(cli, tiny, folder, tmp_path):
    (folder / "red" / "03.png").write_bytes(b"damaged")
    arguments = ("finetune", *SHORTLY, "--pictures", folder, "--name", "My colours")
    refused = cli(*arguments, "--keep-as", "mine/hues")
    assert refused.status == 2 and "--pictures" in refused.err and "red/03.png" in refused.err
    outcome = cli(
        *arguments, "--skip-damaged", "--keep-as", "mine/hues", "--beside", "clouds",
        "--keep-in", tmp_path / "kept",
    )  # fmt: skip
    assert outcome.status == 0 and "skipped damaged pictures: red/03.png" in outcome.err
    mine = zoo.load("mine")
    assert mine.sources == ("clouds", "hues") and mine.tasks == ("clouds", "My colours")
    assert set(checkpoints(tmp_path / "kept")) == {4, 8, 12}
    assert cli("evaluate", "--family", "mine", "--model", "base", "--device", "cpu").status == 0


@pytest.mark.parametrize("arguments, words", [
    (("--task", "apples", "--lr", "0"), "--lr 0"),
    (("--task", "apples", "--steps", "0"), "--steps 0"),
    (("--task", "apples", "--blocks", "0-9"), "--blocks"),
    (("--task", "apples", "--optimizer", "adam"), "--optimizer adam"),
    (("--task", "apples", "--warm-up", "12"), "--warm-up 12"),
    (("--task", "pears"), "pears"),
    ((), "--task"),
    (("--task", "apples", "--pictures", "x"), "--task"),
    (("--pictures", "nothing"), "--pictures"),
    (("--task", "apples", "--keep-as", "mine"), "--keep-as"),
    (("--task", "apples", "--beside", "pears", "--keep-as", "a/b"), "--beside"),
    (("--task", "apples", "--lr", "1e30"), "--lr 1e+30"),
])  # fmt: skip
def test_mistakes_at_the_command_line_are_one_line(arguments, words, cli, tiny, out, refused):
    refused(cli("finetune", *SHORTLY, *arguments, "--out", out), words)


def test_a_result_needs_a_place(cli, tiny):
    outcome = cli("finetune", *SHORTLY, "--task", "apples")
    assert outcome.status == 2 and "--out" in outcome.err


def test_a_long_one_is_said_to_be_long(cli, tiny, out, monkeypatch):
    monkeypatch.setattr(Begun, "expected", property(lambda self: 600.0))
    outcome = cli("finetune", *SHORTLY, "--task", "apples", "--out", out)
    assert "about 10 min" in outcome.err
    assert io.StringIO(outcome.out).readline().startswith("step")
