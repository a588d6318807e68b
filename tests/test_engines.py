"""Engines: one process, a pool and Ray measure the same bytes, and lose nothing when they die."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch

from mloss_core import InputError, errors, list_runs
from mloss_core.experiments import CellDone, Lab, experts, perform, plans, start_recipe
from mloss_core.experiments.experts import Grid
from mloss_core.experiments.steps import Step
from mloss_core.families import family as zoo
from mloss_core.hardware.device import choose
from mloss_core.runs import engines
from mloss_core.runs.engines import Pool, Share

ROOT = Path(__file__).resolve().parents[1]
GRID = Grid(rate=(1e-3, 1e-2), steps=(2,), batch=(4,), tasks=("apples",))
TWO = Share(workers=2, threads=1)  # as many threads each as this process has in tests


@pytest.fixture
def start(family):
    return start_recipe(family, samples=6)


@pytest.fixture
def few(monkeypatch):
    """A grid of k and e that ends soon."""
    monkeypatch.setattr(plans, "GRID_KEEP", (0.1, 0.5))
    monkeypatch.setattr(plans, "GRID_VARIATION", (0.0, 0.1))


@pytest.fixture
def cell(family, start, few):
    """The first of that grid."""
    return plans.keep_and_variation(family, start)[0].cells[0]


def measured(family, start, engine=None) -> list[CellDone]:
    """The cells of a grid of k and e, then of one of experts."""
    grid = experts.experts(family, start, GRID)
    options = {"device": "cpu", "engine": engine}
    events = [*perform("keep-and-variation", family, start, **options)]
    events += perform("experts", family, start, plan=grid, **options)
    return [event for event in events if isinstance(event, CellDone)]


def contents(folder: Path) -> dict[str, bytes]:
    """What was measured, and the experts' weights: all files but times and processes."""
    kept = (p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors"))
    return {str(path.relative_to(folder)): arrays(path) for path in sorted(kept)}


def arrays(path: Path) -> bytes:
    if path.suffix == ".safetensors":
        return path.read_bytes()
    with np.load(path) as file:  # a zip holds the time at which it was written
        return b"".join(name.encode() + file[name].tobytes() for name in file.files)


@pytest.fixture(scope="session")
def alone(models, tmp_path_factory) -> dict[str, bytes]:
    """What one process measures."""
    folder = tmp_path_factory.mktemp("alone") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        patch.setenv("MLOSS_RUNS", str(folder))
        patch.setattr(plans, "GRID_KEEP", (0.1, 0.5))
        patch.setattr(plans, "GRID_VARIATION", (0.0, 0.1))
        tiny = zoo.load("tiny")
        measured(tiny, start_recipe(tiny, samples=6))
    return contents(folder)


# Workers of this machine.


def test_a_pool_measures_what_one_process_does(family, start, few, alone, runs):
    with closing(Pool(TWO)) as pool:
        cells = measured(family, start, pool)
    assert contents(runs) == alone
    assert [c.done for c in cells] == [*range(1, 7), *range(1, 9)]  # in the plan's order
    ours = [c for c in cells if not c.cached]
    assert len(ours) == len(list_runs(kinds=("cell",))) == 13 and all(c.seconds > 0 for c in ours)
    assert {run.state for run in list_runs(kinds=("cell",))} == {"finished"}
    # Nothing is left to do, and so no worker starts.
    with closing(Pool(TWO)) as pool:
        assert all(c.cached for c in measured(family, start, pool))
        assert not pool._processes


def test_a_workers_death_costs_nothing_but_time(family, start, few, alone, runs):
    before = workers()
    with closing(Pool(TWO)) as pool:
        events, killed = perform("keep-and-variation", family, start, device="cpu", engine=pool), 0
        for event in events:
            if isinstance(event, CellDone) and not killed:
                victims = workers() - before
                for victim in victims:
                    with suppress(psutil.NoSuchProcess):
                        victim.kill()
                killed = len(victims)
        assert killed >= 2
        measured(family, start, pool)
    assert contents(runs) == alone
    assert workers() == before


def workers() -> set[psutil.Process]:
    """The processes of this one that measure."""
    return {p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())}


