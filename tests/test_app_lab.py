"""The Lab page: it trains, merges what it trained on the way, and refuses what cannot be."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from visitor import button, settled, sound, visit, words

from mloss_core import InputError, load
from views.jobs.lab import on_disk
from views.lab import parts
from views.state import session

QUICK = "lab_steps=6&lab_batch=8&lab_checkpoints=3&lab_rate=0.001"


def launched(test, label):
    button(test, label).click()
    return settled(sound(test.run()), 120)


def last(kind):
    return session.board().finished(kind)[-1]


def test_it_trains_and_merges_what_it_trained(visit, family):
    test = visit("lab", QUICK)
    test = launched(test, "Train")
    job = last("finetune")
    assert job.result.step == 6 and list(on_disk(job.spec)) == [2, 4, 6]
    assert "On held-out pictures" in words(test)
    test = launched(test, "Merge the checkpoints")
    points = last("along").events[1:]
    assert [point.step for point in points] == [2, 4, 6]
    assert "erging collapse" in words(test)


def test_the_same_again_is_found_on_disk_and_gives_the_same_weights(visit, family):
    launched(visit("lab", QUICK), "Train")
    first = last("finetune").result.weights
    launched(visit("lab", QUICK), "Go on, or show it again")
    again = last("finetune").result.weights
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[n].numpy(), again[n].numpy()) for n in first)


@pytest.mark.parametrize(
    "link, said",
    [
        ("lab_rate=0", "Learning rate: 0"),
        ("lab_steps=0", "Steps: 0"),
        ("lab_batch=many", "Batch size: many"),
        ("lab_optimizer=luck", "Optimizer: luck"),
        ("lab_blocks=77", "Blocks trained"),
    ],
)
def test_links_that_cannot_be_are_told(visit, link, said):
    assert said in words(visit("lab", link))


def test_a_warm_up_of_all_steps_is_told_and_nothing_can_be_trained(visit):
    test = visit("lab", "lab_steps=5&lab_warm_up=5")
    assert "leaves nothing of 5 steps" in words(test)
    assert not [b for b in test.button if b.label == "Train"]


def test_a_job_that_is_gone_is_told(visit):
    assert "is gone" in words(visit("lab", "lab_job=gone"))


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(file, "png")
    return file.getvalue()


def test_pictures_class_by_class_or_as_a_zip_are_the_same_lesson(family):
    names = {f"{c}/{i}.png": picture(60 * k + i) for k, c in enumerate("ab") for i in range(10)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    tiny = load("tiny")
    whole = parts._of_files(tiny, {"mine.zip": archive.getvalue()}, False)
    single = parts._of_files(tiny, names, False)
    assert whole.classes == single.classes == ("a", "b")
    assert np.array_equal(whole.labels, single.labels)
    assert np.array_equal(np.asarray(whole.images[:]), np.asarray(single.images[:]))


def test_a_damaged_picture_is_named(family):
    names = {f"{c}/{i}.png": picture(60 * k + i) for k, c in enumerate("ab") for i in range(10)}
    names["b/3.png"] = b"no picture"
    with pytest.raises(InputError, match=r"3\.png"):
        parts._of_files(load("tiny"), names, False)
    assert len(parts._of_files(load("tiny"), names, True).skipped) == 1
