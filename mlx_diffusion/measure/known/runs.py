"""Ways of finding what is not known, run over the same cases: how many they have right, and at what cost.

Knows nothing of how a way works inside, or of how figures are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mlx_diffusion.canvas_prompts import answer_lines, context_prompt, gaps_prompt, questions_prompt
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.events import Finish
from mlx_diffusion.filling.candidates import by_canvas, by_encoder
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.decisions import TypedQuestion, choice_of
from mlx_diffusion.filling.forms import fill
from mlx_diffusion.filling.infilling import stream_infill
from mlx_diffusion.measure.known.cases import RECORD, SLOTS, FormCase, GapCase, QuestionCase
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

BATCH = 16  # questions or forms in a pass
BINS = 10  # of probability, in a table of calibration
LONGEST_GAP = 32  # tokens of an answer's, where nobody says how long

T = TypeVar("T")
Model = tuple[DiffusionGemma, Tokenizer]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Bin:
    """Answers whose probability lies in one range."""

    answers: int
    probability: float  # the mean of what was said
    right: float  # the share that was right


@dataclass(frozen=True)
class WayFigures:
    """One way over all cases of a suite."""

    suite: str
    way: str
    right: int
    count: int
    positions: float | None  # through the layers, for each case, those of its prompt left out
    calibration: tuple[Bin, ...] = ()

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: how far, on the whole, what was said lies from what was right."""
        if not self.calibration:
            return None
        return sum(own.answers * abs(own.probability - own.right) for own in self.calibration) / self.count

    @property
    def error_by_chance(self) -> float | None:
        """The calibration error that probabilities would show by chance if they were exactly right, on the mean.

        The fewer answers there are in a bin, the further from what was said is the share that happens to be right.
        """
        if not self.calibration:
            return None
        return sum(own.answers * _mean_deviation(own.answers, own.probability) for own in self.calibration) / self.count


def _mean_deviation(count: int, probability: float) -> float:
    """The mean distance of a share of `count` from its probability: that of a binomial variable (de Moivre)."""
    if not 0 < probability < 1:
        return 0.0
    above = min(math.floor(count * probability) + 1, count)
    ways = math.lgamma(count + 1) - math.lgamma(above + 1) - math.lgamma(count - above + 1)
    log = ways + above * math.log(probability) + (count - above + 1) * math.log1p(-probability)
    return 2 * above * math.exp(log) / count


def run_gaps(model: Model, cases: Sequence[GapCase], tell: Tell, most: int = LONGEST_GAP) -> list[WayFigures]:
    """Gaps of unknown and of known length on a canvas, and written from left to right by the encoder.

    most: tokens that a gap may have, where nobody says how long it is.
    """
    ways: dict[str, Callable[[GapCase], tuple[str, int]]] = {
        "canvas, length unknown": lambda case: _infilled(model, case, most),
        "canvas, length known": lambda case: _infilled(model, case, None, len(model[1].encode_text(case.gap))),
        "left to right, behind the text before": lambda case: _continued(model, case, most),
        "left to right, the whole text": lambda case: _rewritten(model, case, most),
    }
    found = []
    for way, one in ways.items():
        right = positions = 0
        for case in _told(cases, f"infill, {way}", tell):
            gap, cost = one(case)
            right += case.is_right(gap)
            positions += cost
        found.append(WayFigures("infill", way, right, len(cases), positions / len(cases)))
    return found


def run_forms(model: Model, cases: Sequence[FormCase], tell: Tell) -> list[WayFigures]:
    """Records filled in; a record is right if all of it is."""
    right = 0
    for batch in _told(_batches(cases), "forms", tell):
        forms = fill(*model, RECORD, SLOTS, [case.context for case in batch])
        assert isinstance(forms, list)
        for case, form in zip(batch, forms, strict=True):
            right += {name: slot["value"] for name, slot in form.items()} == case.values
    return [WayFigures("forms", "fill", right, len(cases), None)]


