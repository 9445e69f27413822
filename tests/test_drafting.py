"""Drafts are planned by what became of those before, and given up where they do not pay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.engine.drafting import (
    CREDIT_A_TOKEN,
    FIRST_CREDIT,
    MOST_CREDIT,
    WIDTHS,
    Agreement,
    Cost,
    Drafting,
    DraftMemory,
    FoundText,
    Plan,
    counted,
)

NOTHING = Plan("none", 1)


def per_position(positions: int, unread: int = 0) -> float:
    """A device for which a pass of 32 positions takes as long as nine of one."""
    return 1 + (positions - 1) / 4


def write(drafting: Drafting, tokens: int, right: Callable[[Plan], int], cost: Cost = counted) -> float:
    """The time of so many tokens behind the first one, of whose drafts `right` tells how much is right."""
    written, taken = 0, 0.0
    while written < tokens:
        plan = drafting.plan([], room=1000)
        agreed = min(right(plan), plan.most)
        drafting.record(plan, agreed, plan.most)
        written, taken = written + 1 + agreed, taken + plan.cost + cost(1 + plan.most)
    return taken


def test_a_width_that_was_asked_for_is_the_width() -> None:
    drafting = Drafting(12, 1, 64)
    for _ in range(5):
        plan = drafting.plan([9], room=100)
        assert plan[:2] == ("denoised", 12)
        drafting.record(plan, 0, 11)
    assert drafting.plan([9], room=11) == NOTHING
    assert Drafting(1, 1, 64).plan([9], room=100) == NOTHING
    assert drafting.beside(part=9, room=100)[:2] == ("beside", 12)
    assert Drafting(12, 2, 64).beside(part=9, room=100) == NOTHING, "there is one step beside a prompt"


def test_a_determined_text_is_drafted_as_wide_as_possible() -> None:
    drafting = Drafting(None, 1, 64)
    assert drafting.beside(part=9, room=1000) == Plan("beside", max(WIDTHS), 0, max(WIDTHS) - 1)
    for _ in range(10):
        plan = drafting.plan([], room=1000)
        assert plan == Plan("denoised", max(WIDTHS), 1, max(WIDTHS) - 1)
        drafting.record(plan, plan.width - 1, plan.width - 1)
    assert Drafting(None, 1, 16).plan([], room=1000).width == 16
    assert Drafting(None, 1, 64).plan([], room=9).width == 8
    assert Drafting(None, 1, 64).plan([], room=2) == NOTHING


def test_where_wide_passes_are_dear_drafts_are_as_wide_as_answers_are_long() -> None:
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    for _ in range(30):
        plan = drafting.beside(part=40, room=1000)
        drafting.record(plan, min(5, plan.most), min(5, plan.most))
    assert plan[:2] == ("beside", 6) and plan.cost == pytest.approx(per_position(46) - per_position(40))


def test_a_run_of_text_found_before_needs_no_denoising() -> None:
    drafting = Drafting(None, 1, 64)
    plan = drafting.plan([31], room=1000)
    assert plan == Plan("found 1", 32, 0, 31)
    for _ in range(3):
        drafting.record(plan, 0, 31)
    assert drafting.plan([31], room=1000).source == "denoised"
    assert drafting.plan([31, 31], room=1000).source == "found 2", "more that stood there before is other evidence"


ROUNDS = st.lists(st.tuples(st.integers(0, 31), st.integers(0, 40), st.booleans(), st.floats(0, 1)), max_size=60)


@pytest.mark.parametrize("cost", [counted, per_position])
@given(part=st.integers(1, 100), rounds=ROUNDS)
@settings(deadline=None, max_examples=60)
def test_what_drafts_lose_is_bounded_after_every_round(
    cost: Cost, part: int, rounds: list[tuple[int, int, bool, float]]
) -> None:
    """Whatever becomes of them: the first credit, and a share of the tokens, are all that they may lose."""
    memory, tokens, taken = DraftMemory(cost), 0, 0.0
    for right, found, begins, likely in rounds:
        drafting = Drafting(None, 1, 64, memory)
        plan = drafting.beside(part, 1000) if begins else drafting.plan([found], 1000)
        taken += plan.cost
        if begins and plan != NOTHING and not right:
            drafting.record_useless(plan)
        else:
            drafted = plan.most if plan.source.startswith("found") else drafting.verified(plan, [likely] * plan.most)
            drafting.record(plan, min(right, drafted), drafted)
            tokens, taken = tokens + 1 + min(right, drafted), taken + cost(1 + drafted)
        assert taken <= tokens * (1 + CREDIT_A_TOKEN) + FIRST_CREDIT + 1e-9


@pytest.mark.parametrize("lucky", [0, 1, 5])
def test_better_times_pay_for_few_drafts_that_fail(lucky: int) -> None:
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    write(drafting, 100 * lucky, lambda plan: plan.most, per_position)
    assert write(drafting, 40, lambda plan: 0, per_position) <= 40 * (1 + CREDIT_A_TOKEN) + MOST_CREDIT


def test_drafts_are_tried_anew_and_pay_once_the_text_can_be_foreseen() -> None:
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    write(drafting, 300, lambda plan: 0, per_position)
    assert write(drafting, 400, lambda plan: plan.most, per_position) < 0.8 * 400


def test_what_the_prompts_own_pass_refutes_is_evidence() -> None:
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    before = drafting.memory.credit
    plan = drafting.beside(part=40, room=1000)
    drafting.record_useless(plan)
    assert drafting.memory.credit == before - plan.cost
    for _ in range(3):
        drafting.record_useless(plan)
    assert drafting.beside(part=40, room=1000) == NOTHING


def test_only_what_is_worth_a_wider_pass_is_verified() -> None:
    wide = Plan("denoised", 32, 1, 31)
    assert Drafting(None, 1, 64).verified(wide, [0.1, 0.1, 0.1]) == 3  # where a pass costs the same at any width
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    # each further position costs a quarter of a token
    assert drafting.verified(wide, [1.0, 0.9, 0.9, 0.2, 1.0]) == 3
    assert drafting.verified(wide, [0.1, 1.0, 1.0, 1.0]) == 0
    assert drafting.verified(wide, []) == 0
    assert drafting.verified(wide._replace(most=2), [1.0, 1.0, 1.0]) == 2


def test_drafts_are_as_wide_as_the_credit_bears() -> None:
    """A first draft risks little; once some have paid, they may be wider."""
    drafting = Drafting(None, 1, 64, DraftMemory(per_position))
    first = drafting.beside(part=40, room=1000)
    assert first.width < 8 and first.cost + per_position(1 + first.most) - 1 <= FIRST_CREDIT
    write(drafting, 200, lambda plan: plan.most, per_position)
    assert drafting.plan([], room=1000).width > 2 * first.width


@given(st.lists(st.tuples(st.integers(2, 32), st.floats(0, 1), st.floats(0, 1)), max_size=20))
@settings(deadline=None)
def test_an_estimate_stays_within_what_can_be(rounds: list[tuple[int, float, float]]) -> None:
    agreement = Agreement()
    for width, share, right in rounds:
        verified = int(share * (width - 1))
        agreement.record(width, int(right * verified), verified)
        found = [agreement.expected(count) for count in range(1, 33)]
        assert all(0 <= right <= count and 0 <= most <= count for count, (right, most) in enumerate(found))
        assert [right for right, _ in found] == sorted(right for right, _ in found)


def test_text_is_found_where_the_same_tokens_stood_last() -> None:
    text = FoundText()
    text.extend([1, 2, 3, 4, 5, 1, 2, 3, 6, 7])
    assert text.guess(3, 9) == text.guess(1, 9) == []  # 7 stood nowhere before
    text.extend([1, 2])
    assert text.guess(2, 9) == [3, 6, 7, 1, 2]
    text.extend([3])
    assert text.guess(3, 9) == [6, 7, 1, 2, 3]  # the last time
    assert text.guess(1, 2) == [6, 7]
    assert text.guess(3, 0) == []
    assert FoundText().guess(3, 3) == FoundText().guess(1, 3) == []


def test_what_one_text_taught_the_next_one_knows() -> None:
    memory = DraftMemory(per_position)
    for _ in range(6):
        drafting = Drafting(None, 1, 64, memory)
        plan = drafting.plan([31], room=1000)
        drafting.record(plan, 0, plan.most)
    memory.earn(FIRST_CREDIT - memory.credit)
    assert Drafting(None, 1, 64, memory).plan([31], room=1000) == NOTHING
    assert Drafting(None, 1, 64, DraftMemory(per_position)).plan([31], room=1000).source == "found 1"
