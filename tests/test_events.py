"""Events are frozen and all have text."""

import dataclasses

import numpy as np
import pytest

from mlx_diffusion.events import Draft, Event, Finish, Segment, Stats

STATS = Stats(3, 0, 5, 1, 4, 32, 3, 0.1, 0.2, None, 1000)
EVENTS: list[Event] = [
    Draft(0, 1, np.zeros(4, np.int32), np.zeros(4, np.int32), np.zeros(4, bool), np.zeros(4, np.float32)),
    Segment(0, (5, 6, 1), "fig oak"),
    Finish("stop", STATS),
]


def test_joined_texts_are_the_final_text() -> None:
    assert "".join(event.text for event in EVENTS) == "fig oak"


def test_events_of_a_single_prompt_are_of_row_0() -> None:
    assert [event.row for event in EVENTS] == [0, 0, 0]


@pytest.mark.parametrize("event", [*EVENTS, STATS])
def test_events_are_frozen(event: object) -> None:
    name = dataclasses.fields(event)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, 1)
