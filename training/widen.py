"""Widen a checkpoint: twice the features, heads and experts, and the same answers, as a start for a wider one.

    python -m training.widen CHECKPOINT OUT_DIR

Every feature is there twice, so a matrix may read the two copies by two different halves whose sum is what it was: the
weight over two, plus and minus noise of the same size. Experts are there twice, twice as many are chosen, and what the
two write differs by such noise too. So copies part as soon as training begins. Weights are float32, since bf16 would
round the two halves differently.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion

from . import model as architecture


def split(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [..., out, in] that reads every input twice, [..., out, 2 in]."""
    noise = torch.randn_like(matrix) * matrix.std() / 2
    return torch.cat((matrix / 2 + noise, matrix / 2 - noise), dim=-1)


def twice(tensor: torch.Tensor, axis: int = 0) -> torch.Tensor:
    return torch.cat((tensor, tensor), dim=axis)


def widened(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor of that name in the wider model."""
    kind = name.rpartition("layers.")[2].partition(".")[2] or name
    if name.endswith("embed_tokens.weight"):
        return twice(tensor, axis=1) / 2**0.5  # they are scaled by the root of their width
    if kind.startswith("experts.gate_up_proj"):
        return split(twice(tensor))
    if kind.startswith("experts.down_proj"):
        written = twice(tensor, axis=1)
        noise = torch.randn_like(written) * tensor.std() / 2
        return torch.cat((written + noise, written - noise))
    if kind == "router.proj.weight":
        return split(twice(tensor)) * 2**0.5  # inputs are divided by the root of their number
    if tensor.dim() == 2:
        return split(twice(tensor))
    if name.endswith("language_model.norm.weight"):
        return twice(tensor) / 2**0.5  # logits are sums over twice the features
    if kind == "layer_scalar" or "q_norm" in kind or "k_norm" in kind:
        return tensor
    return twice(tensor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    stored = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint, dtype=torch.float32)
    tensors = architecture.text_tensors(stored)
    model = architecture.build(tokenizer, width=2)
    with torch.no_grad():
        for name, tensor in architecture.text_tensors(model).items():
            tensor.copy_(widened(name, tensors[name]))
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
