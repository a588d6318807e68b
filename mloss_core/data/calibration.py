"""Calibration batches of unlabeled images for M-Loss: drawing and preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..architecture import ViTConfig
from ..errors import BadFile, BadValue
from ..fields import FIELDS
from ..text import normal
from ..types import CalibrationBatch
from .images import decoded, picture_files
from .names import listed
from .tasks import check_images, check_pixels, read_npz


def batch_of(
    images: UInt8[np.ndarray, "n h w 3"], tasks: np.ndarray | None = None
) -> CalibrationBatch:
    """A batch of exactly these images, in their order, and of these tasks if that is known."""
    images = np.ascontiguousarray(images)
    header = repr(images.shape).encode()
    return CalibrationBatch(
        images=images,
        sha256=hashlib.sha256(header + images.tobytes()).hexdigest(),
        tasks=None if tasks is None else tuple(map(str, tasks)),
    )


def load_batch(path: Path, family: ViTConfig) -> CalibrationBatch:
    """A batch of all images of an .npz (array `images`, and `tasks` if it has that too) or of a
    folder, in order; raises BadFile."""
    if path.is_dir():
        paths = picture_files(path, argument="calibration")
        return batch_of(decoded(paths, family.image_size))
    arrays = read_npz(path, "calibration", ("images",), optional=("tasks",))
    check_images(arrays["images"], "calibration", path)
    check_size(arrays["images"], family, "calibration", path)
    if "tasks" in arrays:
        check_owners(arrays, "calibration", path)
    return batch_of(arrays["images"], owners_of(arrays["tasks"]) if "tasks" in arrays else None)


def check_owners(arrays: Mapping[str, np.ndarray], argument: str, path: Path) -> None:
    """Raises BadFile unless there is a task's name for each image."""
    if arrays["tasks"].shape != (len(arrays["images"]),):
        problem = f"has tasks of shape {arrays['tasks'].shape}"
        raise BadFile(argument, path, problem, "give one task name an image")


def check_size(images: np.ndarray, family: ViTConfig, argument: str, path: Path) -> None:
    """Raises BadFile unless the images are of the family's size."""
    check_pixels(images, family.image_size, argument, path)


def draw_batch(pool: Path, tasks: Sequence[str], samples: int, seed: int) -> CalibrationBatch:
    """Draws images evenly over these tasks from the pool's `images` and `tasks`.

    Tasks take turns, each in an order of its own, so that a smaller draw of the same seed is
    the beginning of a larger one.

    Raises:
        BadValue: more samples than the pool holds for these tasks, or fewer than one.
    """
    arrays = read_npz(pool, "calibration pool", ("images", "tasks"))
    check_images(arrays["images"], "calibration pool", pool)
    check_owners(arrays, "calibration pool", pool)
    FIELDS["samples"].check(samples)
    owners, turns = owners_of(arrays["tasks"]), []
    names = sorted(map(normal, tasks))
    if missing := [name for name in names if name not in owners]:
        held = listed(sorted(set(owners))) or "none"
        problem = f"is stale: it holds no image of {listed(missing)}, only of {held}"
        remedy = "merge without them, or move it away and make it anew: mloss pool FAMILY"
        raise BadFile("calibration pool", pool, problem, remedy)
    for name in names:
        own = np.flatnonzero(owners == name)
        order = np.random.default_rng([seed, *name.encode()]).permutation(own)
        turns += [(turn, name, index) for turn, index in enumerate(order)]
    if samples > len(turns):
        problem = f"is more than the {len(turns)} images of the calibration pool for these sources"
        raise BadValue("samples", samples, problem, "lower it, or give images of your own")
    chosen = [index for _, _, index in sorted(turns)[:samples]]
    return batch_of(arrays["images"][chosen], owners[chosen])


def owners_of(tasks: np.ndarray) -> np.ndarray:
    """The task's name of each image, in the form that names are compared in."""
    return np.array([normal(str(name)) for name in tasks], dtype=str)


def pool_size(pool: Path, tasks: Sequence[str]) -> int:
    """How many calibration images a pool holds of these tasks; raises BadFile."""
    if pool.is_dir():  # pictures in a folder belong to no task
        return len(picture_files(pool))
    owners = owners_of(read_npz(pool, "calibration pool", ("tasks",))["tasks"])
    return int(np.isin(owners, list(map(normal, tasks))).sum())


def draw_pictures(
    pool: Path, samples: int, seed: int, size: int, skipped: Sequence[str] = ()
) -> CalibrationBatch:
    """Draws pictures from a folder regardless of task; a smaller draw begins a larger one.

    Raises:
        BadValue: more samples than there are pictures.
        BadFile: no pictures, or one that cannot be decoded.
    """
    paths = picture_files(pool, skipped)
    if samples > len(paths):
        problem = f"is more than the {len(paths)} pictures in {pool}"
        raise BadValue("samples", samples, problem, "lower it, or add pictures")
    order = np.random.default_rng(seed).permutation(len(paths))[:samples]
    return batch_of(decoded([paths[i] for i in order], size))


def preprocess(
    images: UInt8[np.ndarray, "n h w 3"], family: ViTConfig, device: torch.device
) -> Float[Tensor, "n 3 h w"]:
    """Images preprocessed as the family expects: to 0..1, minus mean, over std, channels first."""
    pixels = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(family.mean, device=device)[:, None, None]
    std = torch.tensor(family.std, device=device)[:, None, None]
    return (pixels - mean) / std
