"""All cases of a benchmark: run, counted, and held against the device and a peer.

Knows nothing of where the model came from or of how results are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_diffusion.measure.speed.cases import Case
from mlx_diffusion.measure.speed.ceilings import Ceilings
from mlx_diffusion.measure.speed.ceilings import measure as measure_ceilings
from mlx_diffusion.measure.speed.cost import encode_cost, formats_of, step_cost
from mlx_diffusion.measure.speed.peer import Peer, peer_runner, peer_step_counter
from mlx_diffusion.measure.speed.primitives import counted, counted_case, library_step_counter
from mlx_diffusion.measure.speed.results import CaseResult, PeerComparison, Work, reach
from mlx_diffusion.measure.speed.runs import CaseRunner, CaseRuns, library_runner, measure, stop_tokens
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class Benchmark:
    """A model, the options that all its cases share, and the peer that runs them in turn, if there is one."""

    model: DiffusionGemma
    tokenizer: Tokenizer
    base: GenerationConfig
    peer: Peer | None = None
    warm_up: bool = True  # a first turn that is not counted

    def measure(self, cases: Sequence[Case], repeats: int, report: Callable[[str], None]) -> list[list[CaseRuns]]:
        """Every case by this library and, in turn, by the peer; `report` is told, in words, what is being done."""
        runs: list[CaseRunner] = [library_runner(self.model, self.tokenizer, self.base)]
        if self.peer is not None:
            runs.append(peer_runner(self.peer, self._settings, stop_tokens(self.model)))
        return [measure(case, runs, repeats, report, warm_up=self.warm_up) for case in cases]

    def hold_against_device(
        self, measured: Sequence[CaseRuns], report: Callable[[str], None]
    ) -> tuple[Ceilings, list[CaseResult]]:
        """What the device reaches with the shapes of these cases, and how near they come."""
        works = [self._work(one.case) for one in measured]
        costs = [cost for work in works for cost in (work.step, work.canvas)]
        ceilings = measure_ceilings(costs, self.model.dtype, report)
        return ceilings, [
            CaseResult(one, work, reach(one, work, ceilings)) for one, work in zip(measured, works, strict=True)
        ]

    def compare(
        self, peer: Peer, both: Sequence[Sequence[CaseRuns]], report: Callable[[str], None]
    ) -> list[PeerComparison]:
        """Ours and the peer's figures of every case, and what MLX evaluates in a step of each."""
        compared = []
        for ours, theirs in both:
            report(f"{ours.case}: counting primitives")
            case, config = counted_case(ours.case), self.model.config
            own = library_step_counter(self.model, self.tokenizer, case, self.base)
            other = peer_step_counter(peer, self._settings(case), case)
            compared.append(PeerComparison(ours, theirs, counted(own, config, case), counted(other, config, case)))
        return compared

    def _settings(self, case: Case) -> Settings:
        return self.model.generation_defaults.resolve(case.options(self.base))

    def _work(self, case: Case) -> Work:
        """What a case costs: a denoising step, a finished canvas, the prompt in the parts in which it is encoded."""
        config, formats, item_bytes = self.model.config, formats_of(self.model), self.model.dtype.size
        part, tokens = self._settings(case).prefill_step_size, case.prompt_tokens
        return Work(
            step=step_cost(config, formats, tokens, item_bytes),
            canvas=encode_cost(config, formats, config.canvas_length, tokens, item_bytes),
            prompt=tuple(
                encode_cost(config, formats, min(part, tokens - start), start, item_bytes)
                for start in range(0, tokens, part)
            ),
        )
