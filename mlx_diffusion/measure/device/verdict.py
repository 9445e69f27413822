"""Judges trials: the best settings of a device, the reasons for them, and what they leave open.

Knows nothing of how trials are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_diffusion.display import count_of
from mlx_diffusion.measure.device import attention, experts
from mlx_diffusion.measure.device.buffers import VARIABLE, BufferTrial
from mlx_diffusion.measure.device.trial import WIDTHS, KernelTrial, TrialSetup
from mlx_diffusion.tuning import Tuning, default_tuning

CLEARLY = 0.95  # of the other's time; what is nearer is a tie, and the default stays
WORST_ERROR = 0.02  # beyond it a kernel is not to be trusted: 8 bits of significand round to 0.004


@dataclass(frozen=True)
class SettingsVerdict:
    """The best settings, a line for each of them, and what could not be decided."""

    tuning: Tuning
    reasons: tuple[str, ...]
    undecided: tuple[str, ...]


def verdict(
    trials: Sequence[KernelTrial], buffers: Sequence[BufferTrial], dtype: str, *, on_cpu: bool
) -> SettingsVerdict:
    """Judge the trials on a device whose residual stream is of this type."""
    reasons: list[str] = []
    undecided: list[str] = []
    products = _product_type(trials, dtype, on_cpu, reasons, undecided)
    own = [trial for trial in trials if trial.setup.dtype == products]
    tuning = Tuning(
        None if products == dtype else products,
        _sort_from(own, reasons, undecided),
        _fused_heads(own, reasons, undecided),
    )
    _judge_buffers(buffers, on_cpu, reasons, undecided)
    wrong = [trial for trial in own if trial.distance and not trial.distance.error <= WORST_ERROR]
    for trial in wrong:
        one = trial.setup
        undecided.append(
            f"{one.part}, {one.kernel}, {count_of(one.width, 'position')}: off by more than it may in {one.dtype}"
        )
    missing = sum(trial.seconds is None for trial in own if trial.setup.kernel != attention.FUSED)
    if missing:
        undecided.append(f"{missing} of {count_of(len(own), 'trial')} in {products} were left out, see the table")
    undecided.append("whole passes, heat and memory: run mlx-diffusion bench")
    return SettingsVerdict(tuning, tuple(reasons), tuple(undecided))


def _seconds(trials: Sequence[KernelTrial], wanted: Callable[[TrialSetup], bool]) -> dict[tuple[str, str, int], float]:
    """Seconds an operation by part, kernel and width, of the trials that are wanted and were made."""
    return {
        (trial.setup.part, trial.setup.kernel, trial.setup.width): trial.seconds_each
        for trial in trials
        if wanted(trial.setup) and trial.seconds_each is not None and trial.distance is not None
        and trial.distance.error <= WORST_ERROR
    }  # fmt: skip


def _product_type(
    trials: Sequence[KernelTrial], dtype: str, on_cpu: bool, reasons: list[str], undecided: list[str]
) -> str:
    """The type of products: the default's, unless another is clearly faster, and right in all that was tried.

    On a CPU it stays: MLX adds up in bf16 there, and has no experts in either of the short types.
    """
    default = default_tuning().projections or dtype
    types = dict.fromkeys(trial.setup.dtype for trial in trials)
    found = {
        name: _seconds(trials, lambda one, name=name: one.dtype == name and one.kernel != attention.FUSED)  # type: ignore[misc]
        for name in types
    }
    best, others = default, []
    for name in types:
        both = found.get(default, {}).keys() & found[name].keys()
        wrong = any(t.setup.dtype == name and t.distance and not t.distance.error <= WORST_ERROR for t in trials)
        if name == default or not both:
            continue
        share = sum(found[name][key] for key in both) / sum(found[default][key] for key in both)
        others.append(f"{name} takes {share:.2f} times as long" + (" and is off by more than it may" if wrong else ""))
        if share < CLEARLY and not wrong and len(both) == len(found[default]) and not on_cpu:
            best = name
    if not others:
        undecided.append(f"the type of products: {default} alone could be tried")
    reasons.append(f"products in {best}" + (f": beside {default}, {'; '.join(others)}" if others else ""))
    return best


def _sort_from(trials: Sequence[KernelTrial], reasons: list[str], undecided: list[str]) -> int:
    """The width from which on sorting pays at every width."""
    found = _seconds(trials, lambda one: one.part == experts.PART)
    pairs = [
        (width, found[experts.PART, experts.SORTED, width], found[experts.PART, experts.UNSORTED, width])
        for width in WIDTHS
        if (experts.PART, experts.SORTED, width) in found and (experts.PART, experts.UNSORTED, width) in found
    ]
    if not pairs:
        undecided.append("whether to sort rows by expert")
        return 0
    slower = [width for width, in_order, as_they_come in pairs if as_they_come < CLEARLY * in_order]
    if not slower:
        reasons.append("rows sorted by expert at every width that was tried")
        return 0
    reasons.append(f"rows sorted by expert beyond {count_of(slower[-1], 'position')}")
    undecided.append(f"where between {count_of(slower[-1], 'position')} and the next width sorting begins to pay")
    return slower[-1] + 1


def _fused_heads(trials: Sequence[KernelTrial], reasons: list[str], undecided: list[str]) -> tuple[int, ...]:
    """The head sizes whose fused kernel beats attention in parts, over all widths together."""
    chosen = []
    parts = dict.fromkeys(t.setup.part for t in trials if t.setup.part.startswith(attention.PART))
    for part in parts:
        found = _seconds(trials, lambda one, part=part: one.part == part)  # type: ignore[misc]
        fused = {width for _, kernel, width in found if kernel == attention.FUSED}
        both = [width for width in fused if (part, attention.PARTS, width) in found]
        size = int(part.rsplit(" ", 1)[-1])
        if not both:
            reasons.append(f"{part}: in parts, MLX has no fused kernel here")
            continue
        share = sum(found[part, attention.FUSED, w] for w in both) / sum(found[part, attention.PARTS, w] for w in both)
        if share < 1:
            chosen.append(size)
        reasons.append(f"{part}: {'fused' if share < 1 else 'in parts'}, fused takes {share:.2f} times as long")
    undecided.append(f"attention behind other prefixes than {count_of(attention.PREFIX, 'position')}")
    return tuple(chosen)


def _judge_buffers(buffers: Sequence[BufferTrial], on_cpu: bool, reasons: list[str], undecided: list[str]) -> None:
    measured = [one for one in buffers if one.seconds is not None]
    usual = next((one.seconds for one in measured if one.limit is None), None)
    if usual is None:
        undecided.append("limits of command buffers" + (": MLX runs on the CPU here" if on_cpu else ""))
        return
    best = min(measured, key=lambda one: one.seconds or 0)
    if best.limit is None or (best.seconds or 0) > CLEARLY * usual:
        reasons.append("command buffers: MLX's own limits")
        return
    share = (best.seconds or 0) / usual
    reasons.append(
        f"command buffers: a chain of launches takes {share:.2f} times as long with {best.limit} operations each; set "
        f"{VARIABLE}={best.limit} in your shell, since MLX reads it when it is imported"
    )
