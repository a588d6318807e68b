"""Sources that are no fine-tunes of their base: each gets a clear word, by file and by remedy."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

from mloss_core import InputError, load
from mloss_core.__main__ import main
from mloss_core.families.layouts import layout
from tiny import CONFIG, open_clip_model

MERGE = ("merge", "--family=tiny", "--method=ties", "--out")


def architecture(**changes) -> dict[str, torch.Tensor]:
    """An image tower of another architecture, in fp16."""
    config = CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | changes}
    tower = open_clip_model(config).visual.state_dict()
    return {f"visual.{k}": v.half().contiguous() for k, v in tower.items()}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"layers": 2}, "lacks visual.transformer.resblocks.2."),
        ({"layers": 4}, "has more tensors than its family: visual.transformer.resblocks.3."),
        ({"patch_size": 4}, "has shape (17, 32), its family (5, 32)"),
        ({"width": 48}, "has shape (48,), its family (32,)"),
    ],
)
def test_another_architecture_is_named_with_its_file_and_at_most_ten_tensors(
    changes, said, cli, own_family, out, refused
):
    save_file(architecture(**changes), own_family / "sources" / "bridges.safetensors")
    outcome = cli(*MERGE, out)
    remedy = "use checkpoints fine-tuned from the same base"
    refused(outcome, "source bridges bridges.safetensors", said, remedy)
    assert outcome.err.count("visual.") <= 10


@pytest.mark.parametrize(
    "dtype, word", [(torch.int8, "I8"), (torch.int16, "I16"), (torch.bool, "BOOL")]
)
@pytest.mark.parametrize("place", ["base.safetensors", "sources/bridges.safetensors"])
def test_odd_dtypes_are_named(dtype, word, place, cli, own_family, out, refused):
    tensors = load_file(own_family / place)
    save_file({k: v.to(dtype) for k, v in tensors.items()}, own_family / place)
    refused(cli(*MERGE, out), place.rpartition("/")[2], f"dtype {word}", "use F16, BF16, F32")


@pytest.mark.parametrize("wide", ["base.safetensors", "sources/bridges.safetensors"])
def test_half_precision_beside_fp32_is_told_the_command_that_mends_it(
    wide, cli, own_family, out, refused
):
    path = own_family / wide
    save_file({k: v.float() for k, v in load_file(path).items()}, path)
    outcome = cli(*MERGE, out)
    refused(outcome, "has dtype", "F16", "F32", "python -m mloss_core convert", "--dtype fp32")
    while outcome.status:  # as a user would follow it, file by file
        match = re.search(r"convert (\S+) NEW\.safetensors (--dtype fp32)", outcome.err)
        assert match is not None
        new = own_family / "NEW.safetensors"
        assert main(["convert", match[1], str(new), *shlex.split(match[2])]) == 0
        new.replace(match[1])
        outcome = cli(*MERGE, out)
    assert out.is_file()


def test_a_lora_adapter_of_another_base_is_named_with_its_tensor(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = tmp_path / "found"
    for name in ("clip", "clip_apples", "clip_bridges"):
        (folder / name).mkdir(parents=True)
        save_file(architecture(), folder / name / "model.safetensors")
    adapter = folder / "clip_clouds"
    adapter.mkdir()
    save_file({"base.lora_A.weight": torch.ones(2)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "family.toml").write_text('num_attention_heads = 2\nactivation = "gelu"\n')
    assert layout(folder).sources.keys() == {"apples", "bridges", "clouds"}
    said = r"source clouds .*clip_clouds: holds base\.lora_A\.weight, which is of no layer of its"
    with pytest.raises(InputError, match=said):
        load("found").source("clouds")
    load("found").source("apples")
