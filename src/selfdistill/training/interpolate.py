"""Between the seed LM and a tuned model: W + s dW (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

from selfdistill.core.adapters import CONFIG, WEIGHTS, is_adapter, plain_lora
from selfdistill.core.errors import UserError
from selfdistill.models.folder import adapter_digest
from selfdistill.models.seed_lm import SeedLM, load_model

RECORD = "strength.json"
"""In the folder of scaled weights: what they were made from. It is written last."""


def scaled(folder: Path, strength: float, out: Path, seed_lm: SeedLM) -> Path:
    """Write the weights W + s dW of an adapter or a fully tuned model in `folder` into `out`; what is there already is
    left as it is.

    Of an adapter, the factors B [outputs, r] become s B, in fp32 (whatever alpha, and for rsLoRA too, since dW is
    proportional to B). Of a whole model, each weight becomes (1 - s) seed + s tuned, computed in fp64 and rounded to
    the data type that the tuned model was saved in, which is that of the seed LM in the run. Raises UserError for a
    negative strength, for adapters that are more than B A (DoRA, trained biases or embeddings), and for an `out` that
    was made from other weights: what was measured beside it is of those.
    """
    if not strength >= 0 or math.isinf(strength):
        raise UserError(f"strength {strength}: expected a number from 0 up; 0 is the seed LM, 1 the trained arm.")
    made_from = {"strength": strength, "tuned": adapter_digest(str(folder)), "seed": seed_lm.digest}
    record = out / RECORD
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == made_from:
        return out
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        raise UserError(f"{out}: was made from other weights than the arm's of today. Remove {out.parent}.")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    partial.mkdir(parents=True)
    if is_adapter(folder):
        _scale_adapter(folder, strength, partial)
    else:
        _interpolate(folder, strength, partial, seed_lm)
    (partial / RECORD).write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)
    return out


def check_scalable(folder: Path) -> None:
    """Raises UserError for an adapter whose weight change is more than the product of two factors."""
    if is_adapter(folder):
        plain_lora(folder, "Its weight change cannot be scaled: no strength of it is W + s dW.")


def _scale_adapter(folder: Path, strength: float, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    check_scalable(folder)
    weights = load_file(folder / WEIGHTS)
    for name, weight in weights.items():
        if ".lora_B." in name:
            weights[name] = weight.float() * strength
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    shutil.copy(folder / CONFIG, out)


def _interpolate(folder: Path, strength: float, out: Path, seed_lm: SeedLM) -> None:
    """Both models are read by transformers, since files may name or tie the same weights in different ways."""
    import torch

    seed_lm.unload()  # an engine may have left it on the device
    on_cpu = replace(seed_lm, device="cpu")
    tuned = replace(load_model(str(folder), seed_lm.dtype), device="cpu")
    before = dict(on_cpu.model.named_parameters())
    with torch.no_grad():
        for name, weight in tuned.model.named_parameters():  # tied weights once
            weight.copy_(torch.lerp(before[name].double(), weight.double(), strength))  # exact at 0 and 1
    tuned.model.save_pretrained(out)
    tuned.tokenizer.save_pretrained(out)
