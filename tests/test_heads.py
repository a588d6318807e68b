"""Zero-shot heads from a family's own text tower: as open_clip's, and told when stale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from dialect_files import state, write_module
from mloss_core import Evaluator, InputError, load
from mloss_core.data.benchmarks import benchmarks
from mloss_core.families import text_tower
from text_files import WHOLE, WRITERS, hugging_face_text, whole_model
from tiny import open_clip_model

CLASSES = ("cat", "dog", "big_bird", "the last of them all, with a name of many many many words")
TEMPLATES = ("a photo of a {}.", "a drawing of the {}, of which there are few")
TASK = f'[[tasks]]\nname = "pets"\nclasses = {json.dumps(CLASSES)}\n'
TASK += f"templates = {json.dumps(TEMPLATES)}\n"
TOML = 'num_attention_heads = 2\nactivation = "quick_gelu"\n'
CPU = torch.device("cpu")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty folder of families."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    return tmp_path / "models" / "mine"


def provenance(
    folder: Path, name: str = "base.safetensors", task: str = TASK, more: str = ""
) -> None:
    """Writes family.toml."""
    text_tower = f"base = {json.dumps(name)}\n" + TOML + more + task
    (folder / "family.toml").write_text(text_tower)


def expected(model: open_clip.CLIP) -> torch.Tensor:
    """The ensemble of templates, spelled out."""
    tokenizer, rows = open_clip.SimpleTokenizer(context_length=16), []
    for name in CLASSES:
        prompts = [template.replace("{}", name.replace("_", " ")) for template in TEMPLATES]
        with torch.no_grad():
            units = F.normalize(model.encode_text(tokenizer(prompts)), dim=-1)
        rows.append(F.normalize(units.mean(0), dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("name", WRITERS)
def test_heads_of_every_dialect_are_open_clips(name, shelf, cli):
    model = whole_model()
    WRITERS[name](model, shelf / name)
    provenance(shelf, name)
    assert cli("heads", "mine").status == 0
    head = load("mine").heads(CPU)["pets"]
    assert head.shape == (4, 16)
    torch.testing.assert_close(head, expected(model), atol=1e-5, rtol=0)


def test_exact_gelu_makes_other_heads(shelf, cli):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)
    (shelf / "family.toml").write_text((shelf / "family.toml").read_text().replace("quick_", ""))
    assert cli("heads", "mine").status == 0
    head = load("mine").heads(CPU)["pets"]
    other = open_clip_model(WHOLE | {"quick_gelu": False})
    torch.testing.assert_close(head, expected(other), atol=1e-5, rtol=0)
    assert not torch.allclose(head, expected(whole_model()), atol=1e-5)


def test_the_file_says_how_it_came_to_be_and_json_tells(shelf, cli):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)
    outcome = cli("heads", "mine", "--json")
    assert outcome.events == [
        {"written": str(shelf / "heads.safetensors"), "tasks": ["pets"], "classes": 4}
    ]
    from mloss_core import Checkpoint

    about = Checkpoint.open(shelf / "heads.safetensors", "heads").metadata
    assert about["heads"]["pets"]["classes"][2] == "big bird"
    assert about["heads"]["pets"]["templates"] == list(TEMPLATES)
    assert about["text"] == load("mine").base().sha256


def test_heads_are_never_overwritten_nor_half_written(shelf, cli, monkeypatch):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)

    def interrupted(*_):
        yield torch.ones(2, 16)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(text_tower.TextTower, "embeddings", interrupted)
        assert cli("heads", "mine").status == 1
    assert {path.name for path in shelf.iterdir()} == {"base.safetensors", "family.toml"}
    assert cli("heads", "mine").status == 0
    before = (shelf / "heads.safetensors").read_bytes()
    again = cli("heads", "mine")
    assert again.status == 2 and "exists and is never overwritten; move it away" in again.err
    assert (shelf / "heads.safetensors").read_bytes() == before


def test_missing_heads_name_the_command(shelf):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)
    with pytest.raises(InputError, match=r"does not exist.*run python -m mloss_core heads mine"):
        load("mine").heads(CPU)


def test_stale_heads_are_told(shelf, cli):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)
    assert cli("heads", "mine").status == 0
    provenance(shelf, task=TASK.replace('"dog"', '"hound"'))
    with pytest.raises(InputError, match="made from other classes or templates of pets; move it"):
        load("mine").heads(CPU)
    provenance(shelf, task=TASK.replace("drawing", "sketch"))
    with pytest.raises(InputError, match="made from other classes or templates of pets"):
        load("mine").heads(CPU)
    provenance(shelf, task=TASK + '[[tasks]]\nname = "cars"\nclasses = ["van"]\n')
    with pytest.raises(InputError, match="lacks cars; move it away and run"):
        load("mine").heads(CPU)
    provenance(shelf)
    assert load("mine").heads(CPU)["pets"].shape == (4, 16)
    WRITERS["base.safetensors"](whole_model(seed=1), shelf / "base.safetensors")
    with pytest.raises(InputError, match=r"was made from another file than base\.safetensors"):
        load("mine").heads(CPU)


def test_a_head_file_of_others_goes_before_and_says_nothing_of_its_classes(shelf, cli):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf)
    save_file({"pets": torch.ones(4, 16)}, shelf / "heads.safetensors")
    assert load("mine").heads(CPU)["pets"].eq(1).all()
    torch.save({"weight": torch.zeros(4, 16)}, shelf / "head_pets.pt")
    assert load("mine").heads(CPU)["pets"].eq(0).all()
    (shelf / "heads.safetensors").unlink()
    assert load("mine").heads(CPU)["pets"].eq(0).all()
    assert "has no task that lacks a head" in cli("heads", "mine").err


def test_a_base_without_text_tower_asks_for_one(shelf, cli):
    model = whole_model()
    save_file(state(model.visual), shelf / "base.safetensors")
    provenance(shelf)
    outcome = cli("heads", "mine")
    assert outcome.status == 2
    assert 'holds no text tower; write text = "FILE" into family.toml' in outcome.err
    save_file(hugging_face_text(model), shelf / "text.safetensors")
    provenance(shelf, more='text = "text.safetensors"\n')
    assert cli("heads", "mine").status == 0
    head = load("mine").heads(CPU)["pets"]
    torch.testing.assert_close(head, expected(model), atol=1e-5, rtol=0)


def test_half_a_text_tower_is_none(shelf, cli):
    model = whole_model()
    del model.transformer  # as task-vectors' code writes its image encoders
    write_module(model, shelf / "zeroshot.pt")
    provenance(shelf, "zeroshot.pt")
    outcome = cli("heads", "mine")
    assert outcome.status == 2
    assert "holds only a part of a text tower, without transformer.resblocks.0" in outcome.err
    tensors = state(whole_model())
    del tensors["transformer.resblocks.1.ln_1.bias"]
    tensors["cls_emb"] = torch.ones(3)
    save_file(tensors, shelf / "base.safetensors")
    provenance(shelf, more='text = "base.safetensors"\n')
    assert "without transformer.resblocks.1.ln_1.bias" in cli("heads", "mine").err


@pytest.mark.parametrize(
    "change, said",
    [
        ({"text.cls_emb": torch.ones(64)}, "holds more than CLIP's text tower: cls_emb"),
        ({"text_projection": torch.ones(64, 8)}, "embeds into 8 numbers, its images into 16"),
        ({"token_embedding.weight": torch.ones(300, 64)}, "has 300 tokens, open_clip's tokenizer"),
        ({"positional_embedding": torch.ones(16)}, "which is no matrix"),
        ({"ln_final.bias": torch.full((64,), torch.nan)}, "ln_final.bias holds NaN"),
        ({"ln_final.bias": torch.ones(64, dtype=torch.int8)}, "of dtype I8; use F16"),
        ({"ln_final.bias": torch.ones(63)}, "has ln_final.bias of shape (63,) instead of (64,)"),
    ],
)
def test_an_odd_text_tower_is_named(change, said, shelf, cli):
    save_file(state(whole_model()) | change, shelf / "base.safetensors")
    provenance(shelf)
    outcome = cli("heads", "mine")
    assert outcome.status == 2 and said in outcome.err and outcome.err.count("\n") == 1
    assert not (shelf / "heads.safetensors").exists()


@pytest.mark.parametrize(
    "toml, said",
    [
        ('name = "a"\ntemplates = ["a photo"]', "a photo: has no single {}; write {} once"),
        ('name = "a"\ntemplates = ["{0.__class__} {}"]', "has no single {}"),
        ('name = "a"\ntemplates = "a {}"', "is no list of texts"),
        ('name = "a"\ntemplates = []', "is empty"),
        ('name = "a"\ntemplate = 3', "is no text"),
        ('name = "a"\nclasses = [1, 2]', "is no list of texts"),
        ('name = "a"\nclasses = ["x", "x"]', "hold one twice"),
        ('name = "a"\ntitle = 7', "title of task a in family.toml 7: is no text"),
        ('name = "a"\nkind = "sauce"', "is not known; choose from source, out-of-domain"),
        ('name = "a"\ndataset = "Nope"', "is not known; choose from MNIST, SVHN"),
        ('name = "a"\ndataset = ["SVHN"]', "is no text"),
        ('name = "a"\ndataset = "SVHN"\nclasses = ["0"]', "are not as many as SVHN has; give 10"),
        ('name = "../a"', "is no plain name"),
        ("name = 3", "is no plain name"),
        ('name = "a"\n[[tasks]]\nname = "a"', "is there twice"),
    ],
)
def test_a_task_that_cannot_be_meant_is_named(toml, said, shelf, cli):
    WRITERS["base.safetensors"](open_clip_model(), shelf / "base.safetensors")
    provenance(shelf, task=f"[[tasks]]\n{toml}\n")
    outcome = cli("heads", "mine")
    assert outcome.status == 2 and said in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize("line", ['skip = "x"', "calibration = 3", "text = 3", 'text = "../../x"'])
def test_wrong_types_beside_tasks_are_named(line, shelf):
    WRITERS["base.safetensors"](open_clip_model(), shelf / "base.safetensors")
    provenance(shelf, more=line + "\n", task="")
    with pytest.raises(InputError, match=r"is no (text|list)|for a path|leads out of"):
        load("mine")


def test_classes_come_from_folders_and_a_head_of_too_few_rows_is_refused(shelf, cli):
    WRITERS["base.safetensors"](whole_model(), shelf / "base.safetensors")
    provenance(shelf, task='[[tasks]]\nname = "pets"\n')
    for name in ("cat", "big_dog"):
        place = shelf / "tasks" / "pets" / "test" / name
        place.mkdir(parents=True)
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(place / "a.png")
    assert load("mine").prompts("pets").classes == ("big dog", "cat")
    assert load("mine").prompts("pets").templates == ("a photo of a {}.",)
    assert cli("heads", "mine").status == 0
    assert load("mine").heads(CPU)["pets"].shape == (2, 16)
    assert cli("evaluate", "--family", "mine", "--model", "base", "--device", "cpu").status == 0
    torch.save({"weight": torch.ones(1, 16)}, shelf / "head_pets.pt")
    with pytest.raises(InputError, match="pets has 1 rows; give one per class: 2"):
        Evaluator(load("mine"), CPU).task("pets")


def test_prompts_of_a_dataset_are_the_tables(shelf):
    WRITERS["base.safetensors"](open_clip_model(), shelf / "base.safetensors")
    provenance(shelf, task='[[tasks]]\nname = "roads"\ndataset = "GTSRB"\n')
    prompts, benchmark = load("mine").prompts("roads"), benchmarks()["GTSRB"]
    assert (prompts.classes, prompts.templates) == (benchmark.classes, benchmark.templates)


def test_the_demo_family_has_heads_of_its_own():
    assert len(load("demo").heads(CPU)) == len(load_file(load("demo").folder / "heads.safetensors"))
