"""The search for the levers that hold on a checkpoint: each alone, then one after the other together.

A lever is tried beside the reference on the same prompts with the same seeds, and together with those that have been
taken before, so that what a mode may lose is the loss of all its levers. Knows nothing of models, files or terminals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mlx_diffusion.checkpoint.speed import Levers
from mlx_diffusion.engine.levers import rounded_width
from mlx_diffusion.measure.answers.calibration_runs import Drawn, Judged
from mlx_diffusion.measure.answers.sequential import LEVEL, Pairs
from mlx_diffusion.measure.answers.statistics import sign_test
from mlx_diffusion.modes import SAFE_LEVERS, Mode

Verdict = Literal["holds", "likely", "open", "costs", "saves nothing"]
TAKEN: tuple[Verdict, ...] = ("holds", "likely")
ALONE = 160  # pairs at most for a lever by itself, which is only to show what cannot hold
FIRST_LOOK = 64  # pairs before a lever can be said to save nothing
LEAST_SAVED = 0.015  # of positions


@dataclass(frozen=True)
class Allowance:
    """What a mode may lose of right answers, as shares: over all families, and in any of them."""

    overall: float
    family: float | None = None


ALLOWANCES: Mapping[Mode, Allowance] = {"balanced": Allowance(0.005, 0.01), "fast": Allowance(0.02)}


@dataclass(frozen=True)
class Lever:
    """A lever of the table, with its options in each mode."""

    name: str
    options: Mapping[Mode, Levers]


@dataclass(frozen=True)
class Tested:
    """What became of one test: of a lever by itself (mode ""), or together with those that a mode has already."""

    lever: str
    mode: str
    levers: Levers
    verdict: Verdict
    prompts: int
    right: tuple[int, int]  # of the reference, and with the levers
    gained: int
    lost: int
    low: float  # of the mean loss, at the level of the tests, whenever they stop
    high: float
    positions: float  # as a share of the reference's
    families: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # prompts, gained, lost


class PairedAnswers(Protocol):
    """The answers to prompts in their order, with levers."""

    @property
    def prompts(self) -> Sequence[Drawn]: ...

    @property
    def batch_size(self) -> int: ...

    def judged(self, levers: Levers, count: int) -> list[Judged]: ...


def lever_table(canvas_length: int, steps: int) -> list[Lever]:
    """The levers in the order in which they are tried, for canvases of that length and so many steps at most."""

    def both(name: str, levers: Levers) -> Lever:
        return Lever(name, {"balanced": levers, "fast": levers})

    levers = [Lever("early end", {"balanced": {"early_end": 0.99}, "fast": {"early_end": 0.95}})]
    if steps > 16:
        levers.append(both("schedule", {"max_denoising_steps": 16}))
    levers.append(both("locks", {"lock_threshold": 0.9, "refresh_every": 4}))
    levers.append(both("crop", {"crop_threshold": 0.9}))
    third = rounded_width(-(-canvas_length // 3), canvas_length)
    return levers if third == canvas_length else [*levers, both("first canvas", {"first_canvas": third})]


@dataclass
class Search:
    """A search under way; `tested` grows in the order of the tests, `modes` has what each mode is given.

    A mode is given what holds or is likely to; and of the levers that held on other checkpoints, those of which the
    test could not tell.
    """

    answers: PairedAnswers
    most: int  # pairs of a test
    told: Callable[[Tested], None] = lambda tested: None
    tested: list[Tested] = field(default_factory=list)
    modes: dict[Mode, dict[str, float]] = field(default_factory=dict)

    def run(self, table: Sequence[Lever]) -> None:
        """Try every lever alone, then those that may hold in each mode in turn."""
        possible = []
        for lever in table:
            alone = self._test(lever.name, "", lever.options["balanced"], {}, ALLOWANCES["fast"], ALONE)
            if alone.verdict != "costs":
                possible.append(lever)
        taken: dict[str, float] = {}
        for mode, allowance in ALLOWANCES.items():
            for lever in possible:
                own = lever.options[mode]
                if any(name not in taken or taken[name] != value for name, value in own.items()):
                    found = self._test(lever.name, mode, {**taken, **own}, taken, allowance, self.most)
                    if found.verdict in TAKEN or (own == SAFE_LEVERS[mode] and _may_stay(found, allowance)):
                        taken = {**taken, **own}
            self.modes[mode] = dict(taken)

    def _test(self, lever: str, mode: str, levers: Levers, base: Levers, allowance: Allowance, most: int) -> Tested:
        """Look at more and more prompts until the verdict is sure; base: what the lever must save something beside."""
        step, count = self.answers.batch_size, 0
        most = min(most, len(self.answers.prompts))
        verdict: Verdict | None = None
        while verdict is None:
            count = min(count + step, most)
            own, reference = self.answers.judged(levers, count), self.answers.judged({}, count)
            pairs = _pairs(reference, own)
            by_family = self._by_family(reference, own)
            verdict = _verdict(pairs, by_family, allowance)
            if verdict is None and count >= FIRST_LOOK:
                looked = min(count, 2 * FIRST_LOOK)
                beside = self.answers.judged(base, looked)
                saved = 1 - _positions(own[:looked]) / _positions(beside)
                verdict = "saves nothing" if saved < LEAST_SAVED else None
            at_best = Pairs(most, pairs.gained, pairs.lost)  # if all that follow are answered alike
            within = at_best.is_below_at_last(allowance.overall)
            hopeless = mode != "" and not within and levers not in SAFE_LEVERS.values()
            if verdict is None and (count == most or hopeless):
                verdict = "likely" if within and not _worse(by_family, allowance) else "open"
        low, high = pairs.interval()
        right = (sum(one.right for one in reference), sum(one.right for one in own))
        share = _positions(own) / _positions(reference)
        found = {family: (one.count, one.gained, one.lost) for family, one in by_family.items()}
        tested = Tested(lever, mode, levers, verdict, count, right, pairs.gained, pairs.lost, low, high, share, found)
        self.tested.append(tested)
        self.told(tested)
        return tested

    def _by_family(self, reference: Sequence[Judged], own: Sequence[Judged]) -> dict[str, Pairs]:
        places: dict[str, list[int]] = {}
        for place, drawn in enumerate(self.answers.prompts[: len(own)]):
            places.setdefault(drawn.family, []).append(place)
        return {
            family: _pairs([reference[place] for place in mine], [own[place] for place in mine])
            for family, mine in sorted(places.items())
        }


def _verdict(pairs: Pairs, families: Mapping[str, Pairs], allowance: Allowance) -> Verdict | None:
    """What is sure by now; over all families together, their tests err as seldom as the one over all prompts."""
    if pairs.is_above(allowance.overall):
        return "costs"
    level = LEVEL / max(len(families), 1)
    if allowance.family is not None and any(one.is_above(allowance.family, level) for one in families.values()):
        return "costs"
    return "holds" if pairs.is_below(allowance.overall) and not _worse(families, allowance) else None


def _may_stay(found: Tested, allowance: Allowance) -> bool:
    """Whether a lever that held on other checkpoints may stay, since nothing here speaks against it."""
    return found.verdict == "open" and found.lost - found.gained <= allowance.overall * found.prompts


def _worse(families: Mapping[str, Pairs], allowance: Allowance) -> bool:
    """Whether some family seems to lose more than it may: more losses than gains by a one-sided test at the level."""
    return allowance.family is not None and any(
        one.loss > allowance.family and sign_test(one.gained, one.lost) / 2 < LEVEL for one in families.values()
    )


def _pairs(reference: Sequence[Judged], own: Sequence[Judged]) -> Pairs:
    both = Counter((one.right, other.right) for one, other in zip(reference, own, strict=True))
    return Pairs(len(own), both[False, True], both[True, False])


def _positions(judged: Sequence[Judged]) -> int:
    return sum(one.positions for one in judged)
