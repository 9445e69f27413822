"""JSON schemas from a user's file, and how many of them a checkpoint writes valid texts for.

Validity is judged by the package jsonschema. Knows nothing of how a text is held to a schema.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.events import Finish
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.known.cases import read_lines
from mlx_diffusion.measure.known.runs import Model, WayFigures
from mlx_diffusion.modes import Mode

MOST_TOKENS = 256  # of a text
ASKED = "Write JSON that fits this schema:\n"
WAYS: tuple[tuple[str, Mode], ...] = (("denoised", "reference"), ("token by token", "autoregressive"))

Outcome = Literal["valid", "invalid", "refused", "not judged"]


def read_schemas(file: Path) -> list[Any]:
    """Schemas from lines of {"json_schema": ...}, as text or as JSON, as JSONSchemaBench has them; packed or not.

    Raises `EvaluationError`, which names the line.
    """
    found = []
    for number, entry in read_lines(file):
        schema = entry.get("json_schema") if isinstance(entry, dict) else None
        try:
            schema = bounded_json(schema) if isinstance(schema, str) else schema
        except ValueError as error:
            raise EvaluationError(f"{file}, line {number}: json_schema is no JSON ({error})") from None
        if not isinstance(schema, dict | bool):
            raise EvaluationError(f"{file}, line {number}: write json_schema, an object or its text")
        found.append(schema)
    if not found:
        raise EvaluationError(f"{file} has no schemas; write one JSON object a line")
    return found


def run_schemas(model: Model, schemas: Sequence[Any], tell: Callable[[str], None]) -> list[WayFigures]:
    """A text for each schema, in two modes: how many are valid, of all schemas and of those that are not refused.

    Refused is what is not supported, or has no text short enough. What jsonschema cannot judge is left out.
    """
    validator, found = _validator(), list[WayFigures]()
    for way, mode in WAYS:
        outcomes, positions = Counter[Outcome](), 0
        for number, schema in enumerate(schemas):
            tell(f"schemas, {way}: {number} of {len(schemas)}")
            outcome, cost = _outcome(model, schema, mode, validator)
            outcomes[outcome] += 1
            positions += cost
        valid, supported = outcomes["valid"], outcomes["valid"] + outcomes["invalid"]
        judged = supported + outcomes["refused"]
        for name, count in ((f"{way}, of all", judged), (f"{way}, of those supported", supported)):
            if count:
                found.append(WayFigures("schema", name, valid, count, positions / max(supported, 1)))
    return found


def _outcome(model: Model, schema: Any, mode: Mode, validator: Any) -> tuple[Outcome, int]:
    """What became of one schema, and the positions that it took."""
    asked = [{"role": "user", "content": ASKED + json.dumps(schema, ensure_ascii=False)}]
    text, cost = "", 0
    try:
        constraint = {"json_schema": schema}
        for event in stream_generate(*model, asked, mode=mode, max_tokens=MOST_TOKENS, constraint=constraint):
            text += event.text
            if isinstance(event, Finish):
                stats = event.stats
                encoded = stats.encoder_positions - (stats.prompt_tokens - stats.cached_tokens)
                cost = stats.decoder_positions + encoded
    except OptionError:
        return "refused", 0
    try:
        return ("valid" if validator(schema).is_valid(json.loads(text)) else "invalid"), cost
    except ValueError:
        return "invalid", cost
    except Exception:  # patterns that Python's re does not know, references that lead elsewhere
        return "not judged", cost


def _validator() -> Any:
    try:
        return importlib.import_module("jsonschema").Draft202012Validator
    except ImportError:
        raise OptionError("schemas are judged by jsonschema, which is missing: pip install jsonschema") from None
