"""torchvision's datasets by name: read as they lie on disk, fetched only when asked."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from dataset_files import WRITERS, md5, picture
from dialect_files import state
from mloss_core import InputError, load
from mloss_core.data.benchmarks import alike, benchmarks
from mloss_core.families.scaffold import scaffold
from text_files import whole_model, write_hub
from tiny import CONFIG, open_clip_model

TOML = 'base = "base.safetensors"\nnum_attention_heads = 2\nactivation = "quick_gelu"\n'


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    """Whoever opens a connection fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """The folder of a family of a base alone."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("MLOSS_DATASETS", raising=False)
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    save_file(state(open_clip_model()), folder / "base.safetensors")
    return folder


def ask(folder: Path, *datasets: str, more: str = "") -> None:
    """Writes family.toml with a task a dataset, named in small letters."""
    tasks = [f'[[tasks]]\nname = "{name.lower()}"\ndataset = "{name}"\n' for name in datasets]
    (folder / "family.toml").write_text(TOML + more + "".join(tasks))


def pictures_of(dataset: str, root: Path) -> list:
    """What torchvision itself gives as test images; all of it where there is no split."""
    kind = getattr(torchvision.datasets, dataset)
    if dataset in ("EuroSAT", "SUN397"):
        opened = kind(root)
    elif dataset in ("MNIST", "FashionMNIST", "CIFAR100"):
        opened = kind(root, train=False)
    else:
        opened = kind(root, split="test")
    return [opened[i] for i in range(len(opened))]


@pytest.mark.parametrize("dataset", WRITERS)
def test_each_dataset_is_read_by_name(dataset, mine, monkeypatch):
    write, tests, validations = WRITERS[dataset]
    write(mine / "datasets", monkeypatch)
    ask(mine, dataset)
    family = load("mine")
    task, val = family.task(dataset.lower()), family.task(dataset.lower(), "val")
    assert task.classes == benchmarks()[dataset].classes and task.kind == benchmarks()[dataset].kind
    assert (len(task.images), len(val.images)) == (tests, validations)
    assert len(task.labels) == tests and len(val.labels) == validations
    shown = task.images[np.arange(tests)[::-1].copy()][:5]
    assert shown.shape == (min(5, tests), 16, 16, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], task.images[tests - 1 :][0])
    assert task.images[:0].shape == (0, 16, 16, 3)

    transform = open_clip.image_transform(16, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    reference = {}
    for image, label in pictures_of(dataset, mine / "datasets"):
        pixels = (255 * transform(image)).round().byte().permute(1, 2, 0).numpy()
        reference[pixels.tobytes()] = int(label)
    ours = {image.tobytes(): int(y) for image, y in zip(task.images[:], task.labels, strict=True)}
    assert ours.items() <= reference.items() and len(ours) == tests
    assert not ours.keys() & {image.tobytes() for image in val.images[:]}, "val and test overlap"


def test_splits_of_ours_do_not_depend_on_the_disks_order(mine, monkeypatch):
    WRITERS["SUN397"][0](mine / "datasets", monkeypatch)
    ask(mine, "SUN397")
    first = load("mine").task("sun397")
    paths = list((mine / "datasets" / "SUN397").rglob("sun_*.jpg"))
    monkeypatch.setattr(Path, "rglob", lambda *_: reversed(paths))
    again = load("mine").task("sun397")
    assert first.images.paths == again.images.paths
    np.testing.assert_array_equal(first.labels, again.labels)


def test_what_is_not_there_says_what_to_fetch_and_where_to_put_it(mine):
    for dataset in WRITERS:
        ask(mine, dataset)
        with pytest.raises(InputError, match=r"does not hold torchvision's") as error:
            load("mine").task(dataset.lower())
        said = str(error.value)
        assert f"into {mine / 'datasets'}" in said and benchmarks()[dataset].files in said
        fetchable = dataset != "StanfordCars"
        command = f"run python -m mloss_core fetch mine --tasks {dataset.lower()}, or put"
        assert (command in said) == fetchable
    ask(mine, "RESISC45")
    with pytest.raises(InputError, match="resisc45/test/CLASS/, a folder per class"):
        load("mine").task("resisc45")


def test_resisc45_is_a_folder_of_pictures_and_folders_go_before_datasets(mine):
    ask(mine, "RESISC45")
    for name in benchmarks()["RESISC45"].classes:
        folder = name.replace(" ", "_")
        picture(mine / "tasks" / "resisc45" / "test" / folder / f"{folder}_001.jpg")
    task = load("mine").task("resisc45")
    assert task.classes == benchmarks()["RESISC45"].classes
    assert task.labels.tolist() == list(range(45))
    shutil.rmtree(mine / "tasks" / "resisc45" / "test" / "lake")
    with pytest.raises(InputError, match="other class folders than the task's classes: lake"):
        load("mine").task("resisc45")


def test_datasets_may_lie_where_the_environment_says(mine, tmp_path, monkeypatch):
    WRITERS["MNIST"][0](tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setenv("MLOSS_DATASETS", str(tmp_path / "elsewhere"))
    ask(mine, "MNIST")
    assert len(load("mine").task("mnist").images) == 12


def test_odd_datasets_are_refused(mine, monkeypatch):
    root = mine / "datasets"
    WRITERS["GTSRB"][0](root, monkeypatch)
    ask(mine, "GTSRB", "MNIST", "SUN397", "Food101")
    table = root / "gtsrb" / "GT-final_test.csv"
    table.write_text(table.read_text().replace(";14\n", ";43\n"))
    with pytest.raises(InputError, match="has label 43 for 43 classes"):
        load("mine").task("gtsrb")
    table.write_text(table.read_text().replace("00000.ppm", "../../../x.ppm"))
    with pytest.raises(InputError, match="names pictures that lie elsewhere"):
        load("mine").task("gtsrb")
    WRITERS["MNIST"][0](root, monkeypatch)
    images = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(InputError, match=r"does not hold torchvision's MNIST"):
        load("mine").task("mnist")
    WRITERS["SUN397"][0](root, monkeypatch)
    names = root / "SUN397" / "ClassName.txt"
    first, second, *rest = names.read_text().splitlines()
    names.write_text("\n".join([second, first, *rest]))
    with pytest.raises(InputError, match="its class airplane cabin is not among 397 in order"):
        load("mine").task("sun397")


def test_a_damaged_picture_is_named_and_skipped_on_the_users_word(mine, monkeypatch):
    WRITERS["GTSRB"][0](mine / "datasets", monkeypatch)
    ask(mine, "GTSRB")
    bad = Path("gtsrb/GTSRB/Final_Test/Images/00004.ppm")
    (mine / "datasets" / bad).write_bytes(b"P6")
    with pytest.raises(InputError, match=r"00004\.ppm: cannot be decoded"):
        load("mine").task("gtsrb").images[:]
    ask(mine, "GTSRB", more=f'skip = ["{bad}"]\n')
    task = load("mine").task("gtsrb")
    assert len(task.images[:]) == len(task.labels) == 11


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MNIST's archives on a mirror that needs no network."""
    WRITERS["MNIST"][0](tmp_path / "mirror", monkeypatch)
    folder, resources = tmp_path / "mirror" / "MNIST" / "raw", []
    for path in sorted(folder.iterdir()):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, md5(packed)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{folder}/"])
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", shutil.copyfile)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    return folder


