"""Compares a finished conversion with its source: tensor by tensor, and by the logits of both models.

Tensors must be as near to the source as their format allows (see tensor_errors): that is the sharp test. The logits of
a few canvases (see logit_errors) have bounds of their own. Knows nothing of the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import Quantization, QuantSpec, spec_text
from mlx_diffusion.checkpoint.headers import StoredTensor, read_header
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.tensor_names import PARTS, module_of, part_of
from mlx_diffusion.convert.gguf_checkpoint import GgufCheckpoint
from mlx_diffusion.convert.gguf_source import gguf_file
from mlx_diffusion.convert.tensor_errors import TensorError, tensor_errors
from mlx_diffusion.display import count_of, table
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.measure.answers.statistics import binomial_at_most
from mlx_diffusion.measure.logit_errors import LogitError, logit_errors
from mlx_diffusion.measure.magnitudes import Magnitude, Magnitudes, largest

CHANCE = 0.001  # of so many lost tokens where the share of equal ones is just right; anything rarer is a problem
SHALLOW = 12  # layers up to which the bounds hold as they are; errors grow with layers, at most with their number
UNRELATED = 1.2  # the error of logits that have hardly anything to do with each other is the square root of 2


@dataclass(frozen=True)
class LogitBounds:
    """The largest acceptable loss in the logits; unlike the tensors' bounds, it depends on the checkpoint."""

    divergence: float  # at most, in nats, mean over positions
    equal: float  # at least, share of positions, but for near ties
    error: float  # of the logits at most, as a share of their spread, at the middle position

    @classmethod
    def over(cls, bounds: Sequence[LogitBounds], layers: int) -> LogitBounds:
        """The widest of several, for a model of so many layers."""
        widest = max(one.error for one in bounds) * max(layers / SHALLOW, 1)
        return cls(max(one.divergence for one in bounds), min(one.equal for one in bounds), min(widest, UNRELATED))


# By the format of the matrices; the widest counts. How a loss in the weights changes the logits depends on the model,
# so these bounds are generous: they are 30 to 180 times the largest divergence of the bundled checkpoint in the
# recipe of that name (three seeds; nats, beside the smallest share of equal tokens):
#     8bit 0.0006 99.5 %   5bit 0.0009 99.5 %   3bit 0.014 99.0 %   mxfp8 0.0009 100 %   nvfp4 0.003 99.5 %
#     6bit 0.0006 100 %    4bit 0.010  99.0 %   2bit 0.082 97.4 %   mxfp4 0.003 99.5 %   bf16  0     100 %
# Even the widest fails a model that says nothing: a uniform answer is up to ln V away, 6.9 nats for the bundled
# checkpoint and 12.5 for the 26B one. Where the source has more bits than bf16, rounding to it counts as 8 bits do. A
# wrong tensor is for the tensors' own bounds to find; these find what is right tensor by tensor and wrong as a model.
# The errors of the logits are at least twice the largest of 19 random models of 2 to 12 layers and the bundled one:
#     8bit 6 %   6bit 10 %   5bit 14 %   4bit 20 %   3bit 33 %   2bit 49 %   mxfp8 9 %   mxfp4 24 %   nvfp4 19 %
# and of random ones with 24 and 30 layers, which amplify more than those that learned something, 8bit 21 %, 4bit 46 %.
BOUNDS: Mapping[str, LogitBounds] = {
    "bf16": LogitBounds(0.002, 0.98, 0.01),
    "rounded to bf16": LogitBounds(0.02, 0.95, 0.1),
    "8 bits": LogitBounds(0.02, 0.95, 0.15),
    "6 bits": LogitBounds(0.05, 0.9, 0.2),
    "5 bits": LogitBounds(0.05, 0.9, 0.3),
    "4 bits": LogitBounds(0.5, 0.7, 0.5),
    "3 bits": LogitBounds(1.0, 0.5, 0.7),
    "2 bits": LogitBounds(5.0, 0.1, 1.0),
    "mxfp8": LogitBounds(0.05, 0.9, 0.25),
    "mxfp4": LogitBounds(0.5, 0.7, 0.5),
    "nvfp4": LogitBounds(0.5, 0.7, 0.5),
}


