"""Write a small random DiffusionGemma checkpoint in the Hub's own format, with Transformers.

The checkpoint has every structural feature of google/diffusiongemma-26B-A4B-it at toy size: sliding and full
attention layers, another head size and another number of KV heads in full layers, no v_proj there, fused experts
[E, 2*F, D], encoder-only layer scalars that differ from the decoder's, self-conditioning, tied embeddings and a
Gemma 4 vision tower. The weights are random, so its text is noise: it serves for parity, not for quality.

Needs torch and Transformers 5.24.    make_checkpoint.py OUT_DIR [--seed N] [--experts E] [--vocab V] ...
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<bos>", "<turn|>", "<|turn>"]
CHAT_TEMPLATE = (
    "{{ '<bos> ' }}{% for m in messages %}{{ '<|turn> ' + m['content'] + ' <turn|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn> ' }}{% endif %}"
)


def build_config(args) -> DiffusionGemmaConfig:
    """The toy configuration; sizes come from the command line."""
    pattern = ["sliding_attention"] * args.sliding_per_full + ["full_attention"]
    layer_types = (pattern * args.layers)[: args.layers]
    layer_types[-1] = "full_attention"
    text = {
        "vocab_size": args.vocab,
        "hidden_size": args.hidden,
        "intermediate_size": args.dense,
        "moe_intermediate_size": args.moe,
        "num_hidden_layers": args.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": args.head_dim,
        "global_head_dim": 2 * args.head_dim,
        "num_experts": args.experts,
        "top_k_experts": args.top_k,
        "sliding_window": args.window,
        "layer_types": layer_types,
        "max_position_embeddings": 4096,
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
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    return DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=args.canvas,
        boi_token_id=args.vocab - 3,
        eoi_token_id=args.vocab - 2,
        image_token_id=args.vocab - 1,
    )


def randomise(model, seed: int) -> None:
    """Replace every tensor, norms and scalars included, by values that matter (no ones, no zeros).

    Random networks amplify rounding errors until two correct implementations part after a few steps. Small
    post-norms and soft attention keep this one calm: MLX and Transformers agree to 3e-5 in the logits, and over whole
    trajectories of about 20 steps a block, which end by the stop rule.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder, encoder = model.model.decoder, model.model.encoder
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                calm = 0.25 if ".post_" in name and "self_conditioning" not in name else 1.0
                calm = 0.5 if "q_norm" in name or "k_norm" in name else calm
                parameter.copy_((1.0 + 0.2 * noise) * calm)
        # Rows of length 12: peaked logits inside the softcap, so that acceptance and stopping both happen.
        embedding = decoder.embed_tokens.weight
        embedding.mul_(12.0 * embedding.shape[-1] ** -0.5 / embedding.std())
        for layers in (decoder.layers, encoder.language_model.layers):
            for layer in layers:
                layer.layer_scalar.copy_(0.9 + 0.2 * torch.rand(1, generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in {
        "seed": 0,
        "vocab": 512,
        "hidden": 64,
        "dense": 96,
        "moe": 48,
        "layers": 6,
        "sliding_per_full": 2,
        "head_dim": 16,
        "experts": 8,
        "top_k": 2,
        "window": 24,
        "canvas": 32,
    }.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--config-style", default="hub", choices=["hub", "transformers"])
    parser.add_argument("--shard-mb", type=int, default=1, help="largest shard, so that several are written")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model = DiffusionGemmaForBlockDiffusion(build_config(args)).eval()
    randomise(model, args.seed)
    model.to(getattr(torch, args.dtype)).save_pretrained(args.out, max_shard_size=f"{args.shard_mb}MB")
    generation = {
        "max_new_tokens": 2 * args.canvas,
        "max_denoising_steps": 24,
        "t_min": 0.4,
        "t_max": 0.8,
        "stability_threshold": 1,
        "confidence_threshold": 0.005,
        "eos_token_id": [1, 3],
        "pad_token_id": 0,
        "bos_token_id": 2,
        "sampler_config": {"entropy_bound": 0.1, "_cls_name": "EntropyBoundSamplerConfig"},
    }
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    write_tokenizer(args.out, args.vocab)
    if args.config_style == "hub":
        write_hub_config(args.out / "config.json")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {args.out}")


def write_tokenizer(folder: Path, vocab: int) -> None:
    """Token i is the word "t<i>", words are split at spaces: text and ids say the same."""
    words = SPECIAL + [f"t{i}" for i in range(len(SPECIAL), vocab)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Replace("t", " t")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def write_hub_config(path: Path) -> None:
    """Spell the full layers' sizes as the Hub's config.json does; recent Transformers writes per_layer_config."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    full = next(iter(text.pop("per_layer_config").values()))
    text.update(
        global_head_dim=full["head_dim"],
        num_global_key_value_heads=full["num_key_value_heads"],
        final_logit_softcapping=30.0,
    )
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
