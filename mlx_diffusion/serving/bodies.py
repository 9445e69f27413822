"""The bodies of requests: fields of exactly their types, no others, and one sentence for what is wrong with one.

Knows nothing of any interface.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)

from mlx_diffusion.serving.problems import RequestError, bad

MOST_DIGITS = 300
MOST_SAID = 3  # of what a value may be
KIND = re.compile(
    r"str|int|float|bool|(constrained-|function-|list\[|dict\[|literal\[|tagged-union|nullable).*|[A-Z]\w+"
)
MOST_STEPS = 1000  # that a request may ask for
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Positive = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(lt=2**63)]  # of whatever; the options themselves know their least


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
        # Of two values pydantic would take one without a word, and it takes numbers that JSON does not have.
        json.loads(
            body, object_pairs_hook=_without_twins, parse_constant=_number, parse_float=_number, parse_int=_number
        )
        return made

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """The body with these fields. Raises RequestError, one sentence that names the field."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise first_of(error) from None


class AsSent(Body):
    """A part of a body that is checked and then handed on as it was sent, to the order of its fields."""

    _sent: dict[str, Any] = PrivateAttr()

    @property
    def sent(self) -> dict[str, Any]:
        return self._sent

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, given: Any, check: ValidatorFunctionWrapHandler) -> Any:
        made = check(given)
        made._sent = given.sent if isinstance(given, AsSent) else given
        return made


def first_of(error: ValidationError) -> RequestError:
    """The first of a body's problems; of a value that may be of several kinds, the one that is furthest inside."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = _place(problems[0]["loc"])
    place = max((found for one in problems if (found := _place(one["loc"]))[: len(first)] == first), key=len)
    problems = [one for one in problems if _place(one["loc"]) == place]
    where, name = ".".join(place), place[0] if place else None
    if problems[0]["type"] == "extra_forbidden":
        return bad(f"{where} is not known to this server; leave it out", name)
    if problems[0]["type"] == "missing":
        return bad(f"{where} is missing", name)
    said = list(dict.fromkeys(one["msg"][:1].lower() + one["msg"][1:] for one in problems))
    return bad(f"{where or 'the body'}: {', or '.join(said[:MOST_SAID])}", name)


def _place(loc: Sequence[int | str]) -> list[str]:
    """Where a problem is, without the names of the kinds that a value may have."""
    return [str(part) for part in loc if not (isinstance(part, str) and KIND.fullmatch(part))]


def _number(digits: str) -> None:
    """Raises RequestError for what JSON does not have, as NaN, and for what no number here can hold."""
    if len(digits) > MOST_DIGITS or not math.isfinite(float(digits)):
        raise bad(f"{digits[:20]} is no number that can be taken; leave it out")


def _without_twins(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the body. Raises RequestError for one that has a field twice."""
    made: dict[str, Any] = {}
    for name, value in fields:
        if name in made:
            raise bad(f"{name[:80]!r} stands twice in one object; send it once", name[:80])
        made[name] = value
    return made
