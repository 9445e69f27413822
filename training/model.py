"""The bundled checkpoint's configuration, as Transformers' own class, with its first weights.

Layer scalars are buffers in Transformers; here they are trained, since the encoder's and the decoder's must differ.
"""

from pathlib import Path

import torch
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, PreTrainedTokenizerFast

CANVAS_LENGTH = 64
CONTEXT = 2048


def build(tokenizer: PreTrainedTokenizerFast, width: int = 1) -> DiffusionGemmaForBlockDiffusion:
    """A fresh model of about 1.7 million parameters for this tokenizer, or of so many times the width and experts."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128 * width,
        "intermediate_size": 128 * width,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 4 * width,
        "num_key_value_heads": 2 * width,
        "num_global_key_value_heads": 1 * width,
        "head_dim": 32,
        "global_head_dim": 64,
        "num_experts": 8 * width,
        "top_k_experts": 2 * width,
        "sliding_window": 64,
        "max_position_embeddings": CONTEXT,
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        "use_bidirectional_attention": "vision",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
        },
    }
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "position_embedding_size": 16,
    }
    config = DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=CANVAS_LENGTH,
        boi_token_id=token("<|image>"),
        eoi_token_id=token("<image|>"),
        image_token_id=token("<|image|>"),
    )
    model = DiffusionGemmaForBlockDiffusion(config)
    initialise(model)
    return model


def initialise(model: DiffusionGemmaForBlockDiffusion) -> None:
    """Matrices with the variance 1 / inputs, embeddings of unit logits, trained layer scalars."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "vision" not in name:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    for layers in (model.model.decoder.layers, model.model.encoder.language_model.layers):
        for layer in layers:
            layer.layer_scalar.requires_grad_(True)


def text_tensors(model: DiffusionGemmaForBlockDiffusion) -> dict[str, torch.Tensor]:
    """What is trained, by name: all parameters outside the vision tower, and the layer scalars."""
    parameters = {n: p for n, p in model.named_parameters() if "vision_tower" not in n and "embed_vision" not in n}
    return parameters | {n: b for n, b in model.named_buffers() if n.endswith("layer_scalar")}


def copy_weights(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill the named tensors of a model from a checkpoint of the same shape."""
    stored = DiffusionGemmaForBlockDiffusion.from_pretrained(checkpoint, dtype=torch.float32)
    source = dict(stored.named_parameters()) | dict(stored.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(source[name])
