"""Files as people really have them: numbered folders, deep greys, hidden files, names, labels."""

from __future__ import annotations

import shutil
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dataset_files import WRITERS
from dialect_files import state
from mloss_core import Family, InputError, families, load, load_batch
from mloss_core.checkpoints.image_tower import save
from mloss_core.data import images, names
from mloss_core.data.calibration import draw_batch, pool_size, preprocess
from mloss_core.evaluation.evaluator import Evaluator
from mloss_core.families.layouts import layout
from mloss_core.families.scaffold import scaffold
from mloss_core.vit import Tower
from tiny import CONFIG, TASKS, open_clip_model

CPU = torch.device("cpu")
TASK = TASKS[0]
NFC, NFD = (unicodedata.normalize(form, "Äpfel é") for form in ("NFC", "NFD"))
SYSTEM = (".ipynb_checkpoints", "__MACOSX", "@eaDir")
STRAY = (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "._a.npz", "._a.safetensors")


def save_picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (value, 255 - value, value)).save(path)


def as_folders(family: Path, classes: list[str]) -> Path:
    """The first task as a folder per class, each of one picture of its own colour."""
    (family / "tasks" / f"{TASK}.npz").unlink()
    place = family / "tasks" / TASK / "test"
    for number, name in enumerate(classes):
        save_picture(place / name / "a.png", 20 * number)
    return place


def head_of(family: Path, colours: list[int]) -> torch.Tensor:
    """A head whose rows are what the base makes of these colours: accuracy is 100 % in order."""
    own = load("tiny")
    place = family / "colours"
    for row, colour in enumerate(colours):
        save_picture(place / f"{row:02}.png", 20 * colour)
    batch = load_batch(place, own.model).images
    shutil.rmtree(place)
    tower = Tower(own.model, own.base().load(CPU))
    rows = tower.features(preprocess(batch, own.model, CPU))
    return torch.nn.functional.normalize(rows, dim=-1)


def write_head(family: Path, head: torch.Tensor, classes: list[str] | None = None) -> None:
    heads = load_file(family / "heads.safetensors") | {TASK: head.contiguous()}
    (family / "heads.safetensors").unlink()
    if classes is None:
        save_file(heads, family / "heads.safetensors")
        return
    plain = {"classes": ["one", "two", "three", "four"], "templates": ["a {}"]}
    about = {task: plain for task in TASKS} | {TASK: {"classes": classes, "templates": ["a {}"]}}
    text = load("tiny").base().sha256
    save(family / "heads.safetensors", heads, {"heads": about, "text": text})


def accuracy() -> float:
    """Of the base on the first task's images."""
    evaluator = Evaluator(load("tiny"), CPU)
    features = torch.nn.functional.normalize(evaluator.of_file(None, TASK), dim=-1)
    answers = (features @ evaluator.heads[TASK].T).argmax(1).numpy()
    return float((answers == evaluator.task(TASK).labels).mean())


def test_class_folders_of_whole_numbers_are_in_the_order_of_the_numbers(own_family):
    write_head(own_family, head_of(own_family, list(range(12))))
    as_folders(own_family, [str(number) for number in range(12)])
    assert load("tiny").task(TASK).classes == tuple(map(str, range(12)))
    assert accuracy() == 1


@pytest.mark.parametrize("text_order", [[0, 1, 10, 11, *range(2, 10)], [*range(11, -1, -1)]])
def test_a_head_with_names_is_matched_by_name(own_family, text_order):
    rows = [f"class {number}" for number in text_order]
    write_head(own_family, head_of(own_family, text_order), rows)
    as_folders(own_family, [f"class_{number}" for number in range(12)])
    assert accuracy() == 1


def test_classes_of_the_description_are_matched_by_name(own_family):
    write_head(own_family, head_of(own_family, [2, 0, 1]))
    as_folders(own_family, ["10", "9", unicodedata.normalize("NFD", "é_a")])
    about = (own_family / "family.json").read_text()
    declared = '"name": "apples", "classes": ["é a", "10", "9"]'
    (own_family / "family.json").write_text(about.replace('"name": "apples"', declared))
    assert accuracy() == 1


