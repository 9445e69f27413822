"""Train the bundled checkpoint: Transformers' own class, float32, on a CPU; saves and resumes.

    python -m training.train RUN_DIR --minutes 120 [--decay-minutes 30]

RUN_DIR keeps the newest state (weights, optimiser, averages); the same command goes on from it. A new run can start
from the weights of a checkpoint (`--init mlx_diffusion/demo` goes on with the bundled one). The learning rate is
constant and falls linearly to zero over the last `--decay-minutes`. Canvases of 16, 32 and 64 positions alternate at
random: short ones cost less, and the model is at home with all of them. Leave the machine alone meanwhile: threads that
wait for each other lose far more than their share of a busy core (or give it one core: OMP_NUM_THREADS=1).
"""

import argparse
import math
import os
import time
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer

from . import data
from . import model as architecture
from .objective import losses
from .optimiser import Muon

CANVAS_LENGTHS = (16, 32, architecture.CANVAS_LENGTH)
POOL = 4  # batches whose examples are sorted by length together, so that little is padding


def learning_rates(progress_minutes: float, total: float, decay: float) -> float:
    """The factor on both learning rates after so many minutes."""
    return max(0.0, min(1.0, (total - progress_minutes) / decay)) if decay else 1.0


class Average:
    """Exponential moving average of every trained tensor."""

    def __init__(self, named: dict[str, torch.Tensor], decay: float):
        self.decay, self.values = decay, {name: tensor.detach().clone() for name, tensor in named.items()}

    @torch.no_grad()
    def update(self, named: dict[str, torch.Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in named.items():
            self.values[name].lerp_(tensor, 1 - decay)


def batches(encoder: data.Encoder, rng: Random, size: int, shares: list[float]):
    """An endless stream of batches of one canvas length each."""
    while True:
        (length,) = rng.choices(CANVAS_LENGTHS, shares)
        pool = sorted(data.stream(encoder, rng, length, POOL * size), key=lambda example: len(example.prefix))
        starts = list(range(0, len(pool), size))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + size]
            rng.shuffle(rows)
            yield data.batch(rows, pad=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--decay-minutes", type=float, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs=3, default=(0.3, 0.5, 0.2), help="of canvases of 16, 32 and 64")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--init", type=Path, help="a checkpoint to start from, in place of random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = architecture.build(tokenizer).train()
    vision = ("vision_tower", "embed_vision")
    trained = {n: p for n, p in model.named_parameters() if not any(part in n for part in vision)}
    trained |= {n: b for n, b in model.named_buffers() if n.endswith("layer_scalar")}
    matrices = [p for n, p in trained.items() if p.dim() > 1 and "embed_tokens" not in n and "router" not in n]
    others = [p for p in trained.values() if not any(p is m for m in matrices)]
    muon = Muon(matrices, lr=args.muon_lr)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    if args.init is not None:
        architecture.copy_weights(args.init, trained)
    average, step, minutes = Average(trained, 0.998), 0, 0.0

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
        step, minutes = state["step"], state["minutes"]
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
                "minutes": minutes,
            },
            partial,
        )
        os.replace(partial, state_file)

    generator = torch.Generator().manual_seed(args.seed + step)
    stream = batches(data.Encoder(tokenizer), Random(args.seed + step), args.batch, args.shares)
    print(f"{sum(p.numel() for p in trained.values()):,} trained parameters", flush=True)
    seen, started, sums = 0, time.perf_counter(), [0.0, 0.0]
    while minutes < args.minutes:
        factor = learning_rates(minutes, args.minutes, args.decay_minutes)
        warm = min(1.0, (step + 1) / 100)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = (
            args.muon_lr * factor * warm,
            args.adam_lr * factor * warm,
        )
        prefix, mask, canvas = (torch.from_numpy(array) for array in next(stream))
        canvas_loss, encoder_loss = losses(model, prefix, mask, canvas, generator)
        (canvas_loss + encoder_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        if not math.isfinite(norm):
            raise SystemExit(f"step {step}: gradient norm {norm}, lower the learning rates")
        muon.step()
        adam.step()
        for tensor in trained.values():
            tensor.grad = None
        average.update(trained, step)
        step, seen = step + 1, seen + 1
        sums = [sums[0] + canvas_loss.item(), sums[1] + encoder_loss.item()]
        now = time.perf_counter()
        minutes, started = minutes + (now - started) / 60, now
        if seen % 50 == 0:
            print(
                f"step {step} {minutes:.1f} min canvas {sums[0] / 50:.4f} encoder {sums[1] / 50:.4f} "
                f"norm {norm:.2f} lr x{factor:.2f}",
                flush=True,
            )
            sums = [0.0, 0.0]
        if step % args.save_every == 0:
            save()
    save()


if __name__ == "__main__":
    main()
