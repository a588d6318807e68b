"""Every method at the family's recommended settings, on all test images of the source tasks.

    python scripts/compare_methods.py [--family demo]

Prints a Markdown table, accuracies in percent with the average's 95 % interval, and the paired
difference of M-TIES to each rival: the evidence that any sentence about a gain has to rest on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from mloss_core import (
    METHODS,
    Evaluator,
    Family,
    MergeRecipe,
    TaskEvaluated,
    load,
    mean_accuracy,
    run,
    verdict,
)
from mloss_core.device import choose
from mloss_core.store import Hits, final_hits


def main() -> None:
    """Evaluates, then prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="demo")
    family = load(parser.parse_args().family)
    hits, settings = measured(family)
    tasks = [task for task in family.tasks if task in family.sources]
    print(f"| model | {' | '.join(tasks)} | average (95 % interval) |")
    print("|---" * (len(tasks) + 2) + "|")
    for model, found in hits.items():
        mean, low, high = mean_accuracy(found)
        cells = [f"{100 * found[task].mean():.1f}" for task in tasks]
        average = f"{100 * mean:.2f} ({100 * low:.2f} to {100 * high:.2f})"
        print(f"| {model} {settings.get(model, '')} | {' | '.join(cells)} | {average} |")
    print()
    for rival, theirs in hits.items():
        if rival not in ("base", "own", "M-TIES"):
            print(verdict("M-TIES", rival, hits["M-TIES"], theirs) + "\n")


def measured(family: Family) -> tuple[Hits, dict[str, str]]:
    """Per-image outcomes of the base, own sources and every method, and each method's settings."""
    tasks = [task for task in family.tasks if task in family.sources]
    evaluator = Evaluator(family, choose("auto"))
    hits: Hits = {}
    settings = {}
    for name, method in METHODS.items():
        tuned = {k: v for k, v in family.recommended(name).items() if k in method.reads}
        recipe = MergeRecipe(family=family.name, method=name, sources=family.sources, **tuned)
        events = [
            event
            for event in run(recipe, family, evaluator=evaluator, tasks=tasks)
            if isinstance(event, TaskEvaluated)
        ]
        found = final_hits(events)
        hits |= {label: found[label] for label in ("base", "own")}
        hits[method.title] = found["merged"]
        settings[method.title] = ", ".join(f"{k} {v:g}" for k, v in tuned.items())
    return hits, settings


if __name__ == "__main__":
    main()
