"""Prompts whose answer is a text that is known in part: one with gaps to be filled, or one answer to each question.

A model that was tuned on conversations is asked to write out the whole text, so that what is known of it can be held in
place on the canvas of the answer. Knows nothing of tokens or models.
"""

from collections.abc import Sequence


def gaps_prompt(parts: Sequence[str], context: str = "", language: str = "") -> str:
    """Asks for the text that has `parts` in this order, with a gap between each two; the answer is the whole of it.

    context: what belongs in the gaps, or what else there is to know; it comes first. language: what the text is in, as
    "Python" or "French".
    """
    marker = "___"
    while any(marker in part for part in parts):
        marker += "_"
    what = f"the whole text, in {language}" if language else "the whole text"
    return f"{_before(context)}Fill in {marker} and write {what}:\n{marker.join(parts)}"


def context_prompt(context: str, language: str = "") -> str:
    """Asks for a text by its context alone, where all that is known of the text stands on the canvas."""
    return f"{context}\n\nWrite in {language}." if language else context


def questions_prompt(state: str, questions: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Asks each question about `state`, with the answers that it may have; `answer_lines` is the form of the answer."""
    lines = [f"{number}. {text} ({', '.join(choices)})" for number, (text, choices) in enumerate(questions, start=1)]
    return "\n".join([f"{_before(state)}Answer each question:", *lines])


def answer_lines(answers: Sequence[str]) -> str:
    """One answer to each question, in the order in which they were asked."""
    return "\n".join(f"{number}. {answer}" for number, answer in enumerate(answers, start=1))


def _before(context: str) -> str:
    return f"{context}\n\n" if context else ""
