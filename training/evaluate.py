"""Right answers per family on held-out prompts: by denoising, for each step limit, and by plain decoding.

    python -m training.evaluate CHECKPOINT [--count 100] [--steps 1 2 4 8 16 48] [--families sort latin …] [--json OUT]

Denoising is Transformers' own `generate`, many times faster than MLX on a CPU and equal to the library's engine token
for token on the same random numbers, as the tests hold. Plain decoding takes one token after the other from the
encoder's logits: the likeliest one, and in families with several right answers beside it one sampled at temperature 1.
The 95 % interval is Wilson's. Rows of one family run as batches.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion
from transformers.cache_utils import DynamicCache

from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.tasks import DEPENDENT, FAMILIES, draw

from .data import TAUGHT, Encoder

BATCH = 25
MAX_TOKENS = 128  # the longest answer, a story, has 108


@dataclass(frozen=True)
class Written:
    """The answers to a batch of prompts, the passes that they took, and the canvases among them (0: none)."""

    texts: list[str]
    passes: int
    canvases: int


Writer = Callable[[list[list[int]]], Written]


@dataclass(frozen=True)
class Toy:
    """A checkpoint in Transformers' class, with the template of its prompts."""

    model: DiffusionGemmaForBlockDiffusion
    encoder: Encoder

    def padded(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts padded on the left, with their mask, both [B, P]."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids, mask

    def until_stop(self, row: list[int]) -> list[int]:
        """The tokens before the first stop token."""
        stops = self.model.generation_config.eos_token_id
        return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]

    def text(self, row: list[int]) -> str:
        return self.encoder.tokenizer.decode(self.until_stop(row), skip_special_tokens=False)


def denoise(toy: Toy, steps: int, prompts: list[list[int]]) -> Written:
    """Answers by denoising, at most `steps` steps a canvas."""
    ids, mask = toy.padded(prompts)
    result = toy.model.generate(ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, max_denoising_steps=steps)
    rows, canvases, taken = result.sequences[:, ids.shape[1] :].tolist(), 0, 0.0
    for row, rate in zip(rows, result.tokens_per_forward.tolist(), strict=True):
        canvases += -(-min(len(toy.until_stop(row)) + 1, len(row)) // toy.model.config.canvas_length)
        taken += sum(token != 0 for token in row) / rate
    return Written([toy.text(row) for row in rows], round(taken), canvases)


@torch.no_grad()
def decode(toy: Toy, temperature: float, prompts: list[list[int]]) -> Written:
    """Answers token by token from the encoder's logits: the likeliest at temperature 0, otherwise a sampled one."""
    ids, mask = toy.padded(prompts)
    text = toy.model.config.get_text_config()
    cache, cap = DynamicCache(config=text), text.final_logit_softcapping
    stops = torch.tensor(toy.model.generation_config.eos_token_id)
    tokens, written, open_rows = ids, [], torch.ones(len(ids), dtype=torch.bool)
    while open_rows.any() and len(written) < MAX_TOKENS:
        hidden = toy.model.model.encoder(input_ids=tokens, attention_mask=mask, cache=cache).last_hidden_state[:, -1]
        logits = cap * torch.tanh(toy.model.lm_head(hidden) / cap)
        if temperature:
            tokens = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)
        else:
            tokens = logits.argmax(dim=-1, keepdim=True)
        written.append(tokens)
        open_rows &= ~torch.isin(tokens[:, 0], stops)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    rows = torch.cat(written, dim=1).tolist()
    passes = sum(min(len(toy.until_stop(row)) + 1, len(row)) for row in rows)
    return Written([toy.text(row) for row in rows], passes, 0)


def answer_of(text: str) -> str:
    """What follows the thought channel."""
    return text.rpartition("<channel|>")[2]


def measure(toy: Toy, write: Writer, family: str, count: int, seed: int) -> dict[str, float]:
    """Right answers and cost of one family, written in one way."""
    rng = Random(f"{seed} {family}")
    tasks = [draw(TAUGHT[family], rng, "held_out") for _ in range(count)]
    torch.manual_seed(seed)
    right = passes = canvases = 0
    for start in range(0, count, BATCH):
        part = tasks[start : start + BATCH]
        written = write([toy.encoder.prompt(task) for task in part])
        passes, canvases = passes + written.passes, canvases + written.canvases
        right += sum(task.is_right(answer_of(text)) for task, text in zip(part, written.texts, strict=True))
    low, high = wilson(right, count)
    figures = {"right": right, "count": count, "share": right / count, "low": low, "high": high}
    return figures | ({"steps_per_canvas": passes / canvases} if canvases else {"tokens": passes / count})


def ways(toy: Toy, family: str) -> dict[str, Writer]:
    """How a family is decoded plainly, by name."""
    found = {"greedy": partial(decode, toy, 0.0)}
    return found | ({"sampled": partial(decode, toy, 1.0)} if family in DEPENDENT else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[48], help="limits of denoising steps; none: plain decoding alone"
    )
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(TAUGHT))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    model = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    toy = Toy(model, Encoder(AutoTokenizer.from_pretrained(args.checkpoint)))
    table, plain = {}, {}
    for family in args.families:
        started = time.perf_counter()
        cells = {n: measure(toy, partial(denoise, toy, n), family, args.count, args.seed) for n in args.steps}
        decoded = {way: measure(toy, write, family, args.count, args.seed) for way, write in ways(toy, family).items()}
        table[family], plain[family] = cells, decoded
        shares = "  ".join(f"{name}: {100 * cell['share']:5.1f}" for name, cell in (cells | decoded).items())
        steps = f"{cells[args.steps[-1]]['steps_per_canvas']:4.1f} steps" if cells else ""
        print(f"{family:16}{shares:50}  {steps}  {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)
        if args.json:
            measured = {"seed": args.seed, "steps": args.steps, "table": table, "plain": plain}
            args.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
