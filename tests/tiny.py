"""Tiny random models of many architectures: a table of what differs from `SMALL`, and folders of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

WORDS = 256
"""Tokens that a tiny causal model knows: the first of the embedded model's."""

# What a configuration takes by any of its names.
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 32, "d_model": 32, "n_embd": 32, "word_embed_proj_dim": 32, "embed_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "ffn_hidden_size": 48, "block_ff_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "attention_head_dim": 8, "global_head_dim": 16, "attention_hidden_size": 32,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "context_length": 128, "n_ctx": 128,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "top_k_experts": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "shared_intermediate_size": 24,
    "expert_ffn_hidden_size": 24, "intermediate_size_mlp": 48, "first_k_dense_replace": 1, "mlp_layer_types": None,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_head_dim": 16, "o_lora_rank": 16, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 64,
    "sliding_window": 8, "attention_chunk_size": 16, "local_window_size": 8, "window_size": 8,
    "attention_window_size": 8, "max_window_layers": 1,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_head_dim": 8,
    "mamba_num_heads": 8, "mamba_d_ssm": 64, "mamba_ngroups": 1, "mamba_n_groups": 1, "n_groups": 1,
    "n_mamba_heads": 2, "chunk_size": 8, "mamba_chunk_size": 8, "ssm_state_size": 8, "mamba_dt_rank": 4,
    "time_step_rank": 4, "use_mamba_kernels": False, "lru_width": 32,
    "vocab_size_per_layer_input": WORDS, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    "num_kv_shared_layers": 0, "num_nextn_predict_layers": 0,
    "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
    "rotary_dim": 8, "adapter_rank": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

HYBRID = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
WINDOWS = ["sliding_attention", "full_attention"]
GONE: Any = ...
"""A value of `SMALL` that this configuration works out for itself."""

TABLE: dict[str, dict[str, Any]] = {
    "apertus": {}, "arcee": {}, "bamba": {"attn_layer_indices": [1]},
    "bloom": {}, "cohere": {}, "cohere2": {},
    "deepseek_v2": {"num_key_value_heads": 4}, "deepseek_v3": {"num_key_value_heads": 4},
    "deepseek_v4": {"num_hidden_layers": 4, "layer_types": ["heavily_compressed_attention",
                    "compressed_sparse_attention"] * 2, "compress_rates": {"compressed_sparse_attention": 4,
                    "heavily_compressed_attention": 8}},
    "dots1": {"n_shared_experts": 1}, "ernie4_5": {}, "exaone4": {},
    "falcon": {}, "falcon_h1": {}, "falcon_mamba": {},
    "gemma": {}, "gemma2": {}, "gemma3_text": {"layer_types": WINDOWS},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": WINDOWS * 2},
    "gemma4_text": {"num_hidden_layers": 4, "layer_types": WINDOWS * 2},
    "glm": {}, "glm4": {}, "glm4_moe": {}, "gpt2": {},
    "gpt_neo": {"num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {}, "gpt_oss": {"intermediate_size": 64}, "gptj": {}, "granite": {}, "granitemoe": {},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_v1_dense": {}, "jamba": {"num_hidden_layers": 4},
    "kimi_linear": {"num_hidden_layers": 4, "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
                    "num_experts_per_tok": 2, "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama": {}, "llama4_text": {"num_hidden_layers": 4},
    "mamba": {}, "mamba2": {"num_heads": 8, "head_dim": 8},
    "minimax": {"layer_types": ["full_attention", "linear_attention"]},
    "ministral": {}, "mistral": {}, "mixtral": {}, "mpt": {}, "nemotron": {},
    "nemotron_h": {}, "olmo2": {}, "olmo3": {"layer_types": WINDOWS}, "olmoe": {},
    "opt": {}, "phi": {}, "phi3": {}, "phimoe": {},
    "qwen2": {}, "qwen2_moe": {}, "qwen3": {}, "qwen3_moe": {},
    "qwen3_5_text": {"num_hidden_layers": 4}, "qwen3_next": {"num_hidden_layers": 4},
    "recurrent_gemma": {"num_hidden_layers": 3}, "rwkv": {}, "seed_oss": {}, "smollm3": {"num_hidden_layers": 4},
    "stablelm": {}, "starcoder2": {},
    "xlstm": {"hidden_size": 128, "num_heads": 2, "chunk_size": 16},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": HYBRID, "num_key_value_heads": 4,
               "attention_hidden_size": GONE, "attention_head_dim": GONE, "head_dim": GONE},
}  # fmt: skip


_TEXT = {
    "vocab_size": 1040, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 4,
    "pad_token_id": 0,
}  # fmt: skip
_TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_TOWER = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
}  # fmt: skip
_IMAGES = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
_M_ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
_LINEAR = {k: SMALL[k] for k in SMALL if k.startswith("linear_")}