def dies(lab: Lab, cells) -> list[float]:
    """What no worker survives."""
    os._exit(9)


def test_what_kills_every_worker_is_named(family, cell):
    lab = Lab(family, choose("cpu"))
    with closing(Pool(TWO)) as pool:
        elsewhere = engines.Elsewhere(pool, lab, [cell], dies, lab.cached_run)
        with pytest.raises(errors.WorkerLost, match="died 3 times measuring k"):
            elsewhere.outcome(cell)


def test_bad_input_is_the_same_error_as_in_one_process(own_family, few):
    family = zoo.load("tiny")
    start = start_recipe(family, samples=6)
    for name in family.sources:
        family.source(name)
    (own_family / "heads.safetensors").write_bytes(b"no head")
    said = []
    for engine in (None, Pool(TWO)):
        events = perform("keep-and-variation", family, start, device="cpu", engine=engine)
        with pytest.raises(InputError) as caught:
            list(events)
        said.append((type(caught.value), str(caught.value)))
        if engine:
            engine.close()
    assert said[0] == said[1]


def writes_its_card(lab: Lab, cells) -> list[float]:
    """Leaves which card the worker sees, in a file of that name."""
    card = os.environ["CUDA_VISIBLE_DEVICES"]
    Path(os.environ["MLOSS_RUNS"]).mkdir(exist_ok=True)
    (Path(os.environ["MLOSS_RUNS"]) / f"card-{card}").touch()
    time.sleep(0.5)  # so that one worker does not take both
    return [0.1]


def test_each_worker_sees_a_card_of_its_own(family, start, few, runs):
    lab = Lab(family, choose("cpu"))
    (one, two, *_), *_ = (step.cells for step in plans.keep_and_variation(family, start))
    with closing(Pool(Share(workers=2, threads=1, cards=("3", "GPU-7f")))) as pool:
        batches = engines.batches(lab, [one, two], writes_its_card)
        assert len(list(engines._ahead(pool, batches))) == 2
    assert {path.name for path in runs.iterdir()} == {"card-3", "card-GPU-7f"}


def test_a_machine_is_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cpu, cuda, mps = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))
    assert Share.of(cpu) == Share(workers=4, threads=4)
    assert Share.of(cpu, 16) == Share(workers=16, threads=1)
    assert Share.of(cpu, 40) == Share(workers=40, threads=1)
    assert Share.of(cuda) == Share(workers=3, threads=5, cards=("0", "1", "2"))
    assert Share.of(mps).workers == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert Share.of(cuda) == Share(workers=2, threads=8, cards=("2", "5"))
    assert Share.of(cuda, 4).workers == 4


def test_a_worker_is_given_what_shares_sources_with_its_last(family, start):
    lab = Lab(family, choose("cpu"))
    step, *_ = plans.keep_and_variation(family, start)
    pairs = [("apples", "bridges"), ("bridges", "clouds"), ("apples", "clouds")]

    def cell(sources):
        recipe = dataclasses.replace(step.cells[0].recipe, sources=sources)
        return dataclasses.replace(step.cells[0], recipe=recipe)

    todo = engines.batches(lab, [cell(p) for p in pairs], dies)
    assert engines.nearest(todo, None) is todo[0]
    (last,) = engines.batches(lab, [cell(("clouds", "apples"))], dies)
    assert engines.nearest(todo, last) is todo[2]
    whole = engines.batches(lab, list(experts.experts(family, start, GRID)[0].cells), dies)
    assert [len(batch.cells) for batch in whole] == [1, 1, 3, 3]  # an expert's stay together


