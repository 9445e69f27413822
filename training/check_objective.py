"""Check the objective's short cuts: one pass of the encoder for both losses, the head's and the norms' own gradients.

    python -m training.check_objective CHECKPOINT

Batches of all canvas lengths, with padding on both sides, prefixes shorter and longer than the sliding window, and
canvases after the drawn one. The keys and values that the decoder reads must be those of a pass over the prefix alone,
and the gradients of all weights those of two passes, plain logits and PyTorch's norms, up to rounding.
"""

import argparse
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion
from transformers.cache_utils import DynamicCache

from . import data, objective
from .norm import replace_norms
from .train import CANVAS_LENGTHS, batches

TOLERANCE = 1e-5
ROWS = 16


def encode_twice(
    model: DiffusionGemmaForBlockDiffusion, tokens: torch.Tensor, mask: torch.Tensor, kept: int
) -> tuple[torch.Tensor, DynamicCache]:
    """`objective.encode` the plain way: a pass over everything for its loss, another over the prefix for its cache."""
    hidden = model.model.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    return hidden, model.model.encoder(input_ids=tokens[:, :kept], attention_mask=mask[:, :kept]).cache


def plain_cross_entropy(
    hidden: torch.Tensor, embeddings: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor, cap: float
) -> torch.Tensor:
    """`head.cross_entropy` on all logits at once, differentiated by PyTorch."""
    logits = cap * torch.tanh(hidden @ embeddings.mT / cap)
    return (F.cross_entropy(logits, targets, reduction="none") * shares).sum()


def cases(encoder: data.Encoder) -> Iterator[tuple[torch.Tensor, ...]]:
    """(prefix, canvas, rest) of the training stream, stories often: their prefixes pass the window."""
    for place in range(len(CANVAS_LENGTHS)):
        shares = [float(place == other) for other in range(len(CANVAS_LENGTHS))]
        yield from batches(encoder, 0, place, ROWS, shares, data.WEIGHTS | {"story": 100.0})


def cache_difference(one: DynamicCache, other: DynamicCache, known: torch.Tensor) -> float:
    """The largest difference between keys or values of known positions; the lengths must agree."""
    largest = 0.0
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        if mine.keys.shape != theirs.keys.shape or mine.get_seq_length() != theirs.get_seq_length():
            raise SystemExit(f"keys {tuple(mine.keys.shape)}, but {tuple(theirs.keys.shape)} in a pass of their own")
        seen = known[:, -mine.keys.shape[2] :][:, None, :, None]
        for left, right in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
            largest = max(largest, ((left - right) * seen).abs().max().item())
    return largest


def gradients(model: DiffusionGemmaForBlockDiffusion, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """All gradients of both losses, on fixed noise, in one vector."""
    model.zero_grad()
    sum(objective.losses(model, *batch, torch.Generator().manual_seed(0))).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    args = parser.parse_args()
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint, dtype=torch.float32).train()
    short = deepcopy(model)
    replace_norms(short)
    pad = model.config.get_text_config().pad_token_id
    for prefix, canvas, rest in cases(data.Encoder(AutoTokenizer.from_pretrained(args.checkpoint))):
        tokens = torch.cat((prefix, canvas, rest), dim=1)
        mask = tokens != pad
        with torch.no_grad():
            _, cut = objective.encode(short, tokens, mask, prefix.shape[1])
            _, whole = encode_twice(model, tokens, mask, prefix.shape[1])
        keys = cache_difference(cut, whole, mask[:, : prefix.shape[1]])
        mine = gradients(short, (prefix, canvas, rest))
        with patch.multiple(objective, encode=encode_twice, cross_entropy=plain_cross_entropy):
            theirs = gradients(model, (prefix, canvas, rest))
        slopes = ((mine - theirs).norm() / theirs.norm()).item()
        shape = f"prefix {prefix.shape[1]:3}, canvas {canvas.shape[1]}, rest {rest.shape[1]:2}"
        print(f"{shape}: keys and values {keys:.0e}, gradients {slopes:.0e}")
        if max(keys, slopes) > TOLERANCE:
            raise SystemExit(f"{shape}: differences above {TOLERANCE}")


if __name__ == "__main__":
    main()
