"""config.json and generation_config.json from the metadata of a GGUF file.

Knows nothing of tensors but the few numbers that are handed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_diffusion.checkpoint.config_json import FULL, SLIDING
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

ARCHITECTURE = "diffusion-gemma"
STOPS = ("<turn|>", "<|tool_response>")  # tokens that end an answer, beside the end of text
STEPS = {
    "diffusion.eb_max_steps": "max_denoising_steps", "diffusion.eb_t_min": "t_min", "diffusion.eb_t_max": "t_max",
    "diffusion.eb_stability_threshold": "stability_threshold",
    "diffusion.eb_confidence_threshold": "confidence_threshold",
}  # fmt: skip
BOUND = "diffusion.eb_entropy_bound"
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "head_dim": "attention.key_length_swa",
    "global_head_dim": "attention.key_length",
    "num_experts": "expert_count",
    "top_k_experts": "expert_used_count",
    "sliding_window": "attention.sliding_window",
    "max_position_embeddings": "context_length",
}


class GgufFacts:
    """The metadata of a file, asked for by key."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.metadata, self.where = metadata, where
        found = metadata.get("general.architecture")
        if found != ARCHITECTURE:
            raise CheckpointError(
                f"{where} is of the architecture {found!r}; of GGUF files, {ARCHITECTURE!r} is converted"
            )

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value that must be there and of this kind. Raises CheckpointError."""
        value = self.metadata.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            problem = "is missing" if value is None else f"is {str(value)[:40]}, not of the kind it must be"
            raise CheckpointError(f"{self.where}: {key} {problem} in its metadata; take another GGUF of the model")
        return value

    def own(self, key: str, kind: type | tuple[type, ...] = int) -> Any:
        return self.get(f"{ARCHITECTURE}.{key}", kind)

    def number(self, key: str) -> float:
        """A finite float32, by the shortest decimals that name it: 0.4, not 0.4000000059604645."""
        value: float = self.get(key, (int, float))
        if not math.isfinite(value):
            raise CheckpointError(f"{self.where}: {key} is {value} in its metadata; take another GGUF of the model")
        return value if isinstance(value, int) else float(str(np.float32(value)))

    def texts(self, key: str) -> list[str]:
        """A list of texts, empty where there is none. Raises CheckpointError for a list of others."""
        found: list[str] = self.get(key, list) if key in self.metadata else []
        if not all(isinstance(text, str) for text in found):
            raise CheckpointError(f"{self.where}: {key} is no list of texts in its metadata; download it again")
        return found


def config_json(facts: GgufFacts, vocab_size: int, rotated: float) -> dict[str, Any]:
    """The file's config.json; `rotated` is the share of a head that turns in full layers. Raises CheckpointError."""
    sliding = facts.own("attention.sliding_window_pattern", list)
    heads = facts.own("attention.head_count_kv", (list, int))
    layers = facts.own("block_count")
    if len(sliding) != layers:  # before anything of that length is made: a file may name any number
        raise CheckpointError(
            f"{facts.where}: it has {count_of(layers, 'block')}, and says of {len(sliding)} whether they slide"
        )
    heads = heads if isinstance(heads, list) else [heads] * layers
    if len(heads) != layers:
        raise CheckpointError(
            f"{facts.where}: it has {count_of(layers, 'block')}, and KV heads for {len(heads)} of them"
        )
    kv_heads = {
        kind: {count for slides, count in zip(sliding, heads, strict=True) if slides == kind} for kind in (0, 1)
    }
    if any(len(counts) > 1 for counts in kv_heads.values()):
        raise CheckpointError(f"{facts.where}: layers of one type have different numbers of KV heads: {heads}")
    full = next(iter(kv_heads[0]), heads[-1])
    text = {
        "model_type": "diffusion_gemma_text",
        "vocab_size": vocab_size,
        **{name: _one(facts, key) for name, key in SIZES.items()},
        "num_key_value_heads": next(iter(kv_heads[1]), full),
        "num_global_key_value_heads": full,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": facts.number(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"),
        "pad_token_id": facts.metadata.get("tokenizer.ggml.padding_token_id", 0),
        "eos_token_id": facts.metadata.get("tokenizer.ggml.eos_token_id"),
        "bos_token_id": facts.metadata.get("tokenizer.ggml.bos_token_id"),
        "attention_bias": False,
        "layer_types": [SLIDING if slides else FULL for slides in sliding],
        "final_logit_softcapping": facts.number(f"{ARCHITECTURE}.final_logit_softcapping"),
        "use_bidirectional_attention": "vision",
        "tie_word_embeddings": True,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": facts.number(f"{ARCHITECTURE}.rope.freq_base_swa")},
            FULL: {
                "rope_type": "proportional",
                "partial_rotary_factor": rotated,
                "rope_theta": facts.number(f"{ARCHITECTURE}.rope.freq_base"),
            },
        },
    }
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "model_type": "diffusion_gemma",
        "dtype": "bfloat16",
        "canvas_length": facts.get("diffusion.canvas_length", int),
        "tie_word_embeddings": True,
        "text_config": text,
    }


def generation_config_json(facts: GgufFacts, tokens: Sequence[str]) -> dict[str, Any]:
    """The file's generation_config.json: what it says of denoising, and the tokens that end an answer."""
    made: dict[str, Any] = {name: facts.number(key) for key, name in STEPS.items() if key in facts.metadata}
    if BOUND in facts.metadata:
        made["sampler_config"] = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": facts.number(BOUND)}
    named = {key: facts.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    places = {token: number for number, token in enumerate(tokens) if token in STOPS}
    ends = [number for number in (*named.values(), *map(places.get, STOPS)) if isinstance(number, int)]
    made |= {"eos_token_id": list(dict.fromkeys(ends))} if ends else {}
    others = {"bos_token_id": "bos", "pad_token_id": "padding"}
    ids = {name: facts.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in others.items()}
    return made | {name: number for name, number in ids.items() if number is not None}


def _one(facts: GgufFacts, key: str) -> int:
    """A size that is the same in all layers, whether it is given once or for each."""
    value = facts.own(key, (int, list))
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1 or not all(isinstance(size, int) for size in values):
        raise CheckpointError(
            f"{facts.where}: {ARCHITECTURE}.{key} is not one number for all layers: {str(value)[:50]}"
        )
    return int(values.pop())
