"""The published results say what was measured, and of the weights that are bundled."""

import json
from pathlib import Path

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.measure.answers.document import page
from mlx_diffusion.measure.answers.identity import fingerprint
from mlx_diffusion.measure.answers.recipe_costs import CostReport
from mlx_diffusion.measure.answers.record import Evaluation

DOCS = Path(__file__).parent.parent / "docs"
RECORD = Evaluation.read(DOCS / "quality.json")


def test_the_page_is_what_the_record_gives() -> None:
    assert (DOCS / "quality.md").read_text() == page(RECORD, "quality.json", "quality.svg")


def test_the_recipes_page_is_what_its_file_gives() -> None:
    report = CostReport.from_dict(json.loads((DOCS / "recipes.json").read_text()))
    assert (DOCS / "recipes.md").read_text() == report.page("recipes.json")
    assert report.header["checkpoint"] == fingerprint(DEMO_FOLDER), "the weights changed: run make quality"


def test_the_record_is_the_bundled_checkpoint_s() -> None:
    assert RECORD.header["checkpoint"] == fingerprint(DEMO_FOLDER), "the weights changed: run make quality"