@pytest.mark.parametrize("engine", [Pool(TWO)])
def test_a_cell_that_two_tables_name_is_measured_once(engine, family, start, few, runs):
    step, *_ = plans.keep_and_variation(family, start)
    cell = step.cells[0]
    plan = (Step(cells=(cell, dataclasses.replace(cell, label="the same again"))),)
    with closing(engine):
        events = list(perform("controls", family, start, device="cpu", plan=plan, engine=engine))
    assert [e.cached for e in events if isinstance(e, CellDone)] == [False, True]
    assert len(list_runs(kinds=("cell",))) == 1


def test_a_worker_does_not_run_the_main_script_again(cell, family, runs, tmp_path, monkeypatch):
    """Such as the page that Streamlit drew last."""
    page = ModuleType("__main__")
    page.__file__ = str(tmp_path / "page.py")
    Path(page.__file__).write_text("raise SystemExit('a page is no script')")
    monkeypatch.setitem(sys.modules, "__main__", page)
    lab = Lab(family, choose("cpu"))
    with closing(Pool(TWO)) as pool:
        assert len(list(engines._ahead(pool, engines.batches(lab, [cell], nothing)))) == 1
    assert sys.modules["__main__"] is page


def test_a_folder_that_workers_do_not_share_is_named(family, cell, tmp_path, monkeypatch):
    lab = Lab(family, choose("cpu"))
    with closing(Pool(TWO)) as pool:
        elsewhere = engines.Elsewhere(pool, lab, [cell], nothing, lab.cached_run)
        with pytest.raises(errors.BadFile, match="lacks what a worker measured; give all workers"):
            elsewhere.outcome(cell)


def nothing(lab: Lab, cells) -> list[float]:
    """Writes to a folder that only the worker sees, as it were."""
    return [0.1 for _ in cells]


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownName("sources", "cats", ("dogs",)),
        errors.BadTensor("source cats", "visual.proj", "has NaN", "train it again"),
        errors.LostLink("base", Path("/nowhere")),
        errors.Incomplete({"mnist": errors.BadFile("task", "mnist", "is torn", "copy it")}, 3),
        errors.OutOfMemory("cuda"),
        errors.WorkerLost("k = 0.1", 3),
    ],
)
def test_errors_travel_as_they_are(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


# The command.

SLOW = """
import sys, time
from mloss_core.__main__ import main
from mloss_core.experiments import plans
from mloss_core.runs.cells import Lab
plans.GRID_KEEP = (0.1, 0.3, 0.5)
plans.GRID_VARIATION = (0.0, 0.1)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
COMMAND = ("experiment", "keep-and-variation", "--family=tiny", "--samples=6", "--device=cpu")


def drive(tmp_path: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the command in a process of its own."""
    script = tmp_path / "drive.py"
    script.write_text(SLOW)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, script, *COMMAND, *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(runs: Path) -> dict[str, int]:
    """The runs that are finished, and when they were."""
    return {p.parent.name: p.stat().st_mtime_ns for p in runs.glob("cell-*/record.json")}


def killed_in_the_middle(driver: subprocess.Popen[str], runs: Path) -> dict[str, int]:
    """Kills a driver after its first cells, and waits for its workers to go."""
    for _ in range(600):
        if len(finished(runs)) >= 2:
            break
        time.sleep(0.1)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "workers outlive the process that they work for"
    return finished(runs)


def test_a_driver_that_was_killed_measures_nothing_twice(models, runs, tmp_path):
    environment = {"MLOSS_MODELS": str(models), "MLOSS_RUNS": str(runs)}
    options = ("--engine=pool", "--workers=2", "--json")
    some = killed_in_the_middle(drive(tmp_path, *options, **environment), runs)
    driver = drive(tmp_path, *options, **environment)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert out.count('"cached": true') == len(some) >= 2
    after = finished(runs)
    assert len(after) == 9 and some.items() <= after.items()
    table = drive(tmp_path, "--engine=process", **environment | {"MLOSS_RUNS": str(runs)})
    assert table.communicate(timeout=300)[0].count("k = 0.") >= 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine=magic"], ("--engine", "magic", "process, pool, ray")),
        (["--workers=0"], ("--workers", "0", "is below 1")),
        (["--engine=process", "--workers=2"], ("--workers", "2", "--engine pool")),
        (["--address=auto"], ("--address", "auto", "--engine ray")),
    ],
)
@pytest.mark.parametrize("command", [COMMAND, ("compatibility", "--family=tiny", "--samples=6")])
def test_bad_options_are_named(cli, refused, family, command, options, words):
    refused(cli(*command, *options), *words)


