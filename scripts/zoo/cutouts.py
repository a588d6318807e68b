"""Reads vector and bitmap pictures as square RGBA cut-outs."""

import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

CUTOUT = 48


def _squared(image: Image.Image) -> np.ndarray:
    image = image.convert("RGBA")
    image.thumbnail((CUTOUT, CUTOUT), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (CUTOUT, CUTOUT))
    square.paste(image, ((CUTOUT - image.width) // 2, (CUTOUT - image.height) // 2))
    return np.asarray(square)


def _cutout(source: str | Path) -> np.ndarray | None:
    """One cut-out from SVG text, an SVG file or a bitmap file; None if it is empty or unreadable."""
    try:
        if isinstance(source, Path) and source.suffix != ".svg":
            pixels = _squared(Image.open(source))
        else:
            text = source.read_text() if isinstance(source, Path) else source
            png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=2 * CUTOUT))
            pixels = _squared(Image.open(io.BytesIO(png)))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return pixels if pixels[..., 3].max() > 0 else None


def read_cutouts(sources: list[str] | list[Path]) -> list[np.ndarray | None]:
    """All cut-outs, in the order asked for."""
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(_cutout, sources, chunksize=32))
