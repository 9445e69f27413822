"""Questions about a state, answered without writing: what most callers of `decide` need.

Questions and answers have the form that servers of `/v1/systemone` share: a yes-or-no question ("noul") is answered by
the probability of yes, a choice by the probabilities of its labels, a score by those of its levels. Knows nothing of
how they are read off a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np

from mlx_diffusion.canvas_prompts import answer_lines, questions_prompt
from mlx_diffusion.display import count_of
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.filling.candidates import Candidates, by_canvas, by_encoder, check_different
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_checks import check_integer
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

Method = Literal["canvas", "encoder"]
METHODS: tuple[Method, ...] = ("canvas", "encoder")
MOST_QUESTIONS, MOST_CHOICES, MOST_PASSES, MOST_SAMPLES = 64, 255, 3, 64
_FIELDS = {"type", "instructions", "criteria"}


@dataclass(frozen=True)
class TypedQuestion:
    """One question, as it is asked: what may be answered, and how each of that is shown."""

    kind: Literal["noul", "choice", "score"]
    text: str
    answers: tuple[str, ...]
    meanings: tuple[str | None, ...]

    @classmethod
    def read(cls, name: object, given: object) -> TypedQuestion:
        """A question of the shared form. Raises `OptionError`, which names it."""
        where = f"question {name!r}"
        if not isinstance(name, str) or not isinstance(given, Mapping):
            raise OptionError(f'{where} is {given!r}; write it as {{"type": …, "instructions": …, "criteria": …}}')
        unknown = sorted(map(repr, given.keys() - _FIELDS))
        if unknown:
            raise OptionError(f"{where} has {unknown[0]}; it may have {', '.join(sorted(_FIELDS))}")
        kind, criteria = given.get("type"), given.get("criteria")
        if "instructions" not in given:
            raise OptionError(f"{where} has no instructions; write what is asked")
        text = text_of(given["instructions"], f"the instructions of {where}")
        if kind == "noul":
            return cls("noul", text, ("yes", "no"), _truths(criteria, where))
        if kind == "choice":
            answers, meanings = _labels(criteria, where)
            return cls("choice", text, answers, meanings)
        if kind == "score":
            levels = _levels(criteria, where)
            return cls("score", text, tuple(map(str, range(len(levels)))), levels)
        raise OptionError(f"{where} is of type {kind!r}; the types are noul, choice, score")

    @property
    def shown(self) -> tuple[str, ...]:
        """The answers as the prompt names them."""
        pairs = zip(self.answers, self.meanings, strict=True)
        return tuple(answer if meaning is None else f"{answer}: {meaning}" for answer, meaning in pairs)

    def answered(self, probabilities: np.ndarray) -> dict[str, Any]:
        """The answer in the shared form: what is said of each of the answers, float [answers]."""
        found = [float(own) for own in probabilities]
        if self.kind == "noul":
            return {"type": "noul", "noul": found[0]}
        said = {"probabilities": dict(zip(self.answers, found, strict=True)), "confidence": confidence(probabilities)}
        if self.kind == "choice":
            return {"type": "choice", "choice": self.answers[int(np.argmax(found))], **said}
        legend = dict(zip(self.answers, self.meanings, strict=True))
        return {"type": "score", "score": float(np.dot(found, range(len(found)))), "legend": legend, **said}


def decide(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    state: Any,
    questions: Mapping[str, Mapping[str, Any]],
    *,
    method: Method = "encoder",
    passes: int = 1,
    samples: int = 1,
    config: GenerationConfig | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> dict[str, dict[str, Any]]:
    """Answer questions about a state by what the model says of their answers; nothing is written.

    state      what is asked about: text, or anything that JSON can hold
    questions  by name, up to 64, each a dict of `type`, `instructions` and `criteria`: "noul" (yes or no; criteria may
               say what `true` and `false` mean), "choice" (criteria: labels, or labels with what they mean), "score"
               (criteria: what the levels mean, from the lowest on)
    method     "encoder" reads the causal probability of each answer, "canvas" a short canvas for each question
    passes     over a canvas, 1 to 3
    samples    canvases with different noise whose probabilities are averaged, 1 to 64
    config, options  as in `stream_generate`: the seed, for instance
    prefixes   a `PrefixStore` of this model: what it has kept is not encoded again

    Returns an answer for each name: a noul has `noul`, the probability of yes; a choice `choice`, `probabilities` and
    `confidence`, 1 − H / ln K of its K probabilities' entropy H; a score has `score`, the mean level, `legend`,
    `probabilities` and `confidence`. Raises `OptionError` and `PromptError` before any work is done.
    """
    if method not in METHODS:
        raise OptionError(f"method is {method!r}; it must be one of: {', '.join(METHODS)}")
    check_integer("passes", passes, 1, MOST_PASSES)
    check_integer("samples", samples, 1, MOST_SAMPLES)
    if not isinstance(questions, Mapping) or not 1 <= len(questions) <= MOST_QUESTIONS:
        raise OptionError(f"questions must be a dict of 1 to {MOST_QUESTIONS}, by name")
    asked = {name: TypedQuestion.read(name, given) for name, given in questions.items()}
    canvases = Canvases.of(model, tokenizer, (config or GenerationConfig()).override(options), prefixes)
    described = text_of(state, "the state")
    for name, question in asked.items():
        check_different(tokenizer, question.answers, f"question {name!r}")
    choices = [choice_of(canvases, described, question) for question in asked.values()]
    found = by_canvas(canvases, choices, passes, samples) if method == "canvas" else by_encoder(canvases, choices)
    return {name: question.answered(own) for (name, question), own in zip(asked.items(), found, strict=True)}


def choice_of(canvases: Canvases, state: str, question: TypedQuestion) -> Candidates:
    """A question as texts of which one is the model's whole answer."""
    prompt = canvases.prompt(questions_prompt(state, [(question.text, question.shown)]))
    ends = () if canvases.stop is None else (canvases.stop,)
    texts = [(*canvases.tokenizer.encode_text(answer_lines([answer])), *ends) for answer in question.answers]
    return Candidates(prompt, tuple(texts))


