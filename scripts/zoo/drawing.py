"""Shared drawing: random placement, colours, smooth noise, backgrounds, camera faults. Arrays are floats 0-255."""

import numpy as np
from PIL import Image, ImageFilter

SIDE = 32
Rng = np.random.Generator


def uniform(rng: Rng, count: int, low: float, high: float) -> np.ndarray:
    """One number a picture, shaped to broadcast over height and width."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def colours(rng: Rng, count: int, low: float = 0, high: float = 255) -> np.ndarray:
    """One random colour a picture."""
    return rng.uniform(low, high, (count, 1, 1, 3)).astype(np.float32)


def contrasting(rng: Rng, background: np.ndarray, least: float) -> np.ndarray:
    """Random colours that differ from the mean of each background by at least `least` levels."""
    mean = background.mean((1, 2), keepdims=True)
    ink = colours(rng, len(background))
    faint = np.abs(ink - mean).mean(-1, keepdims=True) < least
    strong = np.where(mean.mean(-1, keepdims=True) > 128, 0.25 * ink, 255 - 0.25 * (255 - ink))
    return np.where(faint, strong, ink)


def smooth_noise(rng: Rng, count: int, roughness: float, side: int) -> np.ndarray:
    """Noise with a power-law spectrum, unit variance a picture; larger `roughness` means larger blotches."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    amplitude = np.maximum(frequency, 1 / side) ** (-roughness / 2)
    shape = (count, side, side // 2 + 1)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * amplitude
    spectrum[:, 0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(side, side)).astype(np.float32)
    return noise / noise.std((1, 2), keepdims=True)


def scenery(rng: Rng, count: int) -> np.ndarray:
    """Out-of-focus backgrounds: a colour, blotches, a slope of light and sometimes an edge."""
    picture = (
        colours(rng, count, 30, 225)
        + smooth_noise(rng, count, 2.5, SIDE)[..., None] * uniform(rng, count, 4, 25)[..., None]
    )
    line = np.linspace(-1, 1, SIDE)
    slope = line[None, None, :] * uniform(rng, count, -35, 35) + line[None, :, None] * uniform(
        rng, count, -35, 35
    )
    edge = np.arange(SIDE)[None, None, :] > uniform(rng, count, -30, 62)
    return picture + slope[..., None] + edge[..., None] * colours(rng, count, -45, 45)


def place(
    cutouts: np.ndarray,
    rng: Rng,
    size: tuple[float, float],
    turn: float,
    shift: float,
    stretch: float = 1.0,
) -> np.ndarray:
    """Lay square cut-outs (uint8, grey or RGBA) on a 32 x 32 field with a random affine map.

    `size` is the range of the cut-out's side as a share of the field, `turn` degrees, `shift` pixels.
    """
    side = cutouts.shape[1]
    placed = []
    for cutout in cutouts:
        scale = rng.uniform(*size) * SIDE / side
        wide, high = scale * stretch ** rng.uniform(-1, 1), scale
        angle, shear = np.deg2rad(rng.uniform(-turn, turn)), rng.uniform(-0.12, 0.12) * (turn > 0)
        cos, sin = np.cos(angle), np.sin(angle)
        inverse = np.linalg.inv(
            np.array([[cos, -sin], [sin, cos]]) @ np.array([[wide, shear * high], [0, high]])
        )
        middle = SIDE / 2 + rng.uniform(-shift, shift, 2)
        offset = side / 2 - inverse @ middle
        coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
        image = Image.fromarray(cutout).transform(
            (SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        placed.append(np.asarray(image))
    return np.stack(placed)


def paste(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Blend placed RGBA cut-outs over backgrounds."""
    alpha = rgba[..., 3:] / np.float32(255)
    return rgba[..., :3] * alpha + background * (1 - alpha)


def pixels(picture: np.ndarray) -> np.ndarray:
    """Clip to bytes."""
    return np.clip(picture, 0, 255).astype(np.uint8)


def camera(
    picture: np.ndarray, rng: Rng, noise: tuple[float, float], blur: tuple[float, float]
) -> np.ndarray:
    """Add sensor noise to every picture and blur half of them; returns bytes."""
    count = len(picture)
    noisy = picture + rng.normal(0, 1, picture.shape) * uniform(rng, count, *noise)[..., None]
    result = pixels(noisy)
    for index in np.flatnonzero(rng.random(count) < 0.5):
        blurred = Image.fromarray(result[index]).filter(
            ImageFilter.GaussianBlur(rng.uniform(*blur))
        )
        result[index] = np.asarray(blurred)
    return result


def balanced(labels: np.ndarray, count: int, rng: Rng) -> np.ndarray:
    """Pick `count` indices so that every label comes equally often, in random order."""
    classes = np.unique(labels)
    shares = [
        count // len(classes) + (index < count % len(classes)) for index in range(len(classes))
    ]
    picks = []
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        picks.append(rng.choice(members, share, replace=share > len(members)))
    return rng.permutation(np.concatenate(picks))
