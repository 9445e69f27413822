"""Writes the tables of docs/modes.md anew, from docs/modes.json and drafts.json: `make modes`.

A test compares them with the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from mlx_diffusion.display import table
from mlx_diffusion.fit.chips import LABELS
from mlx_diffusion.measure.answers.evaluation import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.figures import Figures, family_figures
from mlx_diffusion.measure.answers.predicted_speed import predicted_speeds
from mlx_diffusion.measure.answers.tables import accuracy_text, figure
from mlx_diffusion.measure.tasks import DEPENDENT, DETERMINISTIC

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RECORD, DRAFTS = DOCS / "modes.md", DOCS / "modes.json", DOCS / "drafts.json"
WAYS = {  # what the page calls them, and what the record does
    "denoised": "reference",
    "plain": "autoregressive temperature=0",
    "plain, sampled": "autoregressive temperature=1",
    "drafted": "speculative temperature=0",
    "drafted, sampled": "speculative temperature=1",
}
MIXED = {  # greedy where one answer is right, sampled where several are
    "plain, sampled where several answers are right": ("plain", "plain, sampled"),
    "drafted, sampled where several answers are right": ("drafted", "drafted, sampled"),
}


class DraftsPage:
    """The tables of drafts that were planned for chips, each priced on its own."""

    def __init__(self, record: Evaluation) -> None:
        self.record = record
        plain, drafted = "autoregressive", {label: f"speculative:{label}" for label in LABELS}
        self.plain = record.labels.index(plain)
        self.drafted = {chip: record.labels.index(label) for chip, label in drafted.items()}
        self._predicted = cache(self._predict)  # two tables ask for each

    def tables(self) -> list[str]:
        """All of them, in Markdown."""
        groups = {family: [family] for family in self.record.families}
        groups |= {"*determined*": list(DETERMINISTIC), "*all*": self.record.families}
        speeds = [[group, *self._speeds(families)] for group, families in groups.items()]
        passes = [[group, *self._passes(families)] for group, families in groups.items()]
        return [
            record_table(self.record, "drafts"),
            table(
                ["tokens/second", *(f"{way}, {chip}" for chip in LABELS for way in ("plain", "drafted"))], speeds, True
            ),
            table(
                ["drafted", *(f"{what}, {chip}" for chip in LABELS for what in ("speed-up", "passes/token"))],
                passes,
                True,
            ),
        ]

    def _speeds(self, families: Sequence[str]) -> list[str]:
        return [f"{speed:.0f}" for chip in LABELS for speed in self._of_chip(families, chip)]

    def _passes(self, families: Sequence[str]) -> list[str]:
        cells = []
        for chip in LABELS:
            plain, drafted = self._of_chip(families, chip)
            found = Figures.of(self._outcomes(self.drafted[chip], families), 0.0, self.record.canvas_length)
            cells += [f"{drafted / plain:.2f}", figure(found.passes_per_token, 2)]
        return cells

    def _of_chip(self, families: Sequence[str], chip: str) -> tuple[float, float]:
        """Predicted tokens a second of plain and of drafted writing."""
        plain, drafted = (self._predicted(variant, tuple(families)) for variant in (self.plain, self.drafted[chip]))
        return plain[chip], drafted[chip]

    def _predict(self, variant: int, families: tuple[str, ...]) -> dict[str, float]:
        """Predicted tokens a second, by chip."""
        speeds = predicted_speeds(self._outcomes(variant, families), self.record.canvas_length)
        assert speeds is not None
        return speeds

    def _outcomes(self, variant: int, families: Sequence[str]) -> list[PromptOutcome]:
        return [outcome for family in families for outcome in self.record.cells[variant, family].outcomes]


def record_table(record: Evaluation, name: str) -> str:
    """What was measured: of which weights, on which prompts."""
    head, plan = record.header, record.plan
    prompts = sum(family["prompts"] for family in plan["families"].values())
    cells = [head["model"], f"`{head['checkpoint']}`", str(prompts), str(plan["seed"]), head["device"]]
    return table([name, "checkpoint", "prompts", "seed", "device"], [cells], markdown=True)


class Page:
    """The tables of one record."""

    def __init__(self, record: Evaluation) -> None:
        self.record = record
        self.numbers = {way: record.labels.index(label) for way, label in WAYS.items()}

    def tables(self) -> list[str]:
        """All of them, in Markdown."""
        return [record_table(self.record, "record"), self._overall(), self._accuracy(), self._cost(), self._speed()]

    def _overall(self) -> str:
        rows = []
        for way in (*WAYS, *MIXED):
            outcomes = [outcome for family in self.record.families for outcome in self._outcomes(way, family)]
            found = Figures.of(outcomes, 0.0, self.record.canvas_length)
            cells = [accuracy_text(found), str(found.tokens), figure(found.passes_per_token, 2)]
            cells += [f"{found.positions_per_token:.1f}", figure(found.accepted_per_round, 2)]
            rows.append([way, *cells, *self._speeds(outcomes)])
        columns = ["right % (95 % interval)", "tokens", "passes/token", "positions/token", "accepted/round"]
        return table(["way", *columns, *LABELS], rows, markdown=True)

    def _accuracy(self) -> str:
        return self._by_family("right %", ("denoised", "plain", "plain, sampled", "drafted"), accuracy_text)

    def _cost(self) -> str:
        passes = self._cells(("denoised", "plain", "drafted"), lambda found: figure(found.passes_per_token, 2))
        accepted = self._cells(("drafted", "drafted, sampled"), lambda found: figure(found.accepted_per_round, 2))
        rows = [[family, *passes[family], *accepted[family]] for family in self.record.families]
        header = ["passes/token", "denoised", "plain", "drafted", "accepted/round, drafted", "and sampled"]
        return table(header, rows, markdown=True)

    def _speed(self) -> str:
        ways = ("denoised", "plain", "drafted")
        rows = [
            [family, *(cell for way in ways for cell in self._speeds(self._outcomes(way, family)))]
            for family in self.record.families
        ]
        return table(["predicted", *(f"{way}, {chip}" for way in ways for chip in LABELS)], rows, markdown=True)

    def _by_family(self, title: str, ways: Sequence[str], cell: Callable[[Figures], str]) -> str:
        rows = [[family, *cells] for family, cells in self._cells(ways, cell).items()]
        return table([title, *ways], rows, markdown=True)

    def _cells(self, ways: Sequence[str], cell: Callable[[Figures], str]) -> dict[str, list[str]]:
        return {
            family: [cell(family_figures(self.record, self.numbers[way], family)) for way in ways]
            for family in self.record.families
        }

    def _speeds(self, outcomes: Sequence[PromptOutcome]) -> list[str]:
        speeds = predicted_speeds(outcomes, self.record.canvas_length)
        return ["–"] * len(LABELS) if speeds is None else [f"{speed:.0f}" for speed in speeds.values()]

    def _outcomes(self, way: str, family: str) -> Sequence[PromptOutcome]:
        if way in MIXED:
            way = MIXED[way][family in DEPENDENT]
        return self.record.cells[self.numbers[way], family].outcomes


def with_tables(page: str) -> str:
    """The page with every table replaced by the one of its record, found by the first two cells of its header."""
    for made in (*Page(Evaluation.read(RECORD)).tables(), *DraftsPage(Evaluation.read(DRAFTS)).tables()):
        beginning = "|".join(made.split("|", 3)[:3])
        found = re.search(re.escape(beginning) + r"[^\n]*(\n\|[^\n]*)*", page)
        assert found is not None, beginning
        page = page[: found.start()] + made + page[found.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