@pytest.mark.parametrize("loose", [False, True])
def test_an_order_that_nobody_tells_is_asked_for_and_both_are_named(own_family, loose):
    head = head_of(own_family, list(range(12)))
    write_head(own_family, head)
    place = as_folders(own_family, [f"c{number}" for number in range(12)])
    if loose:
        (own_family / "family.json").rename(own_family / "family.toml")
        toml = f'activation = "quick_gelu"\nnum_attention_heads = 2\n[[tasks]]\nname = "{TASK}"\n'
        (own_family / "family.toml").write_text(toml)
        torch.save({"weight": head}, own_family / f"head_{TASK}.pt")
    with pytest.raises(InputError) as error:
        load("tiny").task(TASK)
    message = str(error.value)
    assert "as text c0, c1, c10, c11, c2" in message and "by number c0, c1, c2, c3" in message
    assert message.endswith("into family.toml, in the order of the head's rows")
    for number in (10, 11):  # now both orders are one
        shutil.rmtree(place / f"c{number}")
    assert load("tiny").task(TASK).classes == tuple(f"c{number}" for number in range(10))


def test_without_a_head_the_order_does_not_matter(own_family):
    (own_family / "heads.safetensors").unlink()
    as_folders(own_family, ["c2", "c10"])
    assert load("tiny").task(TASK).classes == ("c10", "c2")


def test_folders_and_heads_of_other_names_are_named_both(own_family):
    write_head(own_family, head_of(own_family, [0, 1]), ["cat", "dog"])
    place = as_folders(own_family, ["cat", "emu"])
    with pytest.raises(
        InputError, match=r"has class folders cat, emu, but its head is of cat, dog"
    ):
        load("tiny").task(TASK)
    (place / "big dog").mkdir()
    (place / "big_dog").mkdir()
    with pytest.raises(InputError, match=r"two folders of one class: big dog and big_dog"):
        load("tiny").task(TASK)


def deep(folder: Path, name: str, values: np.ndarray, **options) -> np.ndarray:
    """What is read of a picture that Pillow wrote from these values, four times enlarged."""
    path = folder / name
    Image.fromarray(np.kron(values, np.ones((4, 4), values.dtype))).save(path, **options)
    return read(path, 4 * values.shape[0])[::4, ::4]


def read(path: Path, size: int = 16) -> np.ndarray:
    return images.decoded([path], size)[0]


RAMP = np.arange(16).reshape(4, 4) / 15


@pytest.mark.parametrize(
    "name, kind, white",
    [
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint16, 65535),
        ("a.tif", np.int32, 2**31 - 1),
        ("a.tif", np.float32, 1),
        ("a.pgm", np.uint16, 65535),
        ("a.jp2", np.uint16, 65535),
        ("a.tif", np.uint8, 255),
    ],
)
def test_greys_are_scaled_by_the_range_of_their_type(tmp_path, name, kind, white):
    values = (RAMP * white).astype(kind)
    options = {"irreversible": False} if name.endswith("jp2") else {}
    shades = deep(tmp_path, name, values, **options)
    expected = np.round(RAMP * 255)
    assert np.abs(shades - expected[..., None].astype(int)).max() <= 1
    assert shades.min() == 0 and shades.max() == 255


def patched(path: Path, tag: int, value: int) -> None:
    """Changes a TIFF's tag of one number."""
    content = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
        if struct.unpack_from("<H", content, place)[0] == tag:
            struct.pack_into("<H", content, place + 8, value)
    path.write_bytes(content)


def test_unsigned_32_bits_and_white_is_zero_are_told_from_the_file(tmp_path):
    path = tmp_path / "a.tif"
    values = (RAMP * (2**32 - 1)).astype(np.uint32)
    Image.fromarray(np.kron(values, np.ones((4, 4), np.uint32)).view(np.int32)).save(path)
    patched(path, 339, 1)
    assert np.abs(read(path)[::4, ::4, 0] - np.round(RAMP * 255)).max() <= 1
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(path)
    patched(path, 262, 0)
    assert read(path).max() == 0


