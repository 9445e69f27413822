"""The modes that can be evaluated: the library's own, and other rules of acceptance in its denoising loop.

    reference        the library's modes, by their names
    confidence:0.9   keeps tokens of at least this probability: what other implementations default to
    random:0.5       keeps each token with this probability, whatever it is: a broken sampler, to see that it shows
    speculative:M4 Pro   drafts as on that chip, where wide passes cost what the published model's are predicted to

Knows nothing of prompts or of results.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.engine.rules import REFERENCE, Canvas, Confidence, Policy, Rules
from mlx_diffusion.errors import OptionError
from mlx_diffusion.fit.chips import CHIPS, Chip
from mlx_diffusion.fit.draft_width import costs_here, relative_costs
from mlx_diffusion.fit.prediction import published_shape
from mlx_diffusion.modes import DENOISING, MODES, MODES_WITH, Mode
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.model import DiffusionGemma

RULES = ("confidence", "random")
USAGE = (
    f"there are {', '.join(MODES)}, confidence:THRESHOLD, random:PROBABILITY and speculative:CHIP, as in confidence:0.9"
)


@dataclass(frozen=True)
class RandomAcceptance:
    """Keeps each position with the same probability, by a hash of the step's figures.

    The figures' last bits change from step to step. A generator of random numbers would not do: MLX may trace the rule
    and would then repeat the numbers drawn first.
    """

    probability: float

    def __call__(self, survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
        if self.probability == 1:
            return mx.full(survey.entropy.shape, True)
        places = mx.arange(survey.entropy.shape[0], dtype=mx.uint32) * mx.array(0x9E3779B1, dtype=mx.uint32)  # [L]
        bits = survey.entropy.view(mx.uint32) ^ mixed(survey.probability.view(mx.uint32) + places)
        bits = mixed(bits + survey.sample.astype(mx.uint32))
        return bits < mx.array(int(self.probability * 2**32), dtype=mx.uint32)


def mixed(bits: mx.array) -> mx.array:
    """Mix uint32 numbers so that every bit of the input changes the output: MurmurHash3's finaliser."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * mx.array(factor, dtype=mx.uint32)
    return bits ^ (bits >> 16)


@dataclass(frozen=True)
class MeasuredMode:
    """A mode to be evaluated, read from its name."""

    name: str
    library: Mode | None = None  # None for another rule of acceptance
    rule: str = ""
    value: float = 0.0
    chip: Chip | None = None  # for which drafts are planned; None: this machine's

    @classmethod
    def parse(cls, name: str) -> MeasuredMode:
        """Read "reference" or "confidence:0.9". Raises `OptionError`."""
        for library in MODES:
            if name == library:
                return cls(name, library)
        rule, colon, number = name.partition(":")
        if (rule, colon) == ("speculative", ":"):
            return cls._on_chip(number)
        if rule not in RULES or not colon:
            raise OptionError(f"unknown mode {name!r}; {USAGE}")
        try:
            value = float(number)
        except ValueError:
            raise OptionError(f"mode {name!r}: {number!r} is no number; {USAGE}") from None
        if not 0 <= value <= 1:
            raise OptionError(f"mode {name!r}: {number} must be from 0 to 1")
        return cls(f"{rule}:{value:g}", None, rule, value)

    @classmethod
    def _on_chip(cls, label: str) -> MeasuredMode:
        """Read "M4 Pro", with the number of GPU cores in brackets where one name stands for several chips."""
        for chip in CHIPS:
            if chip.label == label:
                return cls(f"speculative:{label}", "speculative", chip=chip)
        labels = ", ".join(chip.label for chip in CHIPS)
        raise OptionError(f"mode 'speculative:{label}': no such chip is known; there are {labels}")

    def drafts(self, model: DiffusionGemma) -> DraftMemory | None:
        """What texts of one kind share in this mode; None where nothing is drafted."""
        if self.writes != "speculative":
            return None
        return DraftMemory(costs_here(model) if self.chip is None else relative_costs(published_shape(), self.chip))

    @property
    def writes(self) -> Mode:
        """The library's mode in which it writes."""
        return self.library or DENOISING[0]

    def has(self, option: str) -> bool:
        """Whether the option belongs to it."""
        return self.writes in MODES_WITH.get(option, MODES)

    def policy(self) -> Policy:
        """The policy of the denoising loop in this mode."""
        if self.rule == "confidence":
            return Policy(Confidence(self.value))
        if self.rule == "random":
            return Policy(RandomAcceptance(self.value))
        return REFERENCE
