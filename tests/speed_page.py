"""Writes the tables of docs/speed.md anew, from the speed.json of both toys: `make speed`. A test compares them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.checkpoint.speed import SPEED_FILE
from mlx_diffusion.cli.eval.calibrating import HEADER, test_row
from mlx_diffusion.display import levers_text, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"
TOYS = {"demo": DEMO_FOLDER, "strict": ROOT / "training" / "weights" / "strict"}
NONE, SHOWN = "not calibrated", ("positions", "loss, 90 %", "verdict")


def records() -> dict[str, Mapping[str, Any] | None]:
    """The calibration of each toy; None where it has none."""
    files = {toy: folder / SPEED_FILE for toy, folder in TOYS.items()}
    return {toy: json.loads(file.read_text()) if file.is_file() else None for toy, file in files.items()}


def tables(found: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """All of them, in Markdown."""
    return [_calibrations(found), _alone(found), *(_tests(toy, content) for toy, content in found.items())]


def _calibrations(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    rows = []
    for toy, content in found.items():
        if content is None:
            rows.append([toy, NONE, *["–"] * 6])
            continue
        reference = content["reference"]
        right = f"{100 * reference['right'] / reference['prompts']:.1f}"
        cells = [f"`{content['checkpoint']}`", content["versions"]["mlx"], str(content["plan"]["seed"])]
        cells += [str(reference["prompts"]), right, f"{content['seconds'] / 60:.0f}"]
        rows.append([toy, *cells, "; ".join(f"{mode}: {levers_text(own)}" for mode, own in content["modes"].items())])
    columns = ["checkpoint", "mlx", "seed", "prompts", "reference right %", "minutes", "levers of the modes"]
    return table(["toy", *columns], rows, markdown=True)


def _alone(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    levers: dict[str, dict[str, list[str]]] = {}
    for toy, content in found.items():
        for test in () if content is None else content["tests"]:
            if not test["mode"]:
                row = dict(zip(HEADER, test_row(test), strict=True))
                levers.setdefault(test["lever"], {})[toy] = [
                    row[name] for name in ("positions", "loss, 90 %", "verdict")
                ]
    header = [f"{toy}: {name}" for toy in found for name in SHOWN]
    rows = [[lever, *(cell for toy in found for cell in own.get(toy, ["–"] * 3))] for lever, own in levers.items()]
    return table(["alone", *header], rows, markdown=True)


def _tests(toy: str, content: Mapping[str, Any] | None) -> str:
    tests = () if content is None else content["tests"]
    rows = [test_row(test) for test in tests if test["mode"]]
    return table([f"together, {toy}", *HEADER[1:]], rows or [[NONE, *["–"] * len(HEADER[1:])]], markdown=True)


def with_tables(page: str, found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The page with every table replaced by the one of the records, found by the first cell of its header."""
    for made in tables(found):
        beginning = "|".join(made.split("|", 2)[:2]) + "|"
        place = re.search(re.escape(beginning) + r"[^\n]*(\n\|[^\n]*)*", page)
        assert place is not None, beginning
        page = page[: place.start()] + made + page[place.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), records()), "utf-8")
