"""Calibration pictures that are none, do not fit, or come in a damaged or hostile archive."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

MERGE = ("merge", "--family=tiny", "--samples=6", "--out")
IMAGES = np.zeros((4, 16, 16, 3), np.uint8)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape) -> bytes:
    """An .npz whose array claims this shape and holds nothing."""
    head, buffer = io.BytesIO(), io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, about)
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("images.npy", head.getvalue())
    return buffer.getvalue()


def corrupted() -> bytes:
    content = bytearray(npz(images=np.random.default_rng(0).integers(0, 9, IMAGES.shape, np.uint8)))
    content[200:260] = bytes(60)
    return bytes(content)


CALIBRATIONS = {
    "no images": npz(images=IMAGES[:0]),
    "no pixels": npz(images=IMAGES[:, :0]),
    "floats": npz(images=IMAGES.astype(np.float32)),
    "no colours": npz(images=IMAGES[..., 0]),
    "four channels": npz(images=np.zeros((4, 16, 16, 4), np.uint8)),
    "another size": npz(images=np.zeros((4, 8, 8, 3), np.uint8)),
    "another array": npz(pictures=IMAGES),
    "objects": npz(images=np.array([{}, []], object)),
    "truncated": npz(images=IMAGES)[:-30],
    "corrupted": corrupted(),
    "huge claim": claiming((10**14, 16, 16, 3)),
    "claim beyond integers": claiming((2**70, 16, 16, 3)),
    "an npy": npy(IMAGES),
    "text": b"not an archive",
    "empty": b"",
}


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    cli, family, tmp_path, out, refused, monkeypatch
):
    monkeypatch.setattr("mloss_core.data.tasks.LARGE", 1 << 20)
    path = tmp_path / "calibration.npz"
    path.write_bytes(npz(images=np.zeros((4000, 16, 16, 3), np.uint8)))
    refused(cli(*MERGE, out, "--calibration", path), "--calibration", "times its size")


@pytest.mark.parametrize("command", ["merge", "score"])
@pytest.mark.parametrize("content", CALIBRATIONS.values(), ids=CALIBRATIONS.keys())
def test_a_bad_calibration_file_is_refused(content, command, cli, family, tmp_path, out, refused):
    path = tmp_path / "pictures.npz"
    path.write_bytes(content)
    outcome = cli(command, "--family=tiny", "--calibration", path, "--out", out)
    refused(outcome, "--calibration", path.name)


def test_a_missing_calibration_file_is_refused(cli, family, tmp_path, out, refused):
    for path in (tmp_path / "nothing.npz", tmp_path):
        outcome = cli(*MERGE, out, "--calibration", path)
        refused(outcome, "--calibration", path)


POOLS = {
    "no tasks": npz(images=IMAGES),
    "tasks of other images": npz(images=IMAGES, tasks=np.repeat("apples", 9)),
    "no images": npz(images=IMAGES[:0], tasks=np.repeat("apples", 0)),
    "floats": npz(images=IMAGES / 1.0, tasks=np.repeat("apples", 4)),
    "another size": npz(images=IMAGES[:, :8, :8], tasks=np.repeat("apples", 4)),
    "other tasks": npz(images=IMAGES, tasks=np.repeat("dogs", 4)),
    "truncated": npz(images=IMAGES, tasks=np.repeat("apples", 4))[:-30],
    "an npy": npy(IMAGES),
}


@pytest.mark.parametrize("content", POOLS.values(), ids=POOLS.keys())
def test_a_bad_calibration_pool_is_refused(content, cli, own_family, out, refused):
    (own_family / "calibration.npz").write_bytes(content)
    outcome = cli("merge", "--family=tiny", "--samples=2", "--out", out)
    refused(outcome, "calibration")


def test_a_pool_without_a_sources_images_is_refused_by_name(cli, own_family, out, refused):
    pool = npz(images=IMAGES, tasks=np.repeat("apples", 4))
    (own_family / "calibration.npz").write_bytes(pool)
    done = cli("merge", "--family=tiny", "--samples=2", "--out", out)
    refused(done, "is stale: it holds no image of bridges", "mloss pool")
