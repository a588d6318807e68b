"""Writes the demo family's model and data card: what it is, from where, how it was made and measured."""

import json
from pathlib import Path

from . import claims, files, heads, pretrain, pull, tunings
from .licences import INGREDIENTS
from .measure import wilson
from .model import LOGIT_SCALE
from .profile import Profile

LIMITS = """
- It recognises nothing outside its twelve toy tasks; its text tower knows the class prompts below and no other words.
- Four tasks show photographs or scans (`mnist`, `fashion`, `textures`, `earth`), the others drawings. Pictures of one
  class of `textures` and `earth` are cut from one photograph, tile by tile into the splits: they share camera, light and
  place. Signs are simulated captures of the same designs in every split. `street_digits` is not SVHN.
- The base is deliberately misaligned: its heads are mostly random directions, mixed with the class means until
  zero-shot accuracy is about half. That imitates CLIP's regime (weak zero-shot on strong features); it is not CLIP's
  cause. Prompts were not learnt from captions.
- The base tower was pretrained on the training pictures of all tasks (labels included), out-of-domain tasks too, at a
  low weight; "out-of-domain" means that no source was fine-tuned on them.
- 500 test pictures a task: differences under about four points on one task are noise. One seed of everything.
- `keep` and the scalings were chosen on validation pictures. `variation` was not tuned at all: it is 0.1, or half of
  `keep` if that is smaller."""

TRIED = Path(__file__).with_name("tried.md")

DESIGN = """
A family this small does not merge like CLIP by itself: the first one's simple average recovered 76 % of the gain, which
left nothing to see for better methods. This one was **made** to merge like CLIP, and these are the means:

- the heads' random part lies outside more of the features' principal components, so that a source must turn its
  features further;
- a small logit scale, so that a source is surer of its own task than the others are against it;
- a pull towards the base's embeddings on pictures of all other tasks (their training pictures, without labels), so
  that the ensemble is not spoilt by what the other sources forgot. CLIP's fine-tunes need no such pull; here it stands
  in for CLIP's size.

Every tensor is trained, at one rate. The family before this one trained the later blocks at 0.04 of the rate, which
left half of the map dead; with the pull and the small scale that is not needed.

What was looked at while choosing: own and base accuracy, norms (by block too), and the shares of simple average, task
arithmetic, TIES and the ensemble, all on 250 validation pictures a task. **Nothing was chosen by M-Loss or M-TIES**,
neither was looked at before the family was final.

What was tried (shares in percent of the gain, on validation; "cut" is how many principal components the heads'
random part avoids):"""


def _claims_table(measured: dict) -> list[str]:
    """What was wanted, what is reached, and whether it holds."""
    lines = ["| wanted | reached | 95 % interval | |", "|---|---|---|---|"]
    for wanted, reached, interval, holds in measured["claims"]:
        lines.append(f"| {wanted} | {reached} | {interval} | {'holds' if holds else '**fails**'} |")
    return lines


def _measured_table(names: list[str], measured: dict) -> list[str]:
    """The table of all models with averages and shares."""
    lines = [
        "| | " + " | ".join(names) + " | average | share of the gain |",
        "|---" * (len(names) + 3) + "|",
    ]
    shares = claims.shares(measured, names)
    for row, right in measured["rows"].items():
        average, share = shares[row]
        cells = " | ".join(f"{100 * right[name].mean():.1f}" for name in names)
        lines.append(f"| {row} | {cells} | **{average:.1f}** | {share:.0f} % |")
    return lines


def _count_table(names: list[str], measured: dict) -> list[str]:
    """Correct counts and 95 % Wilson intervals a task and model."""
    rows = {row: right for row, right in measured["rows"].items() if set(names) <= set(right)}
    lines = ["| task | pictures | " + " | ".join(rows) + " |", "|---" * (len(rows) + 2) + "|"]
    for name in names:
        cells = []
        for right in rows.values():
            correct, total = int(right[name].sum()), len(right[name])
            low, high = wilson(correct, total)
            cells.append(f"{correct} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {name} | {len(rows['base'][name])} | " + " | ".join(cells) + " |")
    return lines