def _seeing(text: dict[str, Any], tower: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text_config": _TEXT | text, "vision_config": tower, "tie_word_embeddings": False, **more}


SEEING: dict[str, dict[str, Any]] = {
    "mistral3": _seeing({"model_type": "mistral"}, _TOWER | {"model_type": "pixtral", "head_dim": 16},
                        image_token_index=10),
    "qwen2_5_vl": _seeing({"model_type": "qwen2_5_vl_text", **_M_ROPE}, _QWEN_TOWER | {"fullatt_block_indexes": [0]},
                          **_IMAGES),
    "qwen3_vl": _seeing({"model_type": "qwen3_vl_text", **_M_ROPE}, _QWEN_TOWER | {"num_position_embeddings": 16,
                        "deepstack_visual_indexes": [0]}, **_IMAGES),
    "qwen3_5": _seeing({"model_type": "qwen3_5_text", "num_hidden_layers": 4, **_LINEAR}, _QWEN_TOWER |
                       {"num_position_embeddings": 16}, **_IMAGES),
    "smolvlm": _seeing({"model_type": "llama"}, _TOWER, image_token_id=10, scale_factor=2),
    "idefics3": _seeing({"model_type": "llama"}, _TOWER, image_token_id=10, scale_factor=2),
    "gemma3": _seeing({"model_type": "gemma3_text", "sliding_window": 8}, _TOWER | {"model_type":
                      "siglip_vision_model"}, image_token_index=10, mm_tokens_per_image=4, boi_token_index=11,
                      eoi_token_index=12),
    "gemma4": _seeing({"model_type": "gemma4_text", "layer_types": WINDOWS, "sliding_window": 8, "global_head_dim": 16,
                       "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 1040},
                      {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "num_key_value_heads": 2, "head_dim": 16}, image_token_id=10, audio_token_id=11,
                      video_token_id=12),
    "llama4": _seeing({"model_type": "llama4_text", "num_local_experts": 4, "intermediate_size_mlp": 48,
                       "attention_chunk_size": 16}, _TOWER | {"vision_output_dim": 32, "projector_input_dim": 32,
                      "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5}, image_token_index=10,
                      boi_token_index=11, eoi_token_index=12),
    "llava": _seeing({"model_type": "llama"}, _TOWER | {"model_type": "clip_vision_model", "projection_dim": 16},
                     image_token_index=10),
    "internvl": _seeing({"model_type": "qwen2"}, _TOWER | {"model_type": "internvl_vision", "image_size": [28, 28],
                        "patch_size": [14, 14]}, image_token_id=10),
}  # fmt: skip


def scrambled(model: Any) -> Any:
    """Weights large enough for texts that depend on every token."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.is_floating_point():
                torch.nn.init.normal_(weight, std=0.25 if weight.shape[-1] <= 64 else 0.15)
    return model.eval()


def tiny(name: str) -> Any:
    """A random causal model of this type, in fp32."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    known = set(kind().to_dict())
    values = {k: v for k, v in SMALL.items() if k in known} | TABLE[name]
    torch.manual_seed(0)
    return scrambled(AutoModelForCausalLM.from_config(kind(**{k: v for k, v in values.items() if v is not GONE})))


def seeing_folder(name: str, out: Path) -> Path:
    """A folder of a random model that also takes images, as the hub has them."""
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = CONFIG_MAPPING[name](**SEEING[name])
    config.architectures = [MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[name]]
    torch.manual_seed(0)
    scrambled(AutoModelForImageTextToText.from_config(config)).save_pretrained(out)
    (out / "preprocessor_config.json").write_text('{"size": 28}')
    return with_tokenizer(out)


def with_tokenizer(out: Path) -> Path:
    """The embedded model's tokenizer beside other weights."""
    from selfdistill.models import resolve

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(resolve("embedded")) / name, out)
    return out
