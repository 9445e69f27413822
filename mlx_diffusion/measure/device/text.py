"""A device's check as text: a table of errors and rates, what was cut or left out, and the settings that are best."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

from mlx_diffusion.display import quantity, table
from mlx_diffusion.measure.device.check import DeviceCheck
from mlx_diffusion.measure.device.trial import WIDTHS, KernelTrial

LINE = 120
NONE = "–"


def check_text(check: DeviceCheck) -> str:
    """All of it."""
    rows: dict[tuple[str, str, str], dict[int, KernelTrial]] = {}
    for trial in check.trials:
        rows.setdefault((trial.setup.part, trial.setup.kernel, trial.setup.dtype), {})[trial.setup.width] = trial
    lines = [
        f"{check.model} in the recipe {check.recipe}, kernel by kernel; the residual stream is {check.dtype}.",
        "Error: root mean square against float64, the largest of all widths. Rates: FLOP/s at so many positions.",
        "",
        table(
            ["part", "kernel", "type", "error", *map(str, WIDTHS)],
            [[*name, _error(own.values()), *(_rate(own.get(width)) for width in WIDTHS)] for name, own in rows.items()],
        ),
        "",
        *_listed("Computed of the real shape", check.trials, lambda trial: trial.cut),
        *_listed("Not as in float64", check.trials, _note),
        *_listed("Not tried", check.trials, _problem),
    ]
    if check.buffers:
        texts = [
            f"{'usual' if one.limit is None else one.limit} {NONE if one.seconds is None else f'{one.seconds:.4f} s'}"
            for one in check.buffers
        ]
        lines += [f"A chain of launches, by operations a command buffer: {', '.join(texts)}", ""]
    lines += ["Best here:", *_bullets(check.verdict.reasons), ""]
    lines += ["Not decided:", *_bullets(check.verdict.undecided)]
    return "\n".join(lines)


def _error(trials: Iterable[KernelTrial]) -> str:
    found = [trial.distance.error for trial in trials if trial.distance is not None]
    return f"{max(found):.1e}" if found else NONE


def _rate(trial: KernelTrial | None) -> str:
    return NONE if trial is None or trial.rate is None else quantity(trial.rate).replace(" ", "")


def _note(trial: KernelTrial) -> str:
    note = "" if trial.distance is None else trial.distance.note
    return "" if not note or " at 0 of " in note else f"{trial.setup.dtype}: {note}"


def _problem(trial: KernelTrial) -> str:
    return trial.problem


def _listed(title: str, trials: Sequence[KernelTrial], say: Callable[[KernelTrial], str]) -> list[str]:
    """What is to be said of trials, each saying once with the parts that it is said of."""
    found: dict[str, dict[str, None]] = {}
    for trial in trials:
        if text := say(trial):
            found.setdefault(text, {})[trial.setup.part] = None
    lines = [f"{text}: {'; '.join(names)}" for text, names in found.items()]
    return [f"{title}:", *_bullets(lines), ""] if lines else []


def _bullets(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, LINE, initial_indent="  ", subsequent_indent="    ")]
