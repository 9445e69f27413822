"""Writes the tables of docs/modes.md anew, from docs/modes.json, drafts*.json and rounds*.json: `make modes`.

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
from mlx_diffusion.measure.passes import count_rounds
from mlx_diffusion.measure.tasks import DEPENDENT, DETERMINISTIC

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RECORD = DOCS / "modes.md", DOCS / "modes.json"
DRAFTS, STRICT = DOCS / "drafts.json", DOCS / "drafts-strict.json"
ROUNDS = (DOCS / "rounds.json", DOCS / "rounds-strict.json")
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
    """The tables of drafts that were planned for chips, each priced on its own, and of drafts of one width."""

    def __init__(self, bundled: Evaluation, strict: Evaluation, rounds: Sequence[Evaluation]) -> None:
        self.bundled, self.strict, self.rounds = bundled, strict, rounds
        groups = {family: [family] for family in bundled.families}
        self.groups = groups | {"*determined*": list(DETERMINISTIC), "*all*": bundled.families}
        self._predicted = cache(self._predict)  # two tables ask for each

    def tables(self) -> list[str]:
        """All of them, in Markdown."""
        speeds = [f"{way}, {chip}" for chip in LABELS for way in ("plain", "drafted")]
        gains = [f"{what}, {chip}" for what in ("speed-up", "passes/token", "strict: speed-up") for chip in LABELS]
        columns = [f"{what}, {toy_of(record)}" for record in self.rounds for what in ("rounds/answer", "tokens/round")]
        return [
            record_table("drafts", self.bundled, self.strict),
            self._table("tokens/second", speeds, self._speeds),
            self._table("drafted", gains, self._gains),
            self._table("one width", columns, self._rounds),
        ]

    def _table(self, title: str, columns: Sequence[str], cells: Callable[[Sequence[str]], Sequence[str]]) -> str:
        """A row for each family, and for all that are determined, and for all."""
        rows = [[group, *cells(families)] for group, families in self.groups.items()]
        return table([title, *columns], rows, markdown=True)

    def _speeds(self, families: Sequence[str]) -> list[str]:
        return [f"{speed:.0f}" for chip in LABELS for speed in self._both_speeds(self.bundled, families, chip)]

    def _gains(self, families: Sequence[str]) -> list[str]:
        gains = [
            drafted / plain
            for record in (self.bundled, self.strict)
            for plain, drafted in (self._both_speeds(record, families, chip) for chip in LABELS)
        ]
        passes = [
            figure(Figures.of(outcomes, 0.0, self.bundled.canvas_length).passes_per_token, 2)
            for outcomes in (outcomes_of(self.bundled, f"speculative:{chip}", families) for chip in LABELS)
        ]
        cells = [f"{gain:.2f}" for gain in gains]
        return cells[: len(LABELS)] + passes + cells[len(LABELS) :]

    def _both_speeds(self, record: Evaluation, families: Sequence[str], chip: str) -> tuple[float, float]:
        """Predicted tokens a second on a chip, of plain writing and of drafts that were planned for it."""
        plain, drafted = (
            self._predicted(record is self.strict, label, tuple(families))[chip]
            for label in ("autoregressive", f"speculative:{chip}")
        )
        return plain, drafted

    def _predict(self, is_strict: bool, label: str, families: tuple[str, ...]) -> dict[str, float]:
        """Predicted tokens a second, by chip."""
        record = self.strict if is_strict else self.bundled
        speeds = predicted_speeds(outcomes_of(record, label, families), record.canvas_length)
        assert speeds is not None
        return speeds

    def _rounds(self, families: Sequence[str]) -> list[str]:
        cells = []
        for record in self.rounds:
            outcomes = outcomes_of(record, record.labels[0], families)
            rounds = sum(count_rounds(outcome.all_work(record.canvas_length)) for outcome in outcomes)
            tokens = sum(outcome.tokens - 1 for outcome in outcomes)  # the first one comes with the prompt
            cells += [f"{rounds / len(outcomes):.2f}", f"{tokens / rounds:.2f}"]
        return cells


def outcomes_of(record: Evaluation, label: str, families: Sequence[str]) -> list[PromptOutcome]:
    """What one way made of the prompts of some families."""
    variant = record.labels.index(label)
    return [outcome for family in families for outcome in record.cells[variant, family].outcomes]


def toy_of(record: Evaluation) -> str:
    """The name of a checkpoint, without its folders."""
    return Path(record.header["model"]).name


def record_table(name: str, *records: Evaluation) -> str:
    """What was measured: of which weights, on which prompts."""
    rows = []
    for record in records:
        head, plan = record.header, record.plan
        prompts = sum(family["prompts"] for family in plan["families"].values())
        rows.append([toy_of(record), f"`{head['checkpoint']}`", str(prompts), str(plan["seed"]), head["device"]])
    return table([name, "checkpoint", "prompts", "seed", "device"], rows, markdown=True)


class Page:
    """The tables of one record."""

    def __init__(self, record: Evaluation) -> None:
        self.record = record
        self.numbers = {way: record.labels.index(label) for way, label in WAYS.items()}

    def tables(self) -> list[str]:
        """All of them, in Markdown."""
        return [record_table("record", self.record), self._overall(), self._accuracy(), self._cost(), self._speed()]

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
    drafts = DraftsPage(Evaluation.read(DRAFTS), Evaluation.read(STRICT), [Evaluation.read(file) for file in ROUNDS])
    for made in (*Page(Evaluation.read(RECORD)).tables(), *drafts.tables()):
        beginning = "|".join(made.split("|", 3)[:3])
        found = re.search(re.escape(beginning) + r"[^\n]*(\n\|[^\n]*)*", page)
        assert found is not None, beginning
        page = page[: found.start()] + made + page[found.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
