"""When a canvas is finished, and where a finished text ends.

Pure rules on arrays and lists of ids. Knows nothing of models, of sampling or of text. The first rule is that of
Transformers' `StableAndConfidentStoppingCriteria`, told by a count a row instead of a history of canvases.
"""

from collections.abc import Collection, Sequence

import mlx.core as mx


def agreement(argmax: mx.array, previous: mx.array, streak: mx.array) -> mx.array:
    """How many earlier steps in a row had this same argmax canvas: int32 [B, L] twice, int32 [B] -> int32 [B].

    `previous` is the argmax of the step before (-1 everywhere when there is none), `streak` its agreement.
    """
    return mx.where((argmax == previous).all(axis=-1), streak + 1, 0)


def stable_and_confident(
    streak: mx.array, mean_entropy: mx.array, stability: int | mx.array, confidence: float | mx.array
) -> mx.array:
    """Whether each row's canvas is finished: int32 [B], float32 [B] in nats -> bool [B].

    `stability` k asks for k + 1 equal argmax canvases in a row, 0 for nothing; the mean entropy must be below
    `confidence` as well.
    """
    return (streak >= stability) & (mean_entropy < confidence)


def through_stop(tokens: Sequence[int], stop_ids: Collection[int]) -> tuple[list[int], bool]:
    """`tokens` up to and including the first stop token, and whether there was one."""
    for index, token in enumerate(tokens):
        if token in stop_ids:
            return list(tokens[: index + 1]), True
    return list(tokens), False