def confidence(probabilities: np.ndarray) -> float:
    """1 − H / ln K: 1 where one of K answers has all the probability, 0 where all are as likely."""
    p = np.asarray(probabilities, np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum()
    return float(np.clip(1 - entropy / np.log(len(p)), 0, 1))


def text_of(given: Any, what: str) -> str:
    """Text as it is, anything else as JSON. Raises `PromptError`."""
    if isinstance(given, str):
        text = given
    else:
        try:
            text = json.dumps(given, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError(f"{what} can be no JSON ({error}); pass text, or what JSON can hold") from None
    if not text.strip():
        raise PromptError(f"{what} is empty; write something")
    return text


def _truths(criteria: object, where: str) -> tuple[str | None, str | None]:
    if criteria is None:
        return None, None
    if not isinstance(criteria, Mapping) or not criteria.keys() <= {"true", "false", True, False}:
        raise OptionError(f'the criteria of {where} are {criteria!r}; write {{"true": …, "false": …}}, or none')
    yes, no = (criteria.get(word, criteria.get(word == "true")) for word in ("true", "false"))
    return _meaning(yes, where), _meaning(no, where)


def _labels(criteria: object, where: str) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    if not isinstance(criteria, Mapping | list | tuple):
        raise OptionError(f"{where} has no choices; write its criteria as labels, or labels with what they mean")
    labels = tuple(criteria)
    for label in labels:
        if not isinstance(label, str) or not label.strip() or "\n" in label:
            raise OptionError(f"{where} has the choice {label!r}; each must be text of one line")
    _check_count(labels, where, "choice")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise OptionError(f"{where} has the choice {twice!r} twice; leave one of them out")
    meanings = [criteria[label] for label in labels] if isinstance(criteria, Mapping) else [None] * len(labels)
    return labels, tuple(_meaning(meaning, where) for meaning in meanings)


def _levels(criteria: object, where: str) -> tuple[str | None, ...]:
    if not isinstance(criteria, list | tuple):
        raise OptionError(f"{where} has no levels; write its criteria as a list of what they mean, the lowest first")
    _check_count(criteria, where, "level")
    return tuple(_meaning(level, where) for level in criteria)


def _check_count(found: Sequence[object], where: str, what: str) -> None:
    if not 2 <= len(found) <= MOST_CHOICES:
        raise OptionError(f"{where} has {count_of(len(found), what)}; it must have 2 to {MOST_CHOICES}")


def _meaning(given: object, where: str) -> str | None:
    return None if given is None else text_of(given, f"a criterion of {where}")
