"""Right answers per family and steps dial, on held-out prompts, with the library's own engine.

    python -m training.evaluate CHECKPOINT [--count 100] [--steps 1 2 4 8 16 48] [--families sort latin …] [--json OUT]

The 95 % interval is Wilson's. Rows of one family run as batches.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from random import Random

from mlx_diffusion import load, stream_generate
from mlx_diffusion.events import Finish
from mlx_diffusion.tasks import DEPENDENT, FAMILIES, Task, draw

BATCH = 25
MAX_TOKENS = 128  # the longest answer, a story, has 108


def prompt_ids(tokenizer, task: Task) -> list[int]:
    """The task rendered by the checkpoint's own template."""
    return tokenizer.apply_chat_template(
        task.messages, tools=task.tools or None, add_generation_prompt=True, enable_thinking=task.thought is not None
    )


def answer_of(text: str) -> str:
    """What follows the thought channel."""
    return text.rpartition("<channel|>")[2]


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, share = 1.96, right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def measure(model, tokenizer, family: str, count: int, steps: int, seed: int) -> dict[str, float]:
    """Right answers and cost of one family at one step limit."""
    rng = Random(f"{seed} {family}")
    tasks = [draw(FAMILIES[family], rng, "held_out") for _ in range(count)]
    right = used = blocks = 0
    for start in range(0, count, BATCH):
        part = tasks[start : start + BATCH]
        texts = [""] * len(part)
        ids = [prompt_ids(tokenizer, task) for task in part]
        for event in stream_generate(
            model, tokenizer, ids, max_tokens=MAX_TOKENS, max_denoising_steps=steps, seed=seed + start
        ):
            texts[event.row] += event.text
            if isinstance(event, Finish):
                used, blocks = used + event.stats.denoising_steps, blocks + event.stats.blocks
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

    model, tokenizer = load(args.checkpoint)
    table = {}
    for family in args.families:
        started = time.perf_counter()
        table[family] = {n: measure(model, tokenizer, family, args.count, n, args.seed) for n in args.steps}
        cells = "  ".join(f"{n}: {100 * cell['share']:5.1f}" for n, cell in table[family].items())
        kind = "dependent" if family in DEPENDENT else ""
        last = table[family][args.steps[-1]]["steps_per_canvas"]
        print(
            f"{family:16}{cells}   {last:4.1f} steps  {time.perf_counter() - started:5.1f} s  {kind}", file=sys.stderr
        )
    if args.json:
        args.json.write_text(json.dumps({"count": args.count, "seed": args.seed, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
