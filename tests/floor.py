"""The floor under right answers: what the bundled checkpoint reached, and whether a small run falls below it.

    python tests/floor.py      measures anew and writes tests/floor.json

The floor of a family is the lower end of the 95 % interval of what was recorded. A run falls below it when so few right
answers would come by chance less than once in a thousand runs: of one family, or of all together.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.measure.answers.plan import EvaluationPlan, variants_of
from mlx_diffusion.measure.answers.runner import evaluate
from mlx_diffusion.measure.answers.statistics import binomial_at_most, wilson
from mlx_diffusion.measure.answers.suites import draw_items
from mlx_diffusion.modes import DENOISING

FLOOR = Path(__file__).parent / "floor.json"
CHECKED = {"shuffle": 32, "insert_random": 12, "replace_random": 12, "sudoku": 12, "sort": 8, "to_digits": 8}
"""Prompts of each family that are run: most of that which a bad sampler spoils, a few with one right answer."""
ENOUGH = {"shuffle": 24, "insert_random": 9, "replace_random": 9, "sudoku": 12, "sort": 8, "to_digits": 8}
"""The first of those: if all others were wrong, answers as they were recorded would still not fall below."""
REST = {family: count for family, count in CHECKED.items() if count > ENOUGH[family]}
"""The families of which not all are among the first."""
RECORDED = 60  # prompts a family
STEPS = 16  # at most, in which a sampler that is only slower falls below, too
CANVASES = {12: set(CHECKED) - {"sudoku"}, 20: {"sudoku"}}
"""The families by the canvases that all their answers fit: a pass over a part of a canvas costs that part."""
CHANCE = 0.001

Counts = dict[str, list[int]]  # family -> right answers, prompts


def measure(mode: str, counts: Mapping[str, int], seed: int) -> Counts:
    """A run of the bundled checkpoint in one mode, so many prompts of each family."""
    found: Counts = {}
    for canvas, families in CANVASES.items():
        items = {family: draw_items(family, counts[family], seed) for family in counts if family in families}
        if items:
            options = {"max_denoising_steps": STEPS, "canvas_length": canvas}
            if mode == "fast":  # it begins with a shorter canvas
                options |= {"canvas_length": canvas + 4, "first_canvas": canvas}
            variants = variants_of([mode], [f"{name}={value}" for name, value in options.items()])
            plan = EvaluationPlan(items, variants, seed, canvas, batch_size=32)
            with tempfile.TemporaryDirectory() as folder:
                record = evaluate("demo", plan, state=Path(folder), first_steps=False, workers=1)
            for (_, family), cell in record.cells.items():
                found[family] = [sum(outcome.right for outcome in cell.outcomes), len(cell.outcomes)]
    return found


def below(found: Counts, recorded: Counts, counts: Mapping[str, int] | None = None) -> list[str]:
    """What fell below its floor, in words.

    With `counts`, prompts that were not run of a family count as answered wrong.
    """
    fallen = []
    every_right = every_count = 0
    expected = []
    for family, (right, run) in found.items():
        count = counts[family] if counts else run
        floor = wilson(*recorded[family])[0]
        chance = binomial_at_most(right, count, floor)
        if chance < CHANCE:
            fallen.append(f"{family}: {right} of {count} right, the floor is {floor:.0%} (chance {chance:.1g})")
        every_right, every_count = every_right + right, every_count + count
        expected += [floor] * count
    # Of a sum of unlike families the binomial at their mean is the wider, so this errs on the side of silence.
    chance = binomial_at_most(every_right, every_count, math.fsum(expected) / every_count)
    if chance < CHANCE:
        fallen.append(f"all: {every_right} of {every_count} right (chance {chance:.1g})")
    return fallen


def main() -> None:
    modes = {mode: measure(mode, dict.fromkeys(CHECKED, RECORDED), seed=1) for mode in DENOISING[:1]}
    content = {"checkpoint": fingerprint(DEMO_FOLDER), "modes": modes}
    FLOOR.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
