"""The results of a benchmark: the figures of every case beside the ceilings of the device, and beside a peer's.

Plain dataclasses that become one JSON object. Knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.fit.cost import PassCost
from mlx_diffusion.measure.speed.ceilings import Ceilings
from mlx_diffusion.measure.speed.primitives import StepCounts
from mlx_diffusion.measure.speed.runs import CaseRuns, Spread

# The figures that are compared with a peer's, as fields of RunFigures: less is better in all of them.
COMPARED = ("step_seconds", "prompt_seconds", "first_text_seconds", "cpu_seconds", "memory_bytes")


@dataclass(frozen=True)
class Setup:
    """The model that was measured, and the device that it ran on."""

    model: str
    device: Mapping[str, Any]  # the machine's own description, with versions of packages
    dtype: str  # of activations
    layers: int
    canvas_length: int
    weight_bytes: int
    load_seconds: float
    steps: int | None  # denoising steps a canvas, where they were fixed
    seed: int


@dataclass(frozen=True)
class Work:
    """The work that a case consists of."""

    step: PassCost  # one denoising step behind the prompt; in a mode that writes by the encoder, a pass of one position
    canvas: PassCost  # encoding one finished canvas behind it
    prompt: tuple[PassCost, ...]  # encoding the prompt, in parts
    writing: tuple[tuple[PassCost, int], ...] = ()  # all passes, where the encoder writes, and how many alike


@dataclass(frozen=True)
class Reach:
    """How near a case comes to the ceilings of the device, in all passes behind the prompt.

    Those of a mode that writes by the encoder have many widths: their products are held against the large dense one.
    The prompt has figures of its own, since its time is not part of the others.
    """

    flops_per_second: float
    bytes_per_second: float  # bytes that have to be read
    share_of_dense: float  # of the device's large dense product
    share_of_ceiling: float  # the least time, of the work's own kernels or of reading its bytes, over the measured one
    bound: str  # "compute" or "memory": the one that takes longer
    prompt_flops_per_second: float
    prompt_share_of_dense: float

    @classmethod
    def of(cls, measured: CaseRuns, work: Work, ceilings: Ceilings) -> Reach:
        step, canvas = work.step, work.canvas
        steps = measured.median("steps")
        encodings = -(-measured.case.output_tokens // step.positions) - 1
        seconds = steps * measured.median("step_seconds")
        passes = work.writing or ((step, steps), (canvas, encodings))
        flops = sum(times * cost.total_flops for cost, times in passes)
        nbytes = sum(times * cost.total_bytes for cost, times in passes)
        if work.writing:
            compute = flops / ceilings.dense_flops
        else:
            compute = sum(times * ceilings.compute_seconds(cost) for cost, times in passes)
        memory = nbytes / ceilings.copy_bytes
        prompt_flops = sum(cost.total_flops for cost in work.prompt) / measured.median("prompt_seconds")
        return cls(
            flops_per_second=flops / seconds,
            bytes_per_second=nbytes / seconds,
            share_of_dense=flops / seconds / ceilings.dense_flops,
            share_of_ceiling=max(compute, memory) / seconds,
            bound="compute" if compute >= memory else "memory",
            prompt_flops_per_second=prompt_flops,
            prompt_share_of_dense=prompt_flops / ceilings.dense_flops,
        )


@dataclass(frozen=True)
class CaseResult:
    """One case: its runs, its work, and how near they come to the ceilings."""

    measured: CaseRuns
    work: Work
    reach: Reach

    def as_dict(self) -> dict[str, Any]:
        flops = sum(cost.total_flops for cost in self.work.prompt)
        nbytes = sum(cost.total_bytes for cost in self.work.prompt)
        tokens = self.measured.case.prompt_tokens
        return {
            **self.measured.as_dict(),
            "step_cost": self.work.step.as_dict(),
            "encoded_token_cost": {"flops": flops / tokens, "bytes": nbytes / tokens},
            "reach": asdict(self.reach),
        }


@dataclass(frozen=True)
class PeerComparison:
    """One case run by this library and by a peer in turn."""

    ours: CaseRuns
    theirs: CaseRuns
    our_step: StepCounts
    their_step: StepCounts

    def ratio(self, name: str) -> Spread | None:
        """Ours over theirs, run by run."""
        pairs = [
            (getattr(own, name), getattr(peer, name))
            for own, peer in zip(self.ours.runs, self.theirs.runs, strict=True)
        ]
        return Spread.of(own / peer for own, peer in pairs if own is not None and peer)

    @property
    def counted_ratios(self) -> dict[str, float | None]:
        ours, theirs = self.our_step.as_dict(), self.their_step.as_dict()
        return {name: own / peer if own is not None and (peer := theirs[name]) else None for name, own in ours.items()}

    def as_dict(self) -> dict[str, Any]:
        ratios = {name: self.ratio(name) for name in COMPARED}
        return {
            **asdict(self.ours.case),
            "ratios": {name: None if ratio is None else asdict(ratio) for name, ratio in ratios.items()},
            "counted_ratios": self.counted_ratios,
            "ours": self.ours.as_dict() | self.our_step.as_dict(),
            "theirs": self.theirs.as_dict() | self.their_step.as_dict(),
        }


@dataclass(frozen=True)
class BenchmarkResults:
    """All results of a benchmark."""

    setup: Setup
    ceilings: Ceilings
    cases: Sequence[CaseResult]
    peer: str | None = None  # name and version
    comparisons: Sequence[PeerComparison] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.setup),
            "ceilings": self.ceilings.as_dict(),
            "cases": [case.as_dict() for case in self.cases],
            "peer": self.peer,
            "against": [comparison.as_dict() for comparison in self.comparisons],
        }
