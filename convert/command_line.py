"""The command line of a conversion, as a user would type it again. Knows nothing of what it does."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def command_line(
    source: str,
    target: str,
    recipe: str | None,
    rules: Iterable[str],
    *,
    stream: bool = False,
    force: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    budget: int | None = None,
) -> str:
    """The command that does this conversion."""
    words = ["mlx-diffusion", "convert", source, target]
    words += ["--recipe", recipe] if recipe else []
    words += ["--budget", str(budget)] if budget else []
    for rule in rules:
        words += ["--set", rule]
    words += ["--stream"] * stream + ["--force"] * force
    words += ["--revision", revision] if revision else []
    words += ["--tokenizer", tokenizer] if tokenizer else []
    return shlex.join(words)
