"""The Lab page: it trains, merges what it trains, keeps it, and refuses what cannot be."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from visitor import button, go, settled, sound, visit, words

from mloss_core import InputError, load
from mloss_core.training.along import MergedAt, collapse
from mloss_core.training.events import Begun
from mloss_core.training.finetune import finetune
from mloss_core.training.lesson import of_task
from mloss_core.training.settings import Finetune
from views.jobs.lab import on_disk
from views.lab import figures, pad, parts, pictures
from views.state import session

SHORT = Finetune(steps=6, batch=8, checkpoints=3, rate=0.001)
QUICK = "lab_steps=6&lab_batch=8&lab_checkpoints=3&lab_rate=0.001"
OWN = f"{QUICK}&lab_task=own pictures"


def launched(test, label):
    button(test, label).click()
    return settled(sound(test.run()), 120)


def last(kind):
    return session.board().finished(kind)[-1]


def buttons(test):
    return [b.label for b in test.button]


def merged(job):
    return [event for event in job.events if isinstance(event, MergedAt)]


def test_it_trains_and_merges_while_it_trains(visit, family):
    test = settled(visit("lab", QUICK))
    assert "of training on this server, besides the merges" in words(test)
    test = launched(test, "Train")
    job = last("finetune")
    assert job.result.step == 6 and list(on_disk(job.spec)) == [2, 4, 6]
    assert [point.step for point in merged(job)] == [2, 4, 6] and job.share == 1
    kinds = [type(event).__name__ for event in job.events]
    assert kinds.index("MergedAt") == kinds.index("Written") + 1 < kinds.index("Tuned")
    assert "On held-out pictures" in words(test) and "erging collapse" in words(test)
    assert "Merge the checkpoints" not in buttons(test), "they are merged with these"


def test_without_merges_on_the_way_they_are_merged_when_all_are_there(visit, family):
    test = launched(visit("lab", f"{QUICK}&lab_during=off"), "Train")
    job = last("finetune")
    assert merged(job) == [] and "erging collapse" not in words(test)
    test = launched(test, "Merge the checkpoints")
    assert [point.step for point in merged(last("along"))] == [2, 4, 6]
    assert "erging collapse" in words(test)


def test_merged_with_others_than_on_the_way(visit, family):
    test = launched(visit("lab", QUICK), "Train")
    of_job = last("finetune").spec.others
    another = next(name for name in family.sources if name not in of_job)
    pills = next(g for g in test.button_group if g.label == "Merge it with")
    pills.set_value([another])
    test = launched(sound(test.run()), "Merge the checkpoints")
    assert last("along").spec[1] == (another,) != of_job
    assert f"With {family.title(another)}:" in words(test)


def test_the_page_trains_what_the_library_trains(visit, family, tmp_path):
    launched(visit("lab", QUICK), "Train")
    job = last("finetune")
    lesson = of_task(family, job.spec.lesson.name)
    list(finetune(SHORT, family, lesson, tmp_path / "alone", device=session.device().type))
    for step, path in on_disk(job.spec).items():
        alone = tmp_path / "alone" / path.name
        assert alone.read_bytes() == path.read_bytes(), step


def test_what_was_trained_is_found_on_disk(visit, family):
    launched(visit("lab", QUICK), "Train")
    first = last("finetune")
    test = launched(visit("lab", QUICK), "Go on, or show it again")
    again = last("finetune")
    assert again.spec.folder == first.spec.folder and again.result.step == first.result.step
    assert "of training on this server" not in words(test), "it is done"


def test_the_result_is_kept_as_a_source_and_downloaded(visit, own_family):
    test = launched(visit("lab", QUICK), "Train")
    assert [element.label for element in test.get("download_button")] == ["Download the checkpoint"]
    test.text_input[1].set_value("fresh")
    button(test, "Keep").click()
    test = sound(test.run())
    assert "fresh is a source of mine now" in words(test)
    mine = load("mine")
    assert "fresh" in mine.sources and set(last("finetune").spec.others) <= set(mine.sources)
    button(test, "Keep").click()
    assert "fresh" in words(test.run()) and len(test.error) == 1, "the name is taken"


@pytest.mark.parametrize(
    "link, said",
    [
        ("lab_rate=0", "Learning rate: 0"),
        ("lab_steps=0", "Steps: 0"),
        ("lab_batch=many", "Batch size: many"),
        ("lab_optimizer=luck", "Optimizer: luck"),
        ("lab_blocks=77", "Blocks trained"),
        ("lab_task=juggling", "What is learnt: juggling is not known"),
        ("lab_others=nobody", "nobody is no source"),
        ("lab_from=air", "Pictures: air"),
        ("lab_folder=../x", "Folder or .zip: ../x cannot be used"),
    ],
)
def test_links_that_cannot_be_are_told(visit, link, said):
    assert said in words(visit("lab", link))


def test_a_warm_up_of_all_steps_is_told_and_nothing_can_be_trained(visit):
    test = visit("lab", "lab_steps=5&lab_warm_up=5")
    assert "Warm-up: 5 leaves nothing of 5 steps" in words(test)
    assert "Train" not in buttons(test)


def test_advice_of_the_measured_experts_stands_before_the_button(visit, monkeypatch):
    assert "moved norms" not in words(visit("lab", QUICK)), "nothing was measured"
    monkeypatch.setattr(parts, "advice", lambda family: f"On {family.name} steps moved norms.")
    parts._advice.clear()
    assert "On tiny steps moved norms." in words(visit("lab", QUICK))


def test_a_rate_that_ends_in_no_number_is_told_with_its_step(visit):
    test = launched(visit("lab", f"{QUICK}&lab_rate=1000000&lab_optimizer=sgd"), "Train")
    job = list(session.board()._jobs.values())[-1]
    assert job.state == "failed" and "no number at step" in job.error
    assert job.error in words(test)


def test_a_merge_that_fails_on_the_way_ends_no_training(visit, own_family):
    (own_family / "calibration.npz").unlink()
    test = launched(visit("lab", QUICK), "Train")
    job = last("finetune")
    assert job.result.step == 6 and merged(job) == []
    assert "The merges on the way have ended, the training has not" in words(test)
    assert "calibration pool" in words(test)


def test_cancelled_it_goes_on_from_its_last_checkpoint(visit, family):
    test = visit("lab", f"{QUICK}&lab_steps=2000&lab_checkpoints=400&lab_during=off")
    button(test, "Train").click()
    test = sound(test.run())
    job = next(j for j in session.board()._jobs.values() if j.kind == "finetune")
    while not on_disk(job.spec):
        job.wait(0.05)
    assert next(b for b in test.run().button if b.label == "Train").disabled, "it is on its way"
    job.cancel()
    job.wait(30)
    there = max(on_disk(job.spec))
    assert job.state == "cancelled" and there < 2000
    test = sound(test.run())
    assert "Cancelled" in words(test)
    button(test, "Go on, or show it again").click()
    sound(test.run())
    again = list(session.board()._jobs.values())[-1]
    while not any(isinstance(event, Begun) for event in again.events):
        again.wait(0.05)
    assert next(e for e in again.events if isinstance(e, Begun)).resumed == there


def test_a_job_that_is_gone_is_told(visit):
    assert "is gone" in words(visit("lab", "lab_job=gone"))


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(file, "png")
    return file.getvalue()


def drawn(classes: int, each: int) -> list[list[str]]:
    """As the pad sends drawings."""
    return [
        [
            f"data:image/png;base64,{base64.b64encode(picture(60 * k + i)).decode()}"
            for i in range(each)
        ]
        for k in range(classes)
    ]


def draws(test, what) -> None:
    """The pad sends drawings."""
    (element,) = test.get("bidi_component")
    states = test._tree.get_widget_states()
    states.widgets.add(id=element.proto.id, json_value=json.dumps({"drawn": what}))
    return sound(test._run(states))


def test_drawings_are_learnt_and_stay_when_another_page_was_visited(visit, family):
    test = visit("lab", OWN)
    assert "To go: class 1, class 2" in words(test) and "Train" not in buttons(test)
    assert "To go: class 2" in words(draws(test, [drawn(1, 10)[0], []]))
    test = draws(test, drawn(2, 10))
    assert "2 classes (class 1, class 2), 16 pictures to train on, 4 held out" in words(test)
    assert "class means" in words(test)
    test = launched(test, "Train")
    lesson = last("finetune").spec.lesson
    assert not lesson.of_family and lesson.title == "pictures"
    test = go(go(test, "theory"), "lab")
    (element,) = test.get("bidi_component")
    assert json.loads(element.proto.json)["drawn"] == drawn(2, 10)
    assert "16 pictures to train on" in words(test)


def test_in_a_fresh_visit_the_pictures_of_the_training_are_still_there(visit, family):
    test = launched(draws(visit("lab", OWN), drawn(2, 8)), "Train")
    job = list(session.board()._jobs.values())[-1]
    again = sound(test.switch_page("../../pages/lab.py").run())
    del again.session_state["lab-lesson"], again.session_state[pad.DRAWN]
    again = sound(again.run())
    assert "pictures of before are still here" in words(again) and job.kind == "finetune"


@pytest.mark.parametrize(
    "sent",
    ["x", [["javascript:alert(1)"], [3]], [["data:image/png;base64,AAA"]], [None, {}], {"a": 1}],
)
def test_what_the_pad_never_sends_is_left_out(visit, sent):
    test = draws(visit("lab", OWN), sent)
    assert "To go: class 1, class 2" in words(test)


def test_two_classes_of_one_name_are_refused(visit):
    test = visit("lab", OWN)
    for number, name in enumerate(("cat ", "cat")):
        next(t for t in test.text_input if t.label == f"Class {number + 1}").set_value(name)
    test = sound(test.run())
    assert "is the name of two classes" in words(test)
    assert "Learning rate" in [n.label for n in test.number_input], "the rest of the page stays"


FILES = {f"{c}/{i}.png": picture(60 * k + i) for k, c in enumerate("ab") for i in range(10)}


def packed(files) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_pictures_class_by_class_or_as_a_zip_are_the_same_lesson(family):
    whole = pictures.of_files(family, {"mine.zip": packed(FILES)}, False)
    single = pictures.of_files(family, FILES, False)
    assert whole.classes == single.classes == ("a", "b")
    assert np.array_equal(whole.labels, single.labels)
    assert np.array_equal(np.asarray(whole.images[:]), np.asarray(single.images[:]))


def test_what_lies_beside_the_families_is_learnt(visit, own_family):
    folder = own_family.parent / "cats and dogs"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    test = visit("lab", f"{OWN}&lab_from=folder")
    assert "2 classes (a, b), 16 pictures to train on" in words(test)
    names = [s.options for s in test.selectbox if s.label == "Folder or .zip"]
    assert names == [["cats and dogs"]], "families are none"


def test_damaged_pictures_are_named_as_the_visitor_does(family):
    files = FILES | {"b/3.png": b"no picture"}
    with pytest.raises(InputError, match=r"b/3\.png") as raised:
        pictures.of_files(family, files, False)
    assert "/tmp" not in str(raised.value)
    assert len(pictures.of_files(family, files, True).skipped) == 1


@pytest.mark.parametrize(
    "files",
    [{"../../out.png": b"x"}, {"a/1.png": b"x"}, {}],
    ids=["leads out", "one class", "none"],
)
def test_archives_that_cannot_be_are_refused(family, files):
    with pytest.raises(InputError) as raised:
        pictures.of_files(family, {"mine.zip": packed(files)}, False)
    assert "mine.zip" in str(raised.value) and "/tmp" not in str(raised.value)


def test_the_collapse_is_marked_where_it_is_there():
    hits = {"good": np.ones(400, bool), "bad": np.arange(400) % 2 == 0}
    points = [
        MergedAt(
            step=step, mloss=np.full((3, 4), step * 1e-4), own=hits["good"],
            merged={"task": hits[how]}, seconds=1.0,
        )
        for step, how in ((10, "good"), (20, "bad"))
    ]  # fmt: skip
    there, level = collapse(points), collapse(points[:1])
    assert there.there and not level.there
    (line,) = figures.merging(points, there).layout.shapes
    assert line.x0 == line.x1 == 10
    assert len(figures.merging(points, level).layout.shapes) == 0
    heat = figures.conflict(points).data[0]
    assert np.asarray(heat.z).shape == (4, 2) and list(heat.x) == ["10", "20"]
