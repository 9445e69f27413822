"""Write the bundled checkpoint's card from the measurements of `training.evaluate --json`.

python -m training.card mlx_diffusion/demo training/results.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from mlx_diffusion.measure.tasks import DEPENDENT, FAMILIES

Results = dict[str, dict[str, dict[str, float]]]  # family -> step limit -> figures

CARD = """\
---
license: apache-2.0
library_name: mlx-diffusion
---

# A toy DiffusionGemma

A DiffusionGemma of {parameters:.1f} million parameters in the Hub's own format, bundled with mlx-diffusion so that all
its features can be tried without an 18 GB download, and judged by answers that are right or wrong. **It is a toy**: it
knows the {count} small tasks below and nothing of the world. The real model runs with
`mlx-diffusion generate --model mlx-community/diffusiongemma-26B-A4B-it-4bit "…"`.

Architecture: {layers} layers ({kinds}), hidden {hidden}, {experts} experts of {inner}, {top} per token, a canvas of
{canvas} tokens, a vocabulary of {vocab}. Trained with the published objective by the recipe in `training/`, on tasks
drawn without end; one key in eight (a list, number, name, square, …) never occurs in training and is what is measured.
`tool` is the exception: an earlier part of the training split its questions otherwise and has seen them all. Numbers
below twenty, each a word of its own, are always in training and never measured by themselves; Latin squares in training
are the four whose first row and column have the digits as asked, while any of the 576 right ones counts.

## What it knows

{prompts}

`think` is asked with `enable_thinking`, `tool` with a declared tool; both go through the chat template.

It was also taught to fill gaps in such answers and to answer questions about a record or a list, as `infill`, `fill`
and `decide` ask it; how well it does is in the repository's docs/known-in-part.md.

## How well

Share of exact or valid answers in per cent on held-out prompts, at the given limit of denoising steps
(`max_denoising_steps`; all else as in generation_config.json), with the 95 % interval at the default of 48, and the
denoising steps that a canvas then took. In *dependent* families several answers are right, and positions depend on
each other. {plain}Made by
`python -m training.evaluate mlx_diffusion/demo --steps {steps} --count PROMPTS --json training/results.json`.

{table}

{verdict}
"""
PROMPTS = {
    "copy": "Copy: fig oak ant",
    "reverse": "Reverse: fig oak ant",
    "sort": "Sort: fig oak ant",
    "shuffle": "Shuffle: fig oak ant",
    "insert_index": "Insert hen at 2: fig oak ant",
    "insert_random": "Insert hen anywhere: fig oak ant",
    "remove_index": "Remove item 2: fig oak ant",
    "remove_random": "Remove any item: fig oak ant",
    "replace_index": "Replace item 2 with hen: fig oak ant",
    "replace_random": "Replace any item with hen: fig oak ant",
    "latin": "Latin square: 3581",
    "sudoku": "Sudoku:⏎1030⏎0012⏎2043⏎0000",
    "addition": "Add: 27 + 15",
    "to_words": "In words: 4217",
    "to_digits": "In digits: four thousand two hundred seventeen",
    "dates": "Date to long: 2024-03-17",
    "to_json": "As JSON: Katan is 34 and lives in Oslo.",
    "from_json": 'In a sentence: {"name": "Katan", "age": 34, "city": "Oslo"}',
    "python": 'Python: """Return x times 7, then plus y."""',
    "python_middle": 'Fill in: """Return x times 7, then plus y."""⏎def f(x, y):⏎    ___⏎    return t + y',
    "story": "Story: Katan and the fox",
    "think": "Add: 27 + 15",
    "tool": "What is the weather in Oslo?",
}


PLAIN = """*Greedy* and *sampled* are plain decoding, a token a pass from the encoder's logits: the likeliest one, or
one sampled at temperature 1. """


def table(results: Results, steps: list[str], plain: Results) -> str:
    """The measurements as a Markdown table, deterministic families first; plain decoding where it was measured."""
    ways = ["greedy", "sampled"] if plain else []
    heads = ["family", "kind", "prompts", *steps, "95 % interval", "steps taken", *ways]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for family in sorted(results, key=lambda family: (family in DEPENDENT, list(FAMILIES).index(family))):
        cells = results[family]
        last = cells[steps[-1]]
        row = [
            family,
            "dependent" if family in DEPENDENT else "deterministic",
            f"{last['count']}",
            *(f"{100 * cells[n]['share']:.0f}" for n in steps),
            f"{100 * last['low']:.0f} to {100 * last['high']:.0f}",
            f"{last['steps_per_canvas']:.1f}",
            *(f"{100 * plain[family][way]['share']:.0f}" if way in plain[family] else "" for way in ways),
        ]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def render(checkpoint: Path, measured: dict[str, Any]) -> str:
    """The card's text from the checkpoint's config.json and what `training.evaluate` measured."""
    config = json.loads((checkpoint / "config.json").read_text())
    text = config["text_config"]
    steps = list(next(iter(measured["table"].values())))
    plain = measured.get("plain", {})
    return CARD.format(
        parameters=(checkpoint / "model.safetensors").stat().st_size / 2e6,
        count=len(FAMILIES),
        layers=text["num_hidden_layers"],
        kinds=", ".join(kind.split("_")[0] for kind in text["layer_types"]),
        hidden=text["hidden_size"],
        experts=text["num_experts"],
        inner=text["moe_intermediate_size"],
        top=text["top_k_experts"],
        canvas=config["canvas_length"],
        vocab=text["vocab_size"],
        prompts="\n".join(f"- {family}: `{PROMPTS[family]}`" for family in FAMILIES),
        steps=" ".join(steps),
        plain=PLAIN if plain else "",
        verdict=verdict(measured["table"], steps[-1], plain),
        table=table(measured["table"], steps, plain),
    )


def verdict(results: Results, steps: str, plain: Results) -> str:
    """Which families fall short of what the checkpoint is meant to reach, in either way of writing."""
    reached = [(name, cells[steps]["share"]) for name, cells in results.items()]
    for name, cells in plain.items():
        way = "sampled" if name in DEPENDENT else "greedy"
        reached.append((f"{name} ({way})", cells[way]["share"]))
    short = [f"{name} {100 * share:.0f}" for name, share in reached if share < aim(name.partition(" ")[0])]
    if not short:
        return "All families reach the aim: 95 % in deterministic ones, 85 % in dependent ones."
    return f"The aim is 95 % in deterministic and 85 % in dependent families. Still short of it: {', '.join(short)}."


def aim(family: str) -> float:
    """The share of right answers that a family is meant to reach."""
    return 0.85 if family in DEPENDENT else 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    (args.checkpoint / "README.md").write_text(render(args.checkpoint, json.loads(args.results.read_text())))


if __name__ == "__main__":
    main()
