"""Drafts are planned by what became of those before, and given up where they do not pay."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.engine.drafting import FIRST_REST, WIDTHS, Agreement, Drafting, DraftMemory, FoundText, Plan

NOTHING = Plan("none", 1)


def per_position(positions: int) -> float:
    """A device for which a pass of 32 positions takes as long as nine of one."""
    return 1 + (positions - 1) / 4


def passes(plan: Plan) -> int:
    return {"none": 1, "found": 1, "denoised": 2}[plan.source]


def test_a_width_that_was_asked_for_is_the_width() -> None:
    drafting = Drafting(12, 1, 64)
    for _ in range(5):
        assert drafting.plan(found=9, room=100) == Plan("denoised", 12)
        drafting.record(Plan("denoised", 12), 0)
    assert drafting.plan(found=9, room=11) == NOTHING
    assert Drafting(1, 1, 64).plan(found=9, room=100) == NOTHING


def test_a_determined_text_is_drafted_as_wide_as_possible() -> None:
    drafting = Drafting(None, 1, 64)
    for _ in range(10):
        plan = drafting.plan(found=0, room=1000)
        assert plan == Plan("denoised", max(WIDTHS))
        drafting.record(plan, plan.width - 1)
    assert Drafting(None, 1, 16).plan(found=0, room=1000).width == 16
    assert Drafting(None, 1, 64).plan(found=0, room=9).width == 8
    assert Drafting(None, 1, 64).plan(found=0, room=3) == NOTHING


def test_a_run_of_text_found_before_needs_no_denoising() -> None:
    drafting = Drafting(None, 1, 64)
    assert drafting.plan(found=31, room=1000) == Plan("found", 32)
    drafting.record(Plan("found", 32), 0)
    drafting.record(Plan("found", 32), 0)
    assert drafting.plan(found=31, room=1000) == Plan("denoised", 32)


@pytest.mark.parametrize("agreed", [0, 1])
def test_drafts_that_fail_are_given_up_and_cost_little(agreed: int) -> None:
    """Never more than a tenth above a pass a token, over texts of any length from the first token on."""
    drafting, tokens, taken = Drafting(None, 1, 64), 1, 0  # the first token comes with the prompt
    while tokens < 500:
        plan = drafting.plan(found=0, room=1000)
        right = 0 if plan == NOTHING else agreed if tokens < 3 else 0
        drafting.record(plan, right)
        tokens, taken = tokens + 1 + right, taken + passes(plan)
        assert taken <= 1.1 * tokens + 1
    assert taken <= 1.05 * tokens


def test_a_rest_is_as_long_as_the_loss_asks_for() -> None:
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    plan = drafting.plan(found=0, room=1000)
    assert plan.source == "denoised"
    drafting.record(plan, 0)
    rested = 0
    while drafting.plan(found=0, room=1000) == NOTHING:
        drafting.record(NOTHING, 0)
        rested += 1
    lost = 2 * per_position(plan.width) - 1
    assert rested >= max(FIRST_REST, round(20 * lost))


def test_only_what_is_worth_a_wider_pass_is_verified() -> None:
    assert Drafting(None, 1, 64).verified([0.1, 0.1, 0.1]) == 3  # where a pass costs the same at any width
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    # each further position costs a quarter of a token
    assert drafting.verified([1.0, 0.9, 0.9, 0.2, 1.0]) == 3
    assert drafting.verified([0.1, 1.0, 1.0, 1.0]) == 0
    assert drafting.verified([]) == 0


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), max_size=20))
@settings(deadline=None)
def test_an_estimate_stays_a_probability(rounds: list[tuple[int, float]]) -> None:
    agreement = Agreement()
    for proposed, share in rounds:
        agreement.record(proposed, int(share * proposed))
        expected = [agreement.expected(count) for count in range(40)]
        assert all(0 <= one <= count for count, one in enumerate(expected))
        assert expected == sorted(expected)


def test_text_is_found_where_the_same_tokens_stood_last() -> None:
    text = FoundText()
    text.extend([1, 2, 3, 4, 5, 1, 2, 3, 6, 7])
    assert text.guess(9) == []  # 3 6 7 stood nowhere before
    text.extend([1, 2])
    text.extend([3])
    assert text.guess(9) == [6, 7, 1, 2, 3]  # the last time
    assert text.guess(2) == [6, 7]
    assert text.guess(0) == []
    assert FoundText().guess(3) == []


def test_what_one_text_taught_the_next_one_knows() -> None:
    memory = DraftMemory()
    first = Drafting(None, 1, 64, memory)
    for _ in range(4):
        first.record(first.plan(found=0, room=1000), 0)
    assert Drafting(None, 1, 64, memory).plan(found=0, room=1000) == NOTHING
    assert Drafting(None, 1, 64).plan(found=0, room=1000) != NOTHING
