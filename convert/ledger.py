"""A source's ledger: what was measured of its matrices, and chosen by it, kept in the program's state folder.

It holds for these weights, and for what they were measured with. Knows nothing of how a choice is made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_diffusion import __version__
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.recipes import Rule, parse_rule, rule_text
from mlx_diffusion.convert.loss_law import Measured
from mlx_diffusion.errors import OptionError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.probe import KINDS
from mlx_diffusion.measure.sensitivity import Change, Losses, LossMeter
from mlx_diffusion.state import StateError, make_state_folder, state_folder
from mlx_diffusion.whole_files import write_whole

Tell = Callable[[float, str], None]
Formats = Mapping[str, Sequence[QuantSpec]]  # of matrices, by path


@dataclass
class Ledger:
    """Errors and losses of a checkpoint's matrices, measured where they are not known yet."""

    checkpoint: Checkpoint
    tell: Tell
    file: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, tell: Tell) -> Ledger:
        file = _file_of(checkpoint)
        return cls(checkpoint, tell, file, _read(file))

    @cached_property
    def _meter(self) -> LossMeter:
        self._keep()  # a folder that cannot be written is named before anything is measured
        return LossMeter.of(self.checkpoint, self.tell)

    def errors(self, formats: Formats) -> dict[str, dict[QuantSpec, float]]:
        """The relative squared error of each matrix in each of its formats."""
        known = self.entries["errors"]
        if not known.keys() >= set(_names(formats)):
            for path, found in self._meter.errors(formats).items():
                known |= {rule_text((path, spec)): error for spec, error in zip(formats[path], found, strict=True)}
            self._keep()
        return {path: {spec: known[rule_text((path, spec))] for spec in specs} for path, specs in formats.items()}

    def measured(self, formats: Formats) -> dict[str, Measured]:
        """What each matrix loses in each of its formats, beside its errors there."""
        known, errors = self.entries["losses"], self.errors(formats)
        if not known.keys() >= set(_names(formats)):
            found = self._meter.losses([Change({path: spec}) for path in formats for spec in formats[path]], self.tell)
            known |= dict(zip(_names(formats), found, strict=True))
            self._keep()
        return {
            path: Measured([errors[path][spec] for spec in specs], [known[rule_text((path, spec))] for spec in specs])
            for path, specs in formats.items()
        }

    def losses_of(self, choices: Sequence[Mapping[str, QuantSpec]]) -> list[Losses]:
        """What is lost when all matrices are in the formats of a choice, for each choice."""
        return self._meter.losses([Change(formats) for formats in choices], self.tell)

    def chosen(self, budget: int) -> tuple[Rule, ...] | None:
        """The rules that were chosen for a budget, if they were."""
        try:
            return tuple(map(parse_rule, self.entries["chosen"][str(budget)]))
        except (KeyError, TypeError, AttributeError, OptionError):
            return None

    def keep_chosen(self, budget: int, rules: Sequence[Rule]) -> None:
        self.entries["chosen"][str(budget)] = [rule_text(rule) for rule in rules]
        self._keep()

    def _keep(self) -> None:
        make_state_folder(self.file.parent)
        write_whole(self.file, (json.dumps(self.entries, indent=1) + "\n").encode(), error=StateError)


def _names(formats: Formats) -> list[str]:
    return [rule_text((path, spec)) for path, specs in formats.items() for spec in specs]


def _file_of(checkpoint: Checkpoint) -> Path:
    """The place of what is measured of these weights by these versions."""
    digest = hashlib.sha256(repr((__version__, version("mlx"))).encode())
    for file in checkpoint.files:
        found = file.stat()
        digest.update(repr((str(file.resolve()), found.st_size, found.st_mtime_ns)).encode())
    return state_folder(os.environ) / "budgets" / f"{digest.hexdigest()[:32]}.json"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What is known; nothing where the file is not whole, and all is measured again."""
    try:
        content = bounded_json(file.read_bytes())
    except (OSError, ValueError):
        content = None
    tables = content if isinstance(content, dict) else {}
    found = {
        name: table if isinstance(table := tables.get(name), dict) else {} for name in ("errors", "losses", "chosen")
    }
    found["errors"] = {name: error for name, error in found["errors"].items() if _is_amount(error)}
    found["losses"] = {
        name: losses
        for name, losses in found["losses"].items()
        if isinstance(losses, list) and len(losses) == len(KINDS) and all(map(_is_amount, losses))
    }
    return found


def _is_amount(value: object) -> bool:
    return isinstance(value, float) and 0 <= value < float("inf")