def test_fetch_brings_a_dataset_once(mine, tmp_path, monkeypatch, cli):
    served(tmp_path, monkeypatch)
    ask(mine, "MNIST")
    outcome = cli("fetch", "mine", "--json")
    row = {"fetched": "MNIST", "place": str(mine / "datasets"), "new": True}
    assert outcome.status == 0 and outcome.events == [row]
    assert len(load("mine").task("mnist").images) == 12
    assert cli("fetch", "mine", "--tasks", "mnist", "--json").events == [row | {"new": False}]
    assert [path.name for path in (mine / "datasets").iterdir()] == ["MNIST"]
    assert cli("fetch", "mine", "--tasks", "none").out == ""
    assert "--tasks nope: is not known; choose from all, none, mnist" in (
        cli("fetch", "mine", "--tasks", "nope").err
    )


def test_a_download_that_breaks_leaves_nothing(mine, tmp_path, monkeypatch, cli):
    folder = served(tmp_path, monkeypatch)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    ask(mine, "MNIST")
    outcome = cli("fetch", "mine")
    assert outcome.status == 2 and "MNIST could not be fetched" in outcome.err
    assert "try again, or put MNIST/raw with its four files into" in outcome.err
    assert list((mine / "datasets").iterdir()) == []
    served(tmp_path / "new", monkeypatch)
    (mine / "datasets" / "MNIST").mkdir()
    assert "is in the way of MNIST; move it away first" in cli("fetch", "mine").err
    assert [path.name for path in (mine / "datasets").iterdir()] == ["MNIST"]


