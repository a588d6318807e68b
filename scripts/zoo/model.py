"""The micro CLIP: its configuration in open_clip's terms, preprocessing, embeddings and accuracy."""

import numpy as np
import torch
from open_clip.model import CLIP
from torch.nn.functional import normalize

EMBED_DIM = 128
VISION = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 12, "head_width": 32}
CONTEXT = 12
TEXT = {"context_length": CONTEXT, "width": 128, "heads": 4, "layers": 2}
MEAN = [0.5, 0.5, 0.5]
STD = [0.25, 0.25, 0.25]
# Of fine-tuning, and stored with the text tower. A smaller scale asks for a larger distance between right and wrong,
# and a source that is surer of its own task is heard better in the ensemble.
LOGIT_SCALE = 8.0


def make_clip(vocabulary: int = 2) -> CLIP:
    """A freshly initialised CLIP with this build's towers."""
    return CLIP(EMBED_DIM, dict(VISION), {**TEXT, "vocab_size": vocabulary}, quick_gelu=True)


def prepare(images: np.ndarray) -> torch.Tensor:
    """Bytes, N x H x W x 3, to normalised floats, N x 3 x H x W."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def augment(images: np.ndarray, rng: np.random.Generator, reach: int) -> torch.Tensor:
    """Shift each picture by up to `reach` pixels and vary its light, then prepare it."""
    count, side = len(images), images.shape[1]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    down, right = rng.integers(0, 2 * reach + 1, (2, count, 1))
    rows, columns = down + np.arange(side), right + np.arange(side)
    shifted = prepare(
        padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    )
    gain = torch.from_numpy(rng.uniform(0.8, 1.15, (count, 1, 1, 1))).float()
    return shifted * gain + torch.from_numpy(rng.uniform(-0.25, 0.25, (count, 1, 1, 1))).float()


@torch.no_grad()
def embed(tower: torch.nn.Module, images: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Unit image embeddings in fp32; small batches stay in the processor's cache."""
    tower.eval()
    parts = [
        tower(prepare(images[start : start + batch])) for start in range(0, len(images), batch)
    ]
    return normalize(torch.cat(parts), dim=-1)


def hits(embeddings: torch.Tensor, head: torch.Tensor, labels: np.ndarray) -> int:
    """How many pictures a head classifies correctly."""
    return int(((embeddings @ head.T).argmax(1) == torch.from_numpy(labels)).sum())
