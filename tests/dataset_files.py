"""Tiny torchvision datasets in their real layouts on disk, written without torchvision."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from mloss_core.data.benchmarks import benchmarks

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path) -> None:
    """A small picture of an odd size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(21, 30, 3)).save(path)


def names(dataset: str) -> list[str]:
    return [name.replace(" ", "_") for name in benchmarks()[dataset].classes]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


Patch = pytest.MonkeyPatch


def mnist(root: Path, patch: Patch, name: str = "MNIST") -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 12)):
        header = struct.pack(">4I", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels(count, 28, 28).tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">2I", 0x801, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def fashion_mnist(root: Path, patch: Patch) -> None:
    mnist(root, patch, "FashionMNIST")


def svhn(root: Path, patch: Patch) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    split_list = {}
    for part, count in (("train", 30), ("test", 12)):
        path = root / f"{part}_32x32.mat"
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for 0
        savemat(path, {"X": pixels(32, 32, 3, count), "y": labels})
        split_list[part] = ["", path.name, md5(path)]
    patch.setattr(torchvision.datasets.SVHN, "split_list", split_list)


def stanford_cars(root: Path, patch: Patch) -> None:
    from scipy.io import savemat

    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    classes = np.array(benchmarks()["StanfordCars"].classes, dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": classes})
    kinds = [("fname", "O"), ("class", "O")]
    for part, path in (
        ("train", folder / "devkit" / "cars_train_annos.mat"),
        ("test", folder / "cars_test_annos_withlabels.mat"),
    ):
        rows = np.array([(f"{i}.jpg", i + 1) for i in range(12)], dtype=kinds)
        savemat(path, {"annotations": rows})
        for i in range(12):
            picture(folder / f"cars_{part}" / f"{i}.jpg")


def dtd(root: Path, patch: Patch) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for part in ("train", "val", "test"):
        lines = [f"{name}/{name}_{part}.jpg" for name in benchmarks()["DTD"].classes]
        (folder / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            picture(folder / "images" / line)


def eurosat(root: Path, patch: Patch) -> None:
    kinds = (
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
        "PermanentCrop", "Residential", "River", "SeaLake",
    )  # fmt: skip
    for kind in kinds:
        for i in range(4):
            picture(root / "eurosat" / "2750" / kind / f"{kind}_{i}.jpg")


def gtsrb(root: Path, patch: Patch) -> None:
    folder = root / "gtsrb" / "GTSRB"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(12):
        picture(folder / "Final_Test" / "Images" / f"{i:05}.ppm")
        rows.append(f"{i:05}.ppm;30;21;0;0;1;1;{i + 3}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    for kind in range(43):
        picture(folder / "Training" / f"{kind:05}" / "00000_00000.ppm")


def sun397(root: Path, patch: Patch) -> None:
    folder = root / "SUN397"
    folder.mkdir(parents=True)
    places = [f"/{name[0]}/{name}" for name in names("SUN397")]
    (folder / "ClassName.txt").write_text("\n".join(places) + "\n")
    for i in range(40):
        picture(folder / places[7 * i][1:] / f"sun_{i:05}.jpg")


def flowers102(root: Path, patch: Patch) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    for i in range(1, 19):
        picture(folder / "jpg" / f"image_{i:05}.jpg")
    ids = {"trnid": np.arange(1, 7), "valid": np.arange(7, 13), "tstid": np.arange(13, 19)}
    savemat(folder / "setid.mat", ids)
    savemat(folder / "imagelabels.mat", {"labels": np.arange(1, 19) * 5})
    file_dict = {"image": ("102flowers.tgz", "")} | {
        key: (file, md5(folder / file))
        for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    patch.setattr(torchvision.datasets.Flowers102, "_file_dict", file_dict)


def food101(root: Path, patch: Patch) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        listed = {name: [f"{name}/{part}"] for name in names("Food101")}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(listed))
        for paths in listed.values():
            picture(folder / "images" / f"{paths[0]}.jpg")


def stl10(root: Path, patch: Patch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("\n".join(benchmarks()["STL10"].classes) + "\n")
    for part, count in (("train", 30), ("test", 12), ("unlabeled", 1)):
        (folder / f"{part}_X.bin").write_bytes(pixels(count, 3, 96, 96).tobytes())
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)
        (folder / f"{part}_y.bin").write_bytes(labels.tobytes())
    kind = torchvision.datasets.STL10
    for split, files in (
        ("train_list", ("train_X.bin", "train_y.bin", "unlabeled_X.bin")),
        ("test_list", ("test_X.bin", "test_y.bin")),
    ):
        patch.setattr(kind, split, [[file, md5(folder / file)] for file in files])


def cifar100(root: Path, patch: Patch) -> None:
    folder, kind = root / "cifar-100-python", torchvision.datasets.CIFAR100
    folder.mkdir(parents=True)
    for part, count in (("train", 30), ("test", 12)):
        labels = [7 * i % 100 for i in range(count)]
        entry = {"data": pixels(count, 3 * 32 * 32), "fine_labels": labels}
        (folder / part).write_bytes(pickle.dumps(entry))
        patch.setattr(kind, f"{part}_list", [[part, md5(folder / part)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names("CIFAR100")}))
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(folder / "meta")}
    patch.setattr(kind, "meta", meta)


# Each dataset, how it is written, and how many test and validation images it then has.
WRITERS: dict[str, tuple[Callable[[Path, Patch], None], int, int]] = {
    "MNIST": (mnist, 12, 3),
    "SVHN": (svhn, 12, 3),
    "StanfordCars": (stanford_cars, 12, 1),
    "DTD": (dtd, 47, 47),
    "EuroSAT": (eurosat, 4, 4),
    "GTSRB": (gtsrb, 12, 4),
    "SUN397": (sun397, 4, 4),
    "Flowers102": (flowers102, 6, 6),
    "FashionMNIST": (fashion_mnist, 12, 3),
    "Food101": (food101, 101, 10),
    "STL10": (stl10, 12, 3),
    "CIFAR100": (cifar100, 12, 3),
}