def test_what_cannot_be_downloaded_comes_last_and_says_so(mine, tmp_path, monkeypatch, cli):
    served(tmp_path, monkeypatch)
    ask(mine, "StanfordCars", "RESISC45", "MNIST")
    outcome = cli("fetch", "mine")
    assert outcome.status == 2 and "MNIST" in outcome.out
    assert "dataset StanfordCars: cannot be downloaded; put stanford_cars/devkit" in outcome.err
    WRITERS["StanfordCars"][0](mine / "datasets", monkeypatch)
    assert "resisc45/test/CLASS/" in cli("fetch", "mine").err


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A model that open_clip knows by name, in a cache as huggingface_hub leaves it."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 2},
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 1},
    }
    place = tmp_path / "configs"
    place.mkdir()
    (place / "ViT-tiny.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [place])
    open_clip.add_model_config(place / "ViT-tiny.json")
    pretrained = {"hf_hub": "us/tiny/", "mean": (0.5,) * 3, "std": (0.25,) * 3, "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-tiny", {"ours": pretrained})
    blob = tmp_path / "cache" / "blobs" / "abc"
    blob.parent.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(state(open_clip.CLIP(**config, quick_gelu=True)), blob)
    link = tmp_path / "cache" / "snapshots" / "open_clip_model.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    return link


def test_a_base_by_open_clips_name_is_fetched_once(mine, published, monkeypatch, cli):
    (mine / "family.toml").write_text('base = "ViT-tiny/ours"\n')
    with pytest.raises(InputError, match="base of family mine ViT-tiny/ours: was not fetched yet"):
        load("mine")
    said = cli("score", "--family", "mine", "--out", mine / "s.safetensors").err
    assert "run python -m mloss_core fetch mine" in said and "huggingface.co/us/tiny into" in said
    calls = []
    monkeypatch.setattr(
        open_clip, "download_pretrained", lambda cfg: calls.append(cfg) or str(published)
    )
    place = mine / "ViT-tiny" / "ours"
    row = {"fetched": "ViT-tiny/ours", "place": str(place), "new": True}
    assert cli("fetch", "mine", "--json").events == [row]
    assert cli("fetch", "mine", "--json").events == [row | {"new": False}]
    assert len(calls) == 1
    assert not (place / "open_clip_model.safetensors").is_symlink()
    model = load("mine").model
    assert (model.activation, model.mean, model.heads) == ("quick_gelu", (0.5, 0.5, 0.5), 1)
    assert {path.name for path in mine.iterdir()} == {"base.safetensors", "family.toml", "ViT-tiny"}


def test_a_base_that_cannot_be_fetched_leaves_nothing(mine, published, monkeypatch, cli):
    (mine / "family.toml").write_text('base = "ViT-tiny/ours"\n')

    def offline_hub(_: object) -> str:
        raise FileNotFoundError("Failed to download file")

    monkeypatch.setattr(open_clip, "download_pretrained", offline_hub)
    said = cli("fetch", "mine").err
    assert "ViT-tiny/ours could not be fetched (FileNotFoundError" in said
    assert "put open_clip_model.safetensors of huggingface.co/us/tiny into" in said
    assert {path.name for path in mine.iterdir()} == {"base.safetensors", "family.toml"}
    (mine / "family.toml").write_text('base = "ViT-tiny/theirs"\n')
    assert "is no model of open_clip's; see open_clip.list_pretrained()" in cli("fetch", "mine").err
    (mine / "family.toml").write_text('base = "RN50/openai"\n')
    assert "is no CLIP ViT; choose one of the names ViT-*" in cli("fetch", "mine").err


def test_the_pool_is_of_the_sources_validation_images(mine, monkeypatch, cli):
    for name in ("MNIST", "GTSRB", "Food101"):
        WRITERS[name][0](mine / "datasets", monkeypatch)
    ask(mine, "MNIST", "GTSRB", "Food101")
    assert "has no task named as a source" in cli("pool", "mine").err
    for seed, name in enumerate(("mnist", "gtsrb"), start=1):
        save_file(state(open_clip_model(seed=seed)), mine / f"{name}.safetensors")
    assert cli("pool", "mine", "--each", 0).status == 2
    outcome = cli("pool", "mine", "--each", 3, "--json")
    path = mine / "calibration.npz"
    assert outcome.events == [{"written": str(path), "tasks": ["mnist", "gtsrb"]}]
    with np.load(path) as pool:
        assert pool["tasks"].tolist() == ["mnist"] * 3 + ["gtsrb"] * 3
        validation = {image.tobytes() for image in load("mine").task("gtsrb", "val").images[:]}
        assert {image.tobytes() for image in pool["images"][3:]} <= validation
    assert "exists and is never overwritten; move it away first" in cli("pool", "mine").err
    scores = mine / "scores.safetensors"
    arguments = ("--family", "mine", "--samples", 6, "--device", "cpu", "--out", scores)
    assert cli("score", *arguments).status == 0 and scores.is_file()


def test_the_readmes_way_from_downloads_to_the_first_heatmap(tmp_path, monkeypatch, cli):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    shelf = tmp_path / "models" / "vit-b-32"
    shelf.mkdir(parents=True)
    base = shelf / "clip-vit-base-patch32"
    write_hub(whole_model(), base)
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    for seed, name in enumerate(("mnist", "gtsrb"), start=1):
        place = shelf / f"clip-vit-base-patch32_{name}"
        write_hub(whole_model(seed), place)
        tensors = load_file(place / "model.safetensors")
        tuned = {key: t for key, t in tensors.items() if key.startswith("vision_model.")}
        save_file(tuned, place / "model.safetensors")
    assert cli("families", "--init", shelf).status == 0
    toml = (shelf / "family.toml").read_text()
    for name in ("[[tasks]]", 'name = "mnist"', 'name = "gtsrb"', "dataset"):
        toml = toml.replace(f"# {name}", name)
    (shelf / "family.toml").write_text(toml.replace('[[tasks]]\n# name = "NAME"', ""))
    for name in ("MNIST", "GTSRB"):
        WRITERS[name][0](shelf / "datasets", monkeypatch)
    for command in ("fetch", "heads", "pool"):
        outcome = cli(command, "vit-b-32")
        assert outcome.status == 0, outcome.err
    family = ("--family", "vit-b-32", "--device", "cpu")
    some = ("--samples", 6, "--out", tmp_path / "scores.safetensors")
    assert cli("score", *family, *some).status == 0
    merged = tmp_path / "merged.safetensors"
    assert cli("merge", *family, "--samples", 6, "--out", merged).status == 0
    outcome = cli("evaluate", *family, "--model", merged, "--json")
    totals = {row["task"]: row["total"] for row in outcome.events if "task" in row}
    assert totals == {"mnist": 12, "gtsrb": 12}
    own = shelf / "clip-vit-base-patch32_mnist"
    assert cli("evaluate", *family, "--model", own, "--tasks", "mnist").status == 0


def test_the_table_is_whole():
    counts = {name: len(benchmark.classes) for name, benchmark in benchmarks().items()}
    assert counts == {
        "MNIST": 10, "SVHN": 10, "StanfordCars": 196, "DTD": 47, "EuroSAT": 10, "GTSRB": 43,
        "SUN397": 397, "RESISC45": 45, "Flowers102": 102, "FashionMNIST": 10, "Food101": 101,
        "STL10": 10, "CIFAR100": 100,
    }  # fmt: skip
    for benchmark in benchmarks().values():
        assert len(set(benchmark.classes)) == len(benchmark.classes)
        assert all(template.count("{}") == 1 for template in benchmark.templates)
    classes = torchvision.datasets.Flowers102.classes
    assert tuple(name.rstrip("?") for name in classes) == benchmarks()["Flowers102"].classes
    classes = torchvision.datasets.FashionMNIST.classes
    assert tuple(classes) == benchmarks()["FashionMNIST"].classes


def test_the_scaffold_proposes_datasets_by_the_sources_names(mine):
    expected = {"Cars": "StanfordCars", "stanford-cars": "StanfordCars", "sun397": "SUN397"}
    assert {name: alike(name) for name in expected} == expected and alike("apples") is None
    wide = CONFIG | {"vision_cfg": {**CONFIG["vision_cfg"], "width": 64, "head_width": 64}}
    for seed, name in enumerate(("base", "svhn", "RESISC45", "apples")):
        save_file(state(open_clip_model(wide, seed)), mine / f"{name}.safetensors")
    text = scaffold(mine)
    assert '# name = "svhn"\n# dataset = "SVHN"' in text and '# dataset = "RESISC45"' in text
    assert "python -m mloss_core heads mine" in text and text.count("dataset =") == 2
    lines = [
        line[2:] if line[2:6] in ("[[ta", "name", "data") else line for line in text.split("\n")
    ]
    path = mine / "family.toml"
    path.write_text("\n".join(lines).replace("# activation", "activation"))
    family = load("mine")
    assert family.tasks == ("RESISC45", "svhn", "NAME")
    assert family.sources == ("RESISC45", "svhn", "apples")
