"""Model folders that cannot be used say in one line what they are, before anything heavy is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from selfdistill.core.errors import UserError
from selfdistill.models import resolve
from selfdistill.models.seed_lm import load_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(resolve("embedded"), tmp_path / "m")


def refused(folder):
    with pytest.raises(UserError) as caught:
        _ = load_model(str(folder)).model
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def only(folder, *names):
    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            file.unlink()
    for name in names:
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize("with_weights", [True, False])
def test_an_adapter_names_its_base(tmp_path, with_weights):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x/y"}')
    if with_weights:
        (tmp_path / "adapter_model.safetensors").write_bytes(b"")
        (tmp_path / "config.json").write_text("{}")
    said = refused(tmp_path)
    assert "a PEFT adapter of x/y" in said and f"merge --model x/y --adapter {tmp_path}" in said
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "a PEFT adapter of its base model" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_the_place_of_a_file_is_named(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{name}: a Git LFS pointer, not the file itself. Fetch the file: git lfs pull." in refused(folder)


def test_other_kinds_of_weights_are_named(folder):
    only(folder, "model-q4.gguf")
    assert "GGUF" in refused(folder)
    (folder / "model-q4.gguf").unlink()
    only(folder, "pytorch_model.bin")
    assert "convert them to safetensors" in refused(folder)


def test_weights_that_are_cut_short_or_not_all_there_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors: broken or cut short" in refused(folder)
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    weights.rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of 2 files of weights are missing (model-00002-of-00002.safetensors, ...)" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json is broken" in refused(folder)


def test_a_library_that_is_not_installed_is_one_line(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded: " in refused(folder)
