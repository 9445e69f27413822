"""The bodies of requests: fields of exactly their types, no others, and one sentence for what is wrong with one.

Knows nothing of any interface.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mlx_diffusion.serving.problems import RequestError, bad


class Body(BaseModel):
    """What all bodies share: fields of exactly their types, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises RequestError, one sentence that names the field."""
        try:
            made = cls.model_validate_json(body)
        except ValidationError as error:
            raise first_of(error) from None
        json.loads(body, object_pairs_hook=_without_twins)  # of two values pydantic would take one without a word
        return made


def first_of(error: ValidationError) -> RequestError:
    """The first of a body's problems."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part) for part in problem["loc"]]
    name = place[0] if place else None
    if problem["type"] == "extra_forbidden":
        return bad(f"{'.'.join(place)} is not known to this server; leave it out", name)
    if problem["type"] == "missing":
        return bad(f"{'.'.join(place)} is missing", name)
    said = problem["msg"][:1].lower() + problem["msg"][1:]
    return bad(f"{'.'.join(place) or 'the body'}: {said}", name)


def _without_twins(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the body. Raises RequestError for one that has a field twice."""
    made: dict[str, Any] = {}
    for name, value in fields:
        if name in made:
            raise bad(f"{name[:80]!r} stands twice in one object; send it once", name[:80])
        made[name] = value
    return made