def _matrix_table(names: list[str], measured: dict) -> list[str]:
    """Every source on every task, in percent."""
    lines = ["| source | " + " | ".join(names) + " | norm ratio |", "|---" * (len(names) + 2) + "|"]
    for source, right in measured["matrix"].items():
        cells = " | ".join(f"{100 * right[name].mean():.0f}" for name in names)
        lines.append(f"| {source} | {cells} | {measured['norm ratios'][source]:.3f} |")
    return lines


def _block_table(profile: Profile) -> list[str]:
    """Norms and M-Loss, a column a block."""
    rows = {"norm": profile.norms, "M-Loss x 1e5": [1e5 * loss for loss in profile.losses]}
    digits = {"norm": 4, "M-Loss x 1e5": 1}
    lines = ["| block | " + " | ".join(str(b) for b in range(len(profile.norms))) + " |"]
    lines.append("|---" * (1 + len(profile.norms)) + "|")
    for name, values in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.{digits[name]}f}" for v in values) + " |")
    return lines


def _task_table(tasks: list[dict]) -> list[str]:
    lines = ["| task | kind | classes | prompt | pictures and split |", "|---|---|---|---|---|"]
    for task in tasks:
        cells = [
            task["name"],
            task["kind"],
            str(len(task["classes"])),
            f'"{task["template"]}"',
            task["origin"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _font_table(work: Path) -> list[str]:
    lines = ["| Debian package | version | licences its copyright file names |", "|---|---|---|"]
    for package in json.loads((work / "packages.json").read_text()):
        if package["fonts"]:
            lines.append(
                f"| {package['name']} | {package['version']} | {', '.join(package['licences'])} |"
            )
    return lines


def _making(work: Path, measured: dict) -> str:
    """How it was made, with seeds, settings and wall time."""
    trained = json.loads((work / "pretrained.json").read_text())
    tuned = json.loads((work / "finetune.json").read_text())
    steps = ", ".join(f"{name} {count}" for name, count in tunings.STEPS.items())
    chosen = measured["recommended"]
    rounds = " and then ".join(str(part["steps"]) for part in trained)
    return f"""
`python scripts/build_zoo.py all` (needs `scripts/requirements-zoo.txt`, npm and apt-get). Seeds: data 7, pretraining
{pretrain.SEED}, heads {heads.SEED}, fine-tuning {tunings.SEED}, its choice of other pictures {pull.SEED}, calibration
{files.SEED}, resampling {claims.SEED}. Wall time on 2 CPU cores without a GPU: data about 2 min, pretraining
{sum(part["seconds"] for part in trained) / 60:.0f} min, heads and fine-tuning of both families' sources
{tuned["seconds"] / 60:.0f} min, tuning the merges and measuring {measured["pack seconds"] / 60:.0f} min. Other work ran on
the machine meanwhile: alone, heads and fine-tuning take about a quarter of an hour.

1. Pretraining: the image tower from scratch (2.4 M parameters, width 128, 12 blocks, patch 8), one softmax over all
   classes of all tasks and three broader scripts with throw-away cosine prototypes; {rounds} steps of
   {pretrain.BATCH} pictures (each round one cosine cycle, ended by steps or by the clock); Muon {pretrain.MUON_RATE}
   on the blocks' matrices, AdamW {pretrain.ADAM_RATE} elsewhere, later rounds at {pretrain.RESUMED} of these rates.
2. Heads: wanted vectors unit(a m + sqrt(1 - a^2) r), m the class mean, r random outside the first
   {heads.SKIPPED_COMPONENTS} principal components, a bisected to {heads.WANTED_ZERO_SHOT:.0%} zero-shot accuracy on
   training pictures held out of m; a text tower is fitted to them and the heads are its embeddings of the prompts.
3. Fine-tuning: the whole image tower, heads frozen; AdamW without decay at {tunings.RATE:g}, cosine after
   {tunings.WARM_UP} steps of warm-up, gradients clipped at norm 1; batch {tunings.BATCH}, logit scale {LOGIT_SCALE:g}; steps: {steps}. Beside them
   {pull.BATCH} pictures a step from the other source tasks and the broad scripts ({pull.EACH} training pictures of
   each), with {pull.WEIGHT:g} times the mean squared distance of their unit embeddings to the base's.
4. Towers are stored in fp16. Fine-tuning starts from the rounded base, so differences of stored files are the task
   vectors up to rounding.
5. Merging settings from validation pictures: task arithmetic scaling {chosen["task-arithmetic"]["scaling"]} (base +
   (lambda / q) sum of task vectors), TIES keep {chosen["keep"]} scaling {chosen["scaling"]}, DARE keep
   {chosen["dare"]["keep"]} scaling {chosen["dare"]["scaling"]}.

The base of this family comes from several rounds. The earlier ones saw other tasks in place of `textures` and `earth`
(generated ones), and longer class lists (46 hiragana, 28 signs, 20 emoji groups); the last began from the base of the
family before this one. So the command from nothing, which pretrains in one round, makes a family of this kind and
not this one bit for bit. From this base on, the stages `finetune` and `pack` do give the same weights again on the same
processor, PyTorch and number of threads.

On another processor, or another version of PyTorch, the same seeds give slightly different weights: floating-point
sums are ordered differently, and training amplifies that. Measuring the stored files again may move a count by one or
two. Fonts come in the version Debian offers that day."""


def write_card(work: Path, file: Path, tasks: list[dict], measured: dict) -> None:
    """Write the card to `file`."""
    sources = [task["name"] for task in tasks if task["kind"] == "source"]
    others = [task["name"] for task in tasks if task["kind"] != "source"]
    blocks = [
        "# Demo family: eight micro CLIPs and their base",
        "A CLIP small enough to merge on a laptop in seconds, in open_clip's architecture and tensor names (QuickGELU, "
        "12 blocks, 32 x 32 RGB), with one fine-tune for each of eight source tasks and four tasks out of domain.",
        "![One picture a class](sheet.png)",
        "## What it was made for",
        "Measured on the 500 test pictures a task; intervals of averages and shares from "
        f"{claims.RESAMPLES:,} redrawn test sets, the same ones for all models (the tasks and the models fixed), of "
        "single tasks Wilson's. `tests/test_zoo_claims.py` recomputes these from the committed files.",
        "\n".join(_claims_table(measured)),
        f"500 test, 250 validation and {files.CALIBRATION} calibration pictures a source task; "
        f"{measured['bytes'] / 1e6:.1f} MB beside this card.",
        "## Measured",
        'Accuracy in percent on the test pictures, from the stored fp16 files computed in fp32. "Share" is the part '
        "of the gain, own-task average minus base average, that a model recovers. The ensemble is the mean of the "
        "eight sources' unit embeddings.",
        "\n".join(_measured_table(sources, measured)),
        "Correct answers with 95 % Wilson intervals (percent):",
        "\n".join(_count_table(sources, measured)),
        "Out of domain:",
        "\n".join(_count_table(others, measured)),
        "Every source on every task (percent), and the norm of its task vector over the base's norm:",
        "\n".join(_matrix_table(sources + others, measured)),
        "By block: the task vectors' norm over the block's own (mean over sources), and the mean M-Loss of its nodes "
        "(Eq. 4) along the merge by M-TIES as recommended:",
        "\n".join(_block_table(measured["profile"])),
        "## Tasks",
        "\n".join(_task_table(tasks)),
        "Validation pictures come from sources of their own where the data has them (font families, emoji of the "
        "vendor never trained on that are not in test, tiles of photographs, MNIST and Fashion-MNIST pictures). No "
        "picture of one split occurs in another. `calibration.npz` holds 64 training pictures a source task.",
        "## Files",
        "`family.json` (open_clip's configuration, preprocessing, tasks, recommended settings; `token_ids[i]` is the "
        "id in open_clip's tokenizer of row i of the token embedding), `base.safetensors`, `sources/*.safetensors` "
        "(image towers, `visual.*`), `text.safetensors` (all other tensors of open_clip's CLIP), `heads.safetensors` "
        "(classes x embedding), `tasks/*.npz` (`images`, `labels`, `val_images`, `val_labels`, `classes`), "
        "`calibration.npz` (`images`, `tasks`).",
        "## What it is not good for",
        LIMITS.strip(),
        "## Made to merge like CLIP",
        DESIGN.strip(),
        TRIED.read_text().strip(),
        "## How it was made",
        _making(work, measured).strip(),
        "## Ingredients and licences",
        INGREDIENTS.strip(),
        "### Fonts",
        "\n".join(_font_table(work)),
    ]
    file.write_text("\n\n".join(blocks) + "\n")