def run_questions(model: Model, cases: Sequence[QuestionCase], tell: Tell) -> list[WayFigures]:
    """Questions decided by the encoder and by canvases, and answered in writing."""
    canvases = Canvases.of(*model, GenerationConfig(), None)
    asked = [TypedQuestion.read("question", case.question) for case in cases]
    choices = [choice_of(canvases, case.state, own) for case, own in zip(cases, asked, strict=True)]
    found = []
    for way, passes in (("encoder", 0), ("canvas, 1 pass", 1), ("canvas, 2 passes", 2), ("canvas, 3 passes", 3)):
        trials, said = list[Trial](), list[np.ndarray]()
        for batch in _told(_batches(choices), f"decisions, {way}", tell):
            said += by_canvas(canvases, batch, passes, 1, trials) if passes else by_encoder(canvases, batch, trials)
        cost = sum(trial.decoder_positions + trial.judged_positions for trial in trials)
        hits = [int(own.argmax()) == case.true for own, case in zip(said, cases, strict=True)]
        bins = _bins([float(own.max()) for own in said], hits)
        found.append(WayFigures("decisions", way, sum(hits), len(cases), cost / len(cases), bins))
    right = positions = 0
    for case, own in zip(_told(cases, "decisions, in writing", tell), asked, strict=True):
        prompt = canvases.prompt(questions_prompt(case.state, [(own.text, own.shown)]))
        text, cost = _written(model, prompt, "reference", LONGEST_GAP)
        right += text.strip() == answer_lines([case.answers[case.true]])
        positions += cost
    return [*found, WayFigures("decisions", "in writing", right, len(cases), positions / len(cases))]


def _infilled(model: Model, case: GapCase, most: int | None, known: int | None = None) -> tuple[str, int]:
    text, cost = "", 0
    for event in stream_infill(
        *model, case.before, case.after, context=case.context, gap_tokens=known, max_tokens=most
    ):
        text += event.text
        if isinstance(event, Finish):
            cost = event.stats.decoder_positions
    return text, cost


def _continued(model: Model, case: GapCase, most: int) -> tuple[str, int]:
    """The text before the gap stands as written; what follows is cut where the text behind it begins."""
    canvases = Canvases.of(*model, GenerationConfig(), None)
    said = context_prompt(case.context) if case.context else gaps_prompt([case.before, case.after])
    prompt = (*canvases.prompt(said), *canvases.tokenizer.encode_text(case.before))
    behind = len(canvases.tokenizer.encode_text(case.after))
    text, cost = _written(model, prompt, "speculative", most + behind)
    if text.endswith(case.after):
        return text[: len(text) - len(case.after)], cost
    return text.partition(case.after[:10])[0] if case.after else text, cost


def _rewritten(model: Model, case: GapCase, most: int) -> tuple[str, int]:
    """The whole text is asked for, with its gap in the prompt; what is not the text given is what filled it."""
    canvases = Canvases.of(*model, GenerationConfig(), None)
    prompt = canvases.prompt(gaps_prompt([case.before, case.after], case.context))
    known = len(canvases.tokenizer.encode_text(case.before + case.after))
    text, cost = _written(model, prompt, "speculative", most + known)
    return text.removeprefix(case.before).removesuffix(case.after), cost


def _written(model: Model, prompt: Sequence[int], mode: str, most: int) -> tuple[str, int]:
    """What the model writes behind a prompt, and the positions that went through its layers for it."""
    own, tokenizer = model
    config = GenerationConfig(max_tokens=most, mode="speculative" if mode == "speculative" else "reference")
    request = Request(tuple(prompt), own.generation_defaults.resolve(config), SeededDraws.of(0, own.config.vocab_size))
    text, cost = "", 0
    for event in run(own, tokenizer, [request]):
        text += event.text
        if isinstance(event, Finish):
            stats = event.stats
            cost = stats.decoder_positions + stats.encoder_positions - (stats.prompt_tokens - stats.cached_tokens)
    return text, cost


def _bins(said: Sequence[float], right: Sequence[bool]) -> tuple[Bin, ...]:
    """Answers by the probability that was said of them, in ranges of equal width; empty ones are left out."""
    probabilities, truth = np.array(said), np.array(right)
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(int((number == own).sum()), float(probabilities[number == own].mean()), float(truth[number == own].mean()))
        for own in range(BINS)
        if (number == own).any()
    )


def _batches(cases: Sequence[T]) -> list[Sequence[T]]:
    return [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]


def _told(cases: Sequence[T], what: str, tell: Tell) -> Iterable[T]:
    for number, case in enumerate(cases, start=1):
        tell(f"{what}: {number} of {len(cases)}")
        yield case
