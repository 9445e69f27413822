"""Writes the tables of docs/macs.md anew, from the code: `make macs`. A test compares them with what stands there."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.cli.bench.predicting import asked
from mlx_diffusion.cli.main import build_parser
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.display import table
from mlx_diffusion.fit.chips import Chip, chips_named
from mlx_diffusion.fit.kernels import Rates
from mlx_diffusion.fit.prediction import ModelShape, Pass
from mlx_diffusion.measure.speed.predictions import predict_chips, prediction_sections, step_seconds
from mlx_diffusion.measure.speed.tables import TitledTable

PAGE = Path(__file__).parent.parent / "docs" / "macs.md"
SHAPE = ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), RECIPES["4bit"])
PREFIX = 1024
SHARE_WIDTHS = (1, 8, 16, 32, 64, 128, 256)
STEP_WIDTHS = (16, 32, 64, 128, 256)
ESTIMATES = {  # milliseconds of a step, by chip and whether products are in float16; "–" where none was given
    ("M1 Ultra", True): "53 77 131 177 298",
    ("M1 Ultra", False): "65 – – – 481",
    ("M4 Pro", False): "95 – – – 579",
    ("M5 Max", False): "42 65 82 98 134",
}


def tables() -> list[str]:
    """All tables of the page, in Markdown."""
    with ProgressLine() as line:
        question = asked(build_parser().parse_args(["bench", "--predict"]), line)
    sections = prediction_sections(question, predict_chips(question))
    printed = [table(one.header, one.rows, markdown=True) for one in sections if isinstance(one, TitledTable)]
    return [*printed, share_table(), step_table()]


def share_table() -> str:
    rows = [
        [label, *(f"{reached_share(chips_named(name)[-1], width):.2f}" for width in SHARE_WIDTHS)]
        for label, name in (("M3, M4", "M4 Pro"), ("M5", "M5 Max"))
    ]
    return table(["positions", *map(str, SHARE_WIDTHS)], rows, markdown=True)


def reached_share(chip: Chip, width: int) -> float:
    """The share of a chip's arithmetic that the products of a step of this width reach while they compute."""
    products, rates = SHAPE.cost(Pass("denoise", width, PREFIX, width)).products, Rates.of(chip)
    seconds = sum(rates.seconds(product, SHAPE.item_bytes)[1] for product in products)
    return sum(product.flops for product in products) / seconds / (chip.matrix_flops or chip.flops)


def step_table() -> str:
    rows = []
    for (name, float16), estimate in ESTIMATES.items():
        chip = chips_named(name)[-1]
        label, seconds = chip.label + ", float16" * float16, step_seconds(SHAPE, chip, PREFIX, float16=float16)
        rows.append([label, *(f"{1000 * seconds[width]:.0f}" for width in STEP_WIDTHS)])
        rows.append([f"{label}, estimate", *estimate.split()])
    return table(["ms a step", *map(str, STEP_WIDTHS)], rows, markdown=True)


def with_tables(page: str) -> str:
    """The page with every table replaced by the one of today, found by the first two cells of its header."""
    for made in tables():
        beginning = "|".join(made.split("|", 3)[:3])
        found = re.search(re.escape(beginning) + r"[^\n]*(\n\|[^\n]*)*", page)
        assert found is not None, beginning
        page = page[: found.start()] + made + page[found.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
