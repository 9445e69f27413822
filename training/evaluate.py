"""Right answers per family and steps dial, on held-out prompts.

    python -m training.evaluate CHECKPOINT [--count 100] [--steps 1 2 4 8 16 48] [--families sort latin …] [--json OUT]

Runs Transformers' own `generate`, many times faster than MLX on a CPU and equal to the library's engine token for token
on the same random numbers, as the tests hold. The 95 % interval is Wilson's. Rows of one family run as batches.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion

from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.tasks import DEPENDENT, FAMILIES, draw

from .data import Encoder

BATCH = 25
MAX_TOKENS = 128  # the longest answer, a story, has 108


def write(
    model: DiffusionGemmaForBlockDiffusion, encoder: Encoder, prompts: list[list[int]], steps: int
) -> tuple[list[str], int, int]:
    """The answers to a batch of prompts, the denoising steps taken, and the canvases written."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    result = model.generate(ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, max_denoising_steps=steps)
    texts, canvases, taken = [], 0, 0.0
    stops = set(model.generation_config.eos_token_id)
    for row, rate in zip(result.sequences[:, longest:].tolist(), result.tokens_per_forward.tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        canvases += -(-min(end + 1, len(row)) // model.config.canvas_length)
        taken += sum(token != 0 for token in row) / rate
        texts.append(encoder.tokenizer.decode(row[:end], skip_special_tokens=False))
    return texts, round(taken), canvases


def answer_of(text: str) -> str:
    """What follows the thought channel."""
    return text.rpartition("<channel|>")[2]


def measure(
    model: DiffusionGemmaForBlockDiffusion, encoder: Encoder, family: str, count: int, steps: int, seed: int
) -> dict[str, float]:
    """Right answers and cost of one family at one step limit."""
    rng = Random(f"{seed} {family}")
    tasks = [draw(FAMILIES[family], rng, "held_out") for _ in range(count)]
    torch.manual_seed(seed)
    right = used = blocks = 0
    for start in range(0, count, BATCH):
        part = tasks[start : start + BATCH]
        texts, taken, canvases = write(model, encoder, [encoder.prompt(task) for task in part], steps)
        used, blocks = used + taken, blocks + canvases
        right += sum(task.is_right(answer_of(text)) for task, text in zip(part, texts, strict=True))
    low, high = wilson(right, count)
    return {
        "right": right,
        "count": count,
        "share": right / count,
        "low": low,
        "high": high,
        "steps_per_canvas": used / blocks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, nargs="+", default=[48])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    model = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(args.checkpoint))
    table = {}
    for family in args.families:
        started = time.perf_counter()
        table[family] = {n: measure(model, encoder, family, args.count, n, args.seed) for n in args.steps}
        cells = "  ".join(f"{n}: {100 * cell['share']:5.1f}" for n, cell in table[family].items())
        kind = "dependent" if family in DEPENDENT else ""
        last = table[family][args.steps[-1]]["steps_per_canvas"]
        print(
            f"{family:16}{cells}   {last:4.1f} steps  {time.perf_counter() - started:5.1f} s  {kind}", file=sys.stderr
        )
        if args.json:
            measured = {"seed": args.seed, "steps": args.steps, "table": table}
            args.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
