"""Write a training run's averaged weights as a checkpoint in the Hub's own format, bf16.

python -m training.export RUN_DIR TOKENIZER_DIR OUT_DIR
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from . import model as architecture

GENERATION = {
    "max_new_tokens": 256,
    "max_denoising_steps": 48,
    "t_min": 0.4,
    "t_max": 0.8,
    "stability_threshold": 1,
    "confidence_threshold": 0.005,
    "sampler_config": {"entropy_bound": 0.1, "_cls_name": "EntropyBoundSamplerConfig"},
    "pad_token_id": 0,
    "bos_token_id": 2,
}


def hub_spelling(config: dict[str, object]) -> dict[str, object]:
    """config.json as the Hub's checkpoint spells it, where recent Transformers writes `per_layer_config`."""
    text = config["text_config"]
    full = next(iter(text.pop("per_layer_config").values()))
    text |= {
        "global_head_dim": full["head_dim"],
        "num_global_key_value_heads": full["num_key_value_heads"],
        "final_logit_softcapping": 30.0,
    }
    return config


def write_tokenizer_config(file: Path) -> None:
    """Name the class that every Transformers knows, and drop what only describes this machine's copy."""
    config = json.loads(file.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        config.pop(name, None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": architecture.CONTEXT}
    file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1, help="as in training")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = architecture.build(tokenizer, args.width).eval()
    state = torch.load(args.run / "state.pt", weights_only=True)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in state["average"].items():
            tensors[name].copy_(value)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    write_tokenizer_config(args.out / "tokenizer_config.json")
    config = args.out / "config.json"
    config.write_text(json.dumps(hub_spelling(json.loads(config.read_text())), indent=2) + "\n")
    stops = [1, *tokenizer.convert_tokens_to_ids(["<turn|>", "<|tool_response>"])]
    generation = GENERATION | {"eos_token_id": stops}
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"step {state['step']}: {size / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
