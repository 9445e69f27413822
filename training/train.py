"""Train the bundled checkpoint: Transformers' own class, float32, on a CPU; saves and resumes.

    python -m training.train RUN_DIR --tokenizer DIR --steps 2000 [--decay-steps 500]

RUN_DIR keeps the newest state (weights, optimiser, averages); the same command goes on from it. A new run can start
from the weights of a checkpoint (`--init mlx_diffusion/demo` goes on with the bundled one). The learning rate is
constant and falls linearly to zero over the last `--decay-steps`. What a step learns from depends on the seed and the
step's number alone, so that a run is the same however often it was interrupted, on however busy a machine. Canvases of
16, 32 and 64 positions alternate at random: short ones cost less, and the model is at home with all of them. On a busy
machine give it one core (OMP_NUM_THREADS=1): threads that wait for each other lose far more than their share.
"""

import argparse
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer

from . import data
from . import model as architecture
from .norm import replace_norms
from .objective import losses
from .optimiser import Muon

CANVAS_LENGTHS = (16, 32, architecture.CANVAS_LENGTH)
POOL = 8  # batches whose examples are sorted by length together, so that little is padding
WARM_STEPS = 100
REPORT_STEPS = 50


def learning_rate(step: int, total: int, decay: int) -> float:
    """The factor on both learning rates at a step: up over the first `WARM_STEPS`, down to 0 over the last `decay`."""
    return min(1.0, (step + 1) / WARM_STEPS, (total - step) / decay if decay else 1.0)


class Average:
    """Exponential moving average of every trained tensor."""

    def __init__(self, named: dict[str, torch.Tensor], decay: float):
        self.decay, self.values = decay, {name: tensor.detach().clone() for name, tensor in named.items()}

    @torch.no_grad()
    def update(self, named: dict[str, torch.Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in named.items():
            self.values[name].lerp_(tensor, 1 - decay)


def batches(
    encoder: data.Encoder, seed: int, pool: int, size: int, shares: list[float], weights: Mapping[str, float]
) -> list[tuple[torch.Tensor, ...]]:
    """The batches, all of one canvas length, of the steps from POOL * `pool` on."""
    rng = Random(f"{seed} {pool}")
    (length,) = rng.choices(CANVAS_LENGTHS, shares)
    examples = data.stream(encoder, rng, length, POOL * size, weights)
    examples.sort(key=lambda example: (len(example.rest), len(example.prefix)))
    parts = [examples[start : start + size] for start in range(0, len(examples), size)]
    for part in parts:
        rng.shuffle(part)
    rng.shuffle(parts)
    return [tuple(map(torch.from_numpy, data.batch(part, pad=0))) for part in parts]


def family_weight(argument: str) -> tuple[str, float]:
    """`sudoku=12` as a family and how often it is drawn."""
    family, _, weight = argument.partition("=")
    if family not in data.TAUGHT:
        raise argparse.ArgumentTypeError(f"{family!r} is no family; families: {', '.join(data.TAUGHT)}")
    return family, float(weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay-steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs=3, default=(0.3, 0.5, 0.2), help="of canvases of 16, 32 and 64")
    parser.add_argument(
        "--weights",
        type=family_weight,
        nargs="+",
        default=[],
        metavar="FAMILY=WEIGHT",
        help="how often families are drawn, where not as data.WEIGHTS has it",
    )
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--init", type=Path, help="a checkpoint to start from, in place of random weights")
    parser.add_argument("--width", type=int, default=1, help="as `training.widen` makes it: 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = architecture.build(tokenizer, args.width).train()
    replace_norms(model)
    trained = architecture.text_tensors(model)
    matrices = [p for n, p in trained.items() if p.dim() > 1 and "embed_tokens" not in n and "router" not in n]
    others = [p for p in trained.values() if not any(p is m for m in matrices)]
    muon = Muon(matrices, lr=args.muon_lr)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    if args.init is not None:
        architecture.copy_weights(args.init, trained)
    average, step = Average(trained, 0.998), 0

    args.run.mkdir(parents=True, exist_ok=True)
    state_file = args.run / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(state["weights"][name])
        average.values = state["average"]
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step = state["step"]
        print(f"resumed at step {step}", flush=True)

    def save() -> None:
        weights = {name: tensor.detach() for name, tensor in trained.items()}
        partial = state_file.with_suffix(".part")
        torch.save(
            {
                "weights": weights,
                "average": average.values,
                "muon": muon.state_dict(),
                "adam": adam.state_dict(),
                "step": step,
            },
            partial,
        )
        os.replace(partial, state_file)

    encoder, weights = data.Encoder(tokenizer), data.WEIGHTS | dict(args.weights)
    print(f"{sum(p.numel() for p in trained.values()):,} trained parameters", flush=True)
    pool: list[tuple[torch.Tensor, ...]] = []
    started, sums = time.perf_counter(), [0.0, 0.0]
    while step < args.steps:
        if not pool or step % POOL == 0:
            pool = batches(encoder, args.seed, step // POOL, args.batch, args.shares, weights)
        factor = learning_rate(step, args.steps, args.decay_steps)
        muon.param_groups[0]["lr"] = args.muon_lr * factor
        adam.param_groups[0]["lr"] = args.adam_lr * factor
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        canvas_loss, encoder_loss = losses(model, *pool[step % POOL], generator)
        (canvas_loss + encoder_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        if not math.isfinite(norm):
            raise SystemExit(f"step {step}: gradient norm {norm}, lower the learning rates")
        muon.step()
        adam.step()
        for tensor in trained.values():
            tensor.grad = None
        average.update(trained, step)
        step += 1
        sums = [sums[0] + canvas_loss.item(), sums[1] + encoder_loss.item()]
        if step % REPORT_STEPS == 0:
            now = time.perf_counter()
            print(
                f"step {step} canvas {sums[0] / REPORT_STEPS:.4f} encoder {sums[1] / REPORT_STEPS:.4f} "
                f"norm {norm:.2f} lr x{factor:.2f} {(now - started) / REPORT_STEPS:.2f} s a step",
                flush=True,
            )
            started, sums = now, [0.0, 0.0]
        if step % args.save_every == 0:
            save()
    save()


if __name__ == "__main__":
    main()