@dataclass(frozen=True)
class Verification:
    """The result of a verification."""

    tensors: Sequence[TensorError]
    logits: Sequence[LogitError]
    steps: Sequence[tuple[int, bool]]  # for each prompt's converged canvas: their number, and whether it settled
    bound: LogitBounds  # of the coarsest format
    magnitudes: Sequence[Magnitude] = ()  # of every matrix of the source, over the canvases of `logits`

    @property
    def problems(self) -> list[str]:
        """One line for everything that is worse than its bound."""
        lines = [_tensor_problem(error) for error in self.tensors if not error.ok]
        for error in self.logits:
            if error.prompt is not None:
                continue
            lines += [f"{error.canvases} canvases: {problem}" for problem in _logit_problems(error, self.bound)]
        return lines

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON, which has no infinity: an error beyond all bounds is null."""
        return {
            "ok": self.ok,
            "problems": self.problems,
            "tensors": [_finite(asdict(error)) | {"ok": error.ok} for error in self.tensors],
            "logits": [_finite(asdict(error)) for error in self.logits],
            "converged": [{"steps": steps, "settled": settled} for steps, settled in self.steps],
            "bound": asdict(self.bound),
            "magnitudes": [asdict(one) | {"share_of_float16": one.share_of_float16} for one in self.magnitudes],
        }

    def table(self) -> str:
        """Two tables for people: the tensors by part with the worst of each, and the logits."""
        parts = []
        for part in PARTS:
            own = [error for error in self.tensors if part_of(error.name) == part]
            if own:
                worst = max(own, key=lambda error: (not error.ok, error.found))
                formats = ", ".join(dict.fromkeys(spec_text(error.spec) for error in own))
                share = max(error.share for error in own)
                numbers = [f"{worst.found:.4f}", f"{worst.at_most:.4f}", f"{share:.3f}"]
                parts.append([part, str(len(own)), formats, *numbers, worst.name])
        logits = [
            [
                error.canvases if error.prompt is None else f"  {error.prompt}",
                f"{error.divergence:.5f}", f"{error.worst:.4f}", f"{error.equal:.2%}", f"{error.error:.2%}",
            ]
            for error in self.logits
        ]  # fmt: skip
        *others, last = (steps for steps, _ in self.steps)
        taken = ", ".join([*map(str, others), count_of(last, "step")])
        return "\n".join(
            [
                table(["part", "tensors", "kept as", "largest error", "at most", "nearest to bound", "of"], parts),
                "",
                table(["canvases", "divergence (nats)", "worst position", "same token", "error of logits"], logits),
                "",
                f"Converged canvases took {taken}; {sum(settled for _, settled in self.steps)} of "
                f"{len(self.steps)} had settled. Bounds: divergence {self.bound.divergence}, same token "
                f"{self.bound.equal:.0%}, error of logits {self.bound.error:.0%}.",
                "",
                *self._magnitudes(),
                *(self.problems or ["The output is what its recipe makes of the source."]),
            ]
        )

    def _magnitudes(self) -> list[str]:
        """The largest values at each kind of matrix, in the layer where they are nearest to what float16 holds."""
        if not self.magnitudes:
            return []
        rows = [
            [one.projection, one.layer, f"{one.taken:.4g}", f"{one.given:.4g}", f"{one.share_of_float16:.4f}"]
            for one in largest(self.magnitudes)
        ]
        over = [one.path for one in self.magnitudes if one.share_of_float16 > 1]
        verdict = (
            f"Products of {over[0]} leave float16, in which M1 and M2 compute: see `mlx-diffusion doctor --check`."
            if over
            else "All of them are within float16, in which M1 and M2 compute."
        )
        return [table(["matrix", "layer", "largest in", "largest out", "of float16"], rows), "", verdict, ""]


def _logit_problems(error: LogitError, bound: LogitBounds) -> Iterator[str]:
    """What is past the bounds, and not by the chance of so few positions."""
    if not error.least <= bound.divergence:
        yield f"divergence {error.divergence:.4f} nats, at most {bound.divergence} is right"
    if 1 - binomial_at_most(error.lost - 1, error.positions, 1 - bound.equal) < CHANCE:
        yield (
            f"{error.equal:.1%} equal tokens, {error.lost} of {error.positions} lost and no near ties; at least "
            f"{bound.equal:.0%} equal are right"
        )
    if not error.error <= bound.error:
        yield f"logits are off by {error.error:.1%} of their spread, at most {bound.error:.0%} is right"


def _tensor_problem(error: TensorError) -> str:
    place = f"{error.name}{list(error.place)}"
    if error.spec is None:
        return f"{place} is not the source's, rounded to bf16"
    if error.share == math.inf:
        return f"{place} is nothing that {spec_text(error.spec)} make of the source; relative error {error.found:.2e}"
    return (
        f"{place} is {error.share:.2f} times as far off as {spec_text(error.spec)} allow; relative error "
        f"{error.found:.2e}"
    )


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def verify(source: Path, target: Path, *, report: Callable[[float, str], None] | None = None) -> Verification:
    """Compare a finished conversion with the folder or the GGUF that it was made from.

    `report` is told the share of the work that is done, and what is compared. Raises CheckpointError for
    folders that cannot be read and ConversionError where the target is no conversion of the source.
    """
    gguf, converted = gguf_file(source), Checkpoint.open(target)
    original = Checkpoint.open_source(source) if gguf is None else GgufCheckpoint.beside(gguf, target)
    tell = report or (lambda share, label: None)
    kept = _stored(converted.files)
    made = apply_recipe((one.tensor for one in original.sources), _recipe(converted.config.quantization, kept))
    written = {tensor.name: tensor for piece in made for tensor in piece.written}
    missing = [name for name, tensor in written.items() if tensor != _tensor(kept, name)]
    if missing:
        raise ConversionError(f"{target} is no conversion of {source}: {missing[0]} is missing or of another shape")
    foreign = sorted(kept.keys() - written.keys())
    if foreign:
        raise ConversionError(f"{target} is no conversion of {source}, which has nothing like {foreign[0]}")
    total = sum(one.nbytes for one in original.sources)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        tell(0.5 * done / total, "tensors")

    errors = list(tensor_errors(original.files[0].parent, original.sources, kept, made, advance))
    seen = Magnitudes()
    logits, canvases = logit_errors(
        original, converted, lambda share, label: tell(0.5 + 0.5 * share, label), watch=seen.watching
    )
    bounds = [BOUNDS[_format(piece.spec, piece.source.dtype)] for piece in made]
    bound = LogitBounds.over(bounds, original.config.num_hidden_layers)
    return Verification(errors, logits, [(canvas.steps, canvas.settled) for canvas in canvases], bound, seen.all())


def _format(spec: QuantSpec | None, kept_as: str = "BF16") -> str:
    """The format's name in BOUNDS, for a source in this type or encoding."""
    if spec is None:
        return "bf16" if kept_as == "BF16" else "rounded to bf16"
    return f"{spec.bits} bits" if spec.mode == "affine" else spec.mode


def _stored(files: Iterable[Path]) -> dict[str, tuple[Path, StoredTensor]]:
    return {entry.tensor.name: (file, entry) for file in files for entry in read_header(file)}


def _tensor(kept: Mapping[str, tuple[Path, StoredTensor]], name: str) -> object:
    return kept[name][1].tensor if name in kept else None


def _recipe(quantization: Quantization | None, kept: Mapping[str, object]) -> Recipe:
    """The format of each module of the target: that of config.json if it has scales, else bf16."""
    modules = [module_of(name) for name in kept if f"{module_of(name)}.scales" in kept and name.endswith(".weight")]
    rules: list[tuple[str, QuantSpec | None]] = [("*", None)]
    if quantization is not None:
        rules += [(module, quantization.of(module)) for module in modules]
    return Recipe("as converted", tuple(rules))
