"""GGUF files of small random models, written with the gguf package, and the numbers in them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}  # of a block: scales
DEVIATION = 0.06  # of the numbers in matrices
LAYERS, VOCAB, HIDDEN, INNER, EXPERTS, HEADS, HEAD = 2, 24, 256, 256, 2, 2, 32
TOKENS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<0x0A>", "<0xC3>", "<0xBC>", "▁", "a", "b",
    "ab", "▁ab", "c", "d", "cd", "▁a", "e", "f", "g", "h", "i",
]  # fmt: skip
KINDS = [3, 3, 3, 3, 3, 3, 3, 6, 6, 6, *[1] * 14]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|turn>{{ m['content'] }}<turn|>{% endfor %}"


def metadata() -> dict[str, Any]:
    """The keys of the published files, with values of a small model; arrays stay Python lists."""
    own = {
        "block_count": LAYERS, "context_length": 512, "embedding_length": HIDDEN, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": [2, 1], "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4, "attention.layer_norm_rms_epsilon": 1e-6, "expert_count": EXPERTS,
        "expert_used_count": 1, "attention.key_length": 2 * HEAD, "attention.value_length": 2 * HEAD,
        "final_logit_softcapping": 30.0, "attention.sliding_window": 8, "attention.key_length_swa": HEAD,
        "attention.sliding_window_pattern": [True, False], "expert_feed_forward_length": INNER,
        "attention.causal": False,
    }  # fmt: skip
    return {
        **{f"diffusion-gemma.{key}": value for key, value in own.items()},
        "diffusion.canvas_length": 8, "diffusion.eb_max_steps": 5, "diffusion.eb_t_min": 0.4,
        "diffusion.eb_entropy_bound": 0.1,
        "tokenizer.ggml.model": "gemma4", "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.merges": ["a b", "▁ ab", "c d", "▁ a"], "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, rows last."""
    made: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "rope_freqs.weight": (HEAD,),
        "self_cond_pre_norm.weight": (HIDDEN,), "self_cond_gate.weight": (INNER, HIDDEN),
        "self_cond_up.weight": (INNER, HIDDEN), "self_cond_down.weight": (HIDDEN, INNER),
    }  # fmt: skip
    for number in range(LAYERS):
        size, heads = (HEAD, 2) if number == 0 else (2 * HEAD, 1)
        layer: dict[str, tuple[int, ...]] = {
            "attn_q.weight": (HEADS * size, HIDDEN), "attn_k.weight": (heads * size, HIDDEN),
            "attn_output.weight": (HIDDEN, HEADS * size), "attn_q_norm.weight": (size,), "attn_k_norm.weight": (size,),
            "ffn_gate.weight": (INNER, HIDDEN), "ffn_up.weight": (INNER, HIDDEN), "ffn_down.weight": (HIDDEN, INNER),
            "ffn_gate_inp.weight": (EXPERTS, HIDDEN), "ffn_gate_inp.scale": (HIDDEN,),
            "ffn_gate_up_exps.weight": (EXPERTS, 2 * INNER, HIDDEN), "ffn_down_exps.weight": (EXPERTS, HIDDEN, INNER),
            "ffn_down_exps.scale": (EXPERTS,), "layer_output_scale.weight": (1,),
            "enc_layer_output_scale.weight": (1,),
        }  # fmt: skip
        layer |= {"attn_v.weight": (heads * size, HIDDEN)} if number == 0 else {}
        for norm in (
            "attn_norm", "post_attention_norm", "ffn_norm", "pre_ffw_norm_2", "post_ffw_norm", "post_ffw_norm_1",
            "post_ffw_norm_2",
        ):  # fmt: skip
            layer[f"{norm}.weight"] = (HIDDEN,)
        made |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    return made


def blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Random blocks of a type, uint8 [..., bytes of a row], of numbers that keep a network calm."""
    entries, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    made = rng.integers(0, 256, (*shape[:-1], shape[-1] // entries, nbytes), dtype=np.uint8)
    spread = 1.0
    for _ in range(2):  # with scales of about 1, and then with those that give the deviation wanted
        for place in HALVES[kind]:
            scale = (rng.uniform(0.5, 1, made.shape[:-1]) * spread).astype(np.float16)
            made[..., place : place + 2] = scale[..., None].view(np.uint8)
        rows = made.reshape(*shape[:-1], -1)
        spread = DEVIATION / float(gguf.dequantize(rows, gguf.GGMLQuantizationType[kind]).std())
    return rows


def random_tensors(kind: str, seed: int = 0) -> dict[str, tuple[str, np.ndarray]]:
    """Type and bits of every tensor: matrices in this type where their rows allow it, all else in F32."""
    return dict(_drawn(kind, seed))


@functools.cache
def _drawn(kind: str, seed: int) -> dict[str, tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made: dict[str, tuple[str, np.ndarray]] = {}
    for name, shape in shapes().items():
        numbers = (rng.normal(size=shape) * (DEVIATION if len(shape) > 1 else 0.1) + (len(shape) == 1)).astype(
            np.float32
        )
        if name == "rope_freqs.weight":
            numbers = np.where(np.arange(HEAD) < HEAD // 4, 1, 1e30).astype(np.float32)
        if len(shape) == 1 or kind == "F32" or "ffn_gate_inp" in name:
            made[name] = "F32", numbers
        elif kind == "F16":
            made[name] = "F16", numbers.astype(np.float16)
        elif kind == "BF16":
            made[name] = "BF16", gguf.quantize(numbers, gguf.GGMLQuantizationType.BF16)
        else:
            entries, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
            own = kind if shape[-1] % entries == 0 else "Q8_0"
            made[name] = own, blocks(rng, shape, own)
    return made


def numbers_of(tensors: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The numbers of each tensor, float32, as the gguf package unpacks them."""
    return {
        name: gguf.dequantize(bits, gguf.GGMLQuantizationType[kind]).astype(np.float32)
        for name, (kind, bits) in tensors.items()
    }


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[str, np.ndarray]],
    keys: Mapping[str, Any] | None = None,
    architecture: str = "diffusion-gemma",
) -> Path:
    """A GGUF file with these tensors and keys."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata() if keys is None else keys).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (kind, bits) in tensors.items():
        plain = kind in ("F32", "F16")
        writer.add_tensor(name, bits, raw_dtype=None if plain else gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