def test_compatibility_is_the_same_by_a_pool(cli, family, runs, tmp_path):
    command = ("compatibility", "--family=tiny", "--samples=6", "--triples=1", "--device=cpu")
    outcomes = []
    for options in (("--engine=process",), ("--engine=pool", "--workers=2")):
        outcomes.append(cli(*command, *options))
        shutil.rmtree(runs)
    assert outcomes[0].status == 0 and outcomes[0].out == outcomes[1].out


def test_without_ray_the_way_to_it_is_named(cli, refused, family, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(cli(*COMMAND, "--engine=ray"), "--engine", "ray", "pip install 'mloss[ray]'")


# Ray.


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of two nodes on this machine, of one core each."""
    pytest.importorskip("ray", reason="the optional engine, see requirements-dev.txt")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:  # what its workers import
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        yield from _cluster(Cluster)


def _cluster(Cluster):
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    second = cluster.add_node(**{k: v for k, v in small.items() if k != "include_dashboard"})
    yield cluster, second
    cluster.shutdown()


@pytest.mark.ray
def test_two_nodes_of_ray_share_a_grid(nodes, family, start, few, alone, runs):
    from mloss_core.runs.on_ray import Ray

    cluster, _ = nodes
    with closing(Ray(cluster.address, None, 1, 0)) as engine:
        assert engine.workers == 2
        cells = measured(family, start, engine)
    assert contents(runs) == alone and len(cells) == 14
    assert {run.state for run in list_runs(kinds=("cell",))} == {"finished"}


def dies_once(lab: Lab, cells) -> list[float]:
    """Ends its worker the first time."""
    mark = Path(os.environ["MLOSS_RUNS"]) / "died"
    if not mark.exists():
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        os._exit(1)
    from mloss_core.experiments.perform import in_turn

    return in_turn(lab, cells)


@pytest.mark.ray
def test_ray_tries_again_where_a_worker_died(nodes, family, cell, runs):
    from mloss_core.runs.on_ray import Ray

    lab = Lab(family, choose("cpu"))
    with closing(Ray(nodes[0].address, 1, 1, 0)) as engine:
        elsewhere = engines.Elsewhere(engine, lab, [cell], dies_once, lab.cached_run)
        assert elsewhere.outcome(cell)[1] > 0
        assert (runs / "died").exists()
        other = engines.Elsewhere(engine, lab, [_another(cell)], dies, lab.cached_run)
        with pytest.raises(errors.WorkerLost):
            other.outcome(_another(cell))


def _another(cell):
    return dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, scaling=0.5))


@pytest.mark.ray
def test_a_driver_of_ray_that_was_killed_measures_nothing_twice(nodes, models, runs, tmp_path):
    environment = {"MLOSS_MODELS": str(models), "MLOSS_RUNS": str(runs)}
    options = ("--engine=ray", f"--address={nodes[0].address}", "--json")
    some = killed_in_the_middle(drive(tmp_path, *options, **environment), runs)
    time.sleep(1)  # tasks that were running may still end
    some = finished(runs)
    driver = drive(tmp_path, *options, **environment)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert out.count('"cached": true') >= 2
    after = finished(runs)
    assert len(after) == 9 and some.items() <= after.items()


@pytest.mark.ray
def test_an_address_that_nobody_answers_is_named(nodes, family):
    from mloss_core.runs.on_ray import Ray

    with pytest.raises(errors.BadValue, match=r"address 127.*cannot be joined"):
        Ray("127.0.0.1:9", None, 1, 0)
    with pytest.raises(errors.BadValue, match="has no room for one task of 64 cores"):
        Ray(nodes[0].address, None, 64, 0)
