"""The fields of the published checkpoint's config.json that decide its size, for advice before any download.

Knows nothing of the Hub. A dry run of the checkpoint itself reads its own files instead.
"""

from __future__ import annotations

from typing import Any

from mlx_diffusion.checkpoint.config import FULL, SLIDING

REPO_ID = "google/diffusiongemma-26B-A4B-it"
CONFIG: dict[str, Any] = {
    "model_type": "diffusion_gemma",
    "canvas_length": 256,
    "text_config": {
        "vocab_size": 262144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "moe_intermediate_size": 704,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 262144,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "sliding_window": 1024,
        "layer_types": [SLIDING, SLIDING, SLIDING, SLIDING, SLIDING, FULL] * 5,
        "final_logit_softcapping": 30.0,
        "num_experts": 128,
        "top_k_experts": 8,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
            FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        },
    },
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "patch_size": 16,
        "position_embedding_size": 10240,
        "standardize": True,
    },
}
