"""The names that GGUF files give to the tensors of DiffusionGemma, by the Hub's own names.

Knows nothing of files or types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

ROPE = "rope_freqs.weight"  # by what each frequency of full layers is divided: 1, or a number that stops it

_WHOLE: Mapping[str, str] = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "self_cond_pre_norm.weight": "self_conditioning.pre_norm.weight",
    "self_cond_gate.weight": "self_conditioning.gate_proj.weight",
    "self_cond_up.weight": "self_conditioning.up_proj.weight",
    "self_cond_down.weight": "self_conditioning.down_proj.weight",
}
_LAYER: Mapping[str, str] = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",  # [E, 2F, D], gate rows first, as on the Hub
    "ffn_down_exps.weight": "experts.down_proj",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "layer_output_scale.weight": "layer_scalar",
}
_ENCODER_SCALAR = "enc_layer_output_scale.weight"


def hub_name(name: str) -> str | None:
    """The Hub's name of a tensor of a GGUF; None for one of no known name."""
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if layer is None:
        return f"model.decoder.{_WHOLE[name]}" if name in _WHOLE else None
    if layer[2] == _ENCODER_SCALAR:
        return f"model.encoder.language_model.layers.{layer[1]}.layer_scalar"
    return f"model.decoder.layers.{layer[1]}.{_LAYER[layer[2]]}" if layer[2] in _LAYER else None