@pytest.mark.parametrize(
    "values, said",
    [
        (RAMP * 255, r"floats from 0 to 255, not from 0 to 1; save it with 8 bits, or scaled"),
        (RAMP - 0.5, r"floats from -0\.5 to 0\.5, not"),
        (RAMP * np.nan, r"floats from nan to nan, not"),
        ((RAMP * 255).astype(np.int32), r"from 0 to 255 of 0 to 2147483647, which are one shade"),
        ((RAMP * 9).astype(np.int32) - 5, r"whole numbers from -5 to 4, not from 0 to 2147483647"),
    ],
)
def test_values_that_are_no_shades_are_refused_with_their_range(tmp_path, values, said):
    if values.dtype == float:
        values = values.astype(np.float32)
    with pytest.raises(InputError, match=r"picture .*a\.tif: holds " + ".*" + said):
        deep(tmp_path, "a.tif", values)


def test_other_kinds_of_pixels_stay_as_pillow_and_open_clip_have_them(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    alpha = Image.fromarray(colours, "RGBA")
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    written = {
        "alpha.png": (alpha, {}),
        "grey.png": (Image.fromarray(colours[..., 0]), {}),
        "bits.png": (Image.fromarray(colours[..., 0]).convert("1"), {}),
        "two.png": (Image.fromarray(colours[..., :2].copy(), "LA"), {}),
        "palette.png": (palette, {"transparency": 0}),
        "palette.gif": (palette, {"transparency": 0}),
        "cmyk.tif": (Image.fromarray(colours, "CMYK"), {}),
        "cmyk.jpg": (Image.fromarray(colours, "CMYK"), {}),
    }
    for name, (picture, options) in written.items():
        picture.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as again:
            expected = np.asarray(again.convert("RGB"))
        np.testing.assert_array_equal(read(tmp_path / name), expected, name)
    np.testing.assert_array_equal(read(tmp_path / "alpha.png"), colours[..., :3])


def test_pixels_are_not_turned_by_exif_as_open_clip_does_not(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert read(tmp_path / "a.jpg")[:6].min() > 240 and read(tmp_path / "a.jpg")[10:].max() < 15


ENDINGS = ("gif", "jfif", "jpe", "pgm", "ppm", "pbm", "avif", "jp2", "tif", "tiff", "bmp", "JPG")


def test_pictures_of_all_endings_that_pillow_reads_are_taken(tmp_path):
    for ending in ENDINGS:
        mode = {"pgm": "L", "pbm": "1"}.get(ending, "RGB")
        Image.new(mode, (20, 20), 1).save(tmp_path / f"a.{ending}")
    Image.new("RGB", (20, 20)).save(tmp_path / "no_ending", "JPEG")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg_large", "PNG")
    (tmp_path / "README").write_text("P2 is no picture")
    (tmp_path / "labels.csv").write_text("a,b")
    paths = images.picture_files(tmp_path)
    assert len(paths) == len(ENDINGS) + 2
    assert images.decoded(paths, 16).shape == (len(paths), 16, 16, 3)


def test_pictures_that_are_not_read_are_named_and_skipped_on_the_users_word(tmp_path):
    save_picture(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.HEIC: is a \.heic, which is not read; convert it"):
        images.picture_files(tmp_path)
    assert len(images.picture_files(tmp_path, ["b.HEIC"])) == 1
    (tmp_path / "a.png").rename(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"holds no pictures but a\.txt"):
        images.picture_files(tmp_path, ["b.HEIC"])


def litter(folder: Path) -> None:
    """What Jupyter, macOS, Windows and Synology leave in a folder."""
    for name in STRAY:
        (folder / name).write_bytes(b"\0\0")
    for name in SYSTEM:
        (folder / name).mkdir()
        for file in ("a-checkpoint.png", "a.npz", "a.safetensors"):
            (folder / name / file).write_bytes(b"\0\0")


def test_hidden_and_system_files_are_nothing_anywhere(own_family):
    place = as_folders(own_family, ["one", "two", "three", "four"])
    for name in ("a", "b"):
        save_picture(own_family / "unlabeled" / f"{name}.png")
    sources = load("tiny").sources
    before = layout(own_family).about["tasks"]
    folders = [own_family.parent, *(p for p in own_family.rglob("*") if p.is_dir()), own_family]
    for folder in folders:
        litter(folder)
    family = load("tiny")
    assert families().count("tiny") == 1 and not {*families()} & {*SYSTEM}
    assert family.sources == sources and layout(own_family).about["tasks"] == before
    task = family.task(TASK)
    assert task.classes == ("four", "one", "three", "two") and task.images[:].shape[0] == 4
    assert len(load_batch(own_family / "unlabeled", family.model).images) == 2
    assert pool_size(own_family / "unlabeled", ()) == 2
    (own_family / "family.json").unlink()
    assert layout(own_family).sources.keys() == {*TASKS}
    assert {task["name"] for task in layout(own_family).about["tasks"]} == {*TASKS}
    assert names.is_hidden(".x") and names.is_hidden("THUMBS.DB") and not names.is_hidden("x.")
    assert place.is_dir()


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    save_picture(tmp_path / ".cache" / "pictures" / "a.png")
    assert len(images.picture_files(tmp_path / ".cache" / "pictures")) == 1


def rewritten(family: Path, **changes) -> Path:
    path = family / "tasks" / f"{TASK}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | changes))
    return path


LABELS = {
    "text": (np.array(["one"] * 12), r"labels of dtype <U3, such as \['one'\]; give whole numbers"),
    "floats": (np.zeros(12), r"labels of dtype float64, such as \[0\.0\]; give whole numbers"),
    "booleans": (np.zeros(12, bool), r"labels of dtype bool, such as \[False\]"),
    "too few": (np.zeros(3, int), r"labels of shape \(3,\) for 12 images"),
}


@pytest.mark.parametrize("labels, said", LABELS.values(), ids=LABELS.keys())
def test_labels_that_are_no_whole_numbers_are_named_by_dtype(own_family, labels, said):
    rewritten(own_family, labels=labels)
    with pytest.raises(InputError, match=said):
        load("tiny").task(TASK)


@pytest.mark.parametrize("split", ["test", "val"])
def test_images_of_another_size_are_refused(own_family, cli, split):
    array = {"test": "images", "val": "val_images"}[split]
    count = {"test": 12, "val": 6}[split]
    path = rewritten(own_family, **{array: np.zeros((count, 20, 24, 3), np.uint8)})
    said = rf"task {TASK} .*{path.name}: has images of 20 x 24 pixels; resize them to 16 x 16"
    with pytest.raises(InputError, match=said):
        load("tiny").task(TASK, split)
    if split == "test":
        outcome = cli("evaluate", "--family", "tiny", "--model", "base", "--device", "cpu")
        assert outcome.status == 1 and "resize them to 16 x 16" in outcome.err


def test_classes_of_bytes_are_text_and_of_floats_are_refused(own_family):
    rewritten(own_family, classes=np.array([b"one", b"two", b"three", b"four"]))
    assert load("tiny").task(TASK).classes == ("one", "two", "three", "four")
    rewritten(own_family, classes=np.zeros(4))
    with pytest.raises(InputError, match=r"classes of dtype float64 and shape \(4,\)"):
        load("tiny").task(TASK)


@pytest.mark.parametrize("name", ["my family", "Ünïcode 家族", "(a) & b", "-x"])
def test_a_family_that_is_listed_can_be_chosen(models, tmp_path, monkeypatch, name):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    shutil.copytree(models / "tiny", tmp_path / name)
    assert name in families() and load(name).name == name


def spelt_twice(models: Path, shelf: Path, disk: str, word: str) -> Family:
    """A family, source and task whose names are spelt one way on disk and another in the json."""
    folder = shelf / disk
    shutil.copytree(models / "tiny", folder)
    (folder / "sources" / f"{TASK}.safetensors").rename(folder / "sources" / f"{disk}.safetensors")
    (folder / "tasks" / f"{TASK}.npz").rename(folder / "tasks" / f"{disk}.npz")
    about = (folder / "family.json").read_text().replace(f'"{TASK}"', f'"{word}"')
    (folder / "family.json").write_text(about)
    heads = load_file(folder / "heads.safetensors")
    save_file({disk if k == TASK else k: v for k, v in heads.items()}, folder / "heads.safetensors")
    with np.load(folder / "calibration.npz") as pool:
        owners = np.array([disk if name == TASK else name for name in pool["tasks"].tolist()])
        np.savez(folder / "calibration.npz", images=pool["images"], tasks=owners)
    return load(word)


@pytest.mark.parametrize("disk, word", [(NFC, NFD), (NFD, NFC)])
def test_names_are_compared_in_one_unicode_form(models, tmp_path, monkeypatch, cli, disk, word):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    family = spelt_twice(models, tmp_path, disk, word)
    assert NFC in families() and family.name == NFC and NFC in family.sources
    assert family.own_task(NFC) == NFC and NFC in family.heads(CPU)
    for name in (NFC, NFD):
        assert family.source(name).shapes and len(family.task(name).images) == 12
        assert pool_size(family.calibration_pool, [name]) == 8
        assert len(draw_batch(family.calibration_pool, [name], 3, 0).images) == 3
    out = tmp_path / "out.safetensors"
    chosen = ("--family", word, "--sources", f"{NFC},bridges", "--samples", 4, "--device", "cpu")
    outcome = cli("merge", *chosen, "--out", out)
    assert outcome.status == 0, outcome.err


def test_one_name_in_two_forms_on_one_disk_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = tmp_path / "tiny"
    shutil.copytree(models / "tiny", folder)
    for name in (NFC, NFD):
        shutil.copy(folder / "base.safetensors", folder / "sources" / f"{name}.safetensors")
    with pytest.raises(InputError, match="would both be called"):
        load("tiny")
    (folder / "family.json").unlink()
    with pytest.raises(InputError, match="one name in two Unicode forms; rename one"):
        layout(folder)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../tiny", "a/b", "a\\b", ".hidden", "a\0b"])
def test_a_family_that_is_a_path_is_refused(family, name):
    with pytest.raises(InputError, match="is not a plain name but a path or empty"):
        load(name)


def test_a_scaffold_of_odd_names_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = tmp_path / "my models"
    folder.mkdir()
    wide = CONFIG | {"vision_cfg": {**CONFIG["vision_cfg"], "width": 64, "head_width": 64}}
    for seed, name in enumerate(("base", "two words", NFD, "🐈")):
        save_file(state(open_clip_model(wide, seed)), folder / f"{name}.safetensors")
    text = scaffold(folder)
    assert "python -m mloss_core pool 'my models'" in text
    (folder / "family.toml").write_text(text.replace("# activation", "activation"))
    family = load("my models")
    assert {*family.sources} == {"two words", NFC, "🐈"}
    assert all(family.source(name).shapes for name in family.sources)


def test_a_hidden_folder_among_torchvisions_classes_is_none(own_family, monkeypatch):
    about = (own_family / "family.json").read_text()
    with_dataset = '"name": "apples", "dataset": "EuroSAT"'
    (own_family / "family.json").write_text(about.replace('"name": "apples"', with_dataset))
    (own_family / "tasks" / f"{TASK}.npz").unlink()
    WRITERS["EuroSAT"][0](own_family / "datasets", monkeypatch)
    before = load("tiny").task(TASK)
    folder = own_family / "datasets" / "eurosat" / "2750"
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(next(folder.rglob("*.jpg")), folder / ".ipynb_checkpoints" / "a.jpg")
    (folder / "Forest" / "._Forest_1.jpg").write_bytes(b"no picture")
    after = load("tiny").task(TASK)
    np.testing.assert_array_equal(before.labels, after.labels)
    assert before.images.paths == after.images.paths
