"""What a checkpoint loses in other recipes than named ones, as a share of what it loses in those.

    python tests/budget_shares.py FOLDER 4bit=OUT/recipe.json 2bit=OTHER/recipe.json

prints the Kullback-Leibler divergence at the logits, in nats a position, of each named recipe and of the one beside it,
and the second over the first: of converged, half random and random canvases and of the encoder, on 48 prompts that the
toys have not seen, all positions counted. --left-out 1 leaves out the per cent that diverge most.
"""

from __future__ import annotations

import argparse
from random import Random

from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipe_files import find_recipe
from mlx_diffusion.convert.budget import formats_of
from mlx_diffusion.display import table
from mlx_diffusion.measure.probe import KINDS
from mlx_diffusion.measure.sensitivity import Change, LossMeter
from mlx_diffusion.measure.tasks import FAMILIES, draw


def held_out(count: int, seed: int) -> list[str]:
    """So many different prompts of one message and nothing beside it, of all families in turn."""
    rng, found = Random(seed), dict[str, None]()
    while len(found) < count:
        for family in FAMILIES.values():
            task = draw(family, rng, "held_out")
            if len(task.messages) == 1 and not task.tools and task.thought is None:
                found[task.messages[0]["content"]] = None
    texts = list(found)
    rng.shuffle(texts)
    return texts[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("pairs", nargs="+", metavar="NAME=RECIPE")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=404)
    parser.add_argument("--left-out", type=int, default=0)
    arguments = parser.parse_args()
    for pair in arguments.pairs:
        if "=" not in pair:
            parser.error(f"{pair} is no NAME=RECIPE")
    checkpoint = Checkpoint.open_source(find_folder(arguments.folder, None))
    tensors = [one.tensor for one in checkpoint.sources]
    meter = LossMeter.of(
        checkpoint, lambda share, label: None, held_out(arguments.count, arguments.seed), arguments.left_out
    )
    names = [name for pair in arguments.pairs for name in pair.split("=", 1)]
    changes = [Change(formats_of(apply_recipe(tensors, find_recipe(name)))) for name in names]
    losses = meter.losses(changes, lambda share, label: None)
    rows = []
    for name, named, other in zip(names[::2], losses[::2], losses[1::2], strict=True):
        for kind, before, after in zip(KINDS, named, other, strict=True):
            rows.append([name, kind, f"{before:.2e}", f"{after:.2e}", f"{after / before:.2f}"])
    print(table(["recipe", "logits", "named", "other", "share"], rows))


if __name__ == "__main__":
    main()
