"""A benchmark: all cases of a model timed, counted, and compared with the device and with a peer.

Knows nothing of where the model came from or of how results are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.fit.cost import PassCost, encode_cost, parameter_bytes, step_cost
from mlx_diffusion.fit.prediction import ModelShape
from mlx_diffusion.fit.products import formats_of
from mlx_diffusion.measure.passes import Passes, as_passes
from mlx_diffusion.measure.speed.cases import Case
from mlx_diffusion.measure.speed.ceilings import Ceilings, measure_ceilings
from mlx_diffusion.measure.speed.peer import Peer, peer_runner, peer_step_counter
from mlx_diffusion.measure.speed.primitives import count_step, counting_case, library_step_counter
from mlx_diffusion.measure.speed.results import (
    BenchmarkResults,
    CaseResult,
    PeerComparison,
    Reach,
    Setup,
    Work,
)
from mlx_diffusion.measure.speed.runs import CaseRuns, library_runner, stop_tokens, time_runs
from mlx_diffusion.modes import CAUSAL
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.tokenizer import Tokenizer

Tell = Callable[[str], None]  # is told, in words, what is being done


@dataclass(frozen=True)
class Benchmark:
    """A model that is ready, the cases that it is to run, and the peer that runs them in turn, if there is one."""

    name: str
    model: DiffusionGemma
    tokenizer: Tokenizer
    config: ModelConfig  # with the canvas and the context of the runs
    options: GenerationConfig  # that all cases share
    cases: Sequence[Case]
    load_seconds: float
    peer: Peer | None = None

    def run(
        self, repeats: int, device: Mapping[str, Any], announce: Tell, show: Tell, *, warm_up: bool = True
    ) -> BenchmarkResults:
        """Measure everything. `device` describes the machine; with `warm_up` a first turn of each case is not counted.

        `announce` is told of work that takes long, `show` of the many small parts.
        """
        runners = [library_runner(self.model, self.tokenizer, self.options)]
        if self.peer is not None:
            runners.append(peer_runner(self.peer, self._settings, stop_tokens(self.model)))
        measured = [time_runs(case, runners, repeats, announce, warm_up=warm_up) for case in self.cases]
        comparisons = [] if self.peer is None else self._compare(self.peer, measured, announce)
        ceilings, results = self._reach([ours for ours, *_ in measured], show)
        label = None if self.peer is None else self.peer.label
        return BenchmarkResults(self._setup(device), ceilings, results, label, comparisons)

    def _setup(self, device: Mapping[str, Any]) -> Setup:
        return Setup(
            model=self.name,
            device=device,
            dtype=str(self.model.dtype).removeprefix("mlx.core."),
            layers=self.config.num_hidden_layers,
            canvas_length=self.config.canvas_length,
            weight_bytes=parameter_bytes(self.model),
            load_seconds=self.load_seconds,
            steps=self.options.max_denoising_steps,
            seed=self.options.seed or 0,
        )

    def _reach(self, measured: Sequence[CaseRuns], report: Tell) -> tuple[Ceilings, list[CaseResult]]:
        """The device's ceilings for the shapes of these cases, and how near each case comes to them."""
        works = [self._work(runs) for runs in measured]
        costs = [cost for work in works if not work.writing for cost in (work.step, work.canvas)]
        ceilings = measure_ceilings(costs, self.model.dtype, report)
        return ceilings, [
            CaseResult(runs, work, Reach.of(runs, work, ceilings)) for runs, work in zip(measured, works, strict=True)
        ]

    def _compare(self, peer: Peer, measured: Sequence[Sequence[CaseRuns]], report: Tell) -> list[PeerComparison]:
        """The figures of every case beside the peer's, and the counts of a step of each."""
        compared = []
        for ours, theirs in measured:
            report(f"{ours.case}: counting primitives")
            case = counting_case(ours.case)
            our_step = count_step(library_step_counter(self.model, case, self.options), self.config, case)
            their_step = count_step(peer_step_counter(peer, self._settings(case), case), self.config, case)
            compared.append(PeerComparison(ours, theirs, our_step, their_step))
        return compared

    def _settings(self, case: Case) -> Settings:
        return self.model.generation_defaults.resolve(case.options(self.options))

    def _work(self, runs: CaseRuns) -> Work:
        """The work of a case: a denoising step, a finished canvas, and the prompt in the parts it is encoded in.

        In a mode that writes by the encoder a pass of one position, and all passes of the first run, in the text's
        middle.
        """
        case = runs.case
        formats, item_bytes = formats_of(self.model), self.model.dtype.size
        part, tokens = self._settings(case).prefill_step_size, case.prompt_tokens
        writes = case.mode in CAUSAL
        return Work(
            step=encode_cost(self.config, formats, 1, tokens, item_bytes, 1)
            if writes
            else step_cost(self.config, formats, tokens, item_bytes),
            canvas=encode_cost(self.config, formats, self.config.canvas_length, tokens, item_bytes),
            prompt=tuple(
                encode_cost(self.config, formats, min(part, tokens - start), start, item_bytes)
                for start in range(0, tokens, part)
            ),
            writing=self._writing(case, runs.runs[0].passes) if writes else (),
        )

    def _writing(self, case: Case, passes: Passes) -> tuple[tuple[PassCost, int], ...]:
        """The costs of passes, and how many are alike."""
        shape = ModelShape(self.config, formats_of(self.model), self.model.dtype.size)
        prefix = case.prompt_tokens + case.output_tokens // 2
        return tuple((shape.cost(one), one.times) for one in as_passes(passes, prefix))
