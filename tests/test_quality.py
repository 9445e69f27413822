"""The published results say what was measured, and of the weights that are bundled."""

from pathlib import Path

import modes_page
import pytest
import speed_page

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.checkpoint.speed import read_speed
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.markdown_page import markdown_page
from mlx_diffusion.measure.answers.recipe_costs import CostReport
from mlx_diffusion.modes import SAFE_LEVERS

DOCS = Path(__file__).parent.parent / "docs"
RECORD = Evaluation.read(DOCS / "quality.json")


def test_the_page_is_what_the_record_gives() -> None:
    assert (DOCS / "quality.md").read_text() == markdown_page(RECORD, "quality.json", "quality.svg")


def test_the_page_of_the_ways_of_writing_is_what_its_record_gives() -> None:
    page = modes_page.PAGE.read_text("utf-8")
    assert modes_page.with_tables(page) == page, "run: python tests/modes_page.py"


def test_the_page_of_speed_is_what_the_calibrations_give() -> None:
    page = speed_page.PAGE.read_text("utf-8")
    assert speed_page.with_tables(page, speed_page.records()) == page, "run: python tests/speed_page.py"


@pytest.mark.parametrize("folder", speed_page.TOYS.values(), ids=list(speed_page.TOYS))
def test_a_toy_that_is_calibrated_is_the_one_that_was(folder: Path) -> None:
    levers = read_speed(folder)  # raises for a file of other weights: run make speed
    assert levers is None or levers.keys() == SAFE_LEVERS.keys()


def test_the_recipes_page_is_what_its_file_gives() -> None:
    report = CostReport.read(DOCS / "recipes.json")
    assert (DOCS / "recipes.md").read_text() == report.page("recipes.json")
    assert report.header["checkpoint"] == fingerprint(DEMO_FOLDER), "the weights changed: run make quality"


def test_the_records_are_the_bundled_checkpoint_s() -> None:
    assert RECORD.header["checkpoint"] == fingerprint(DEMO_FOLDER), "the weights changed: run make quality"
    for file in (modes_page.RECORD, modes_page.DRAFTS, modes_page.ROUNDS[0]):
        assert Evaluation.read(file).header["checkpoint"] == fingerprint(DEMO_FOLDER), (
            "the weights changed: run make modes"
        )
