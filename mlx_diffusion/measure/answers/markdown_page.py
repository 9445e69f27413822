"""An evaluation as a Markdown page, written from its file alone, so that page and file always agree.

Knows nothing of how the evaluation came about.
"""

from __future__ import annotations

from mlx_diffusion.display import count_of
from mlx_diffusion.measure.answers import tables
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.figures import denoises

PAGE = """\
# Right answers and what they cost

{model}, checkpoint `{checkpoint}`, on {device}: {prompts} of {families} in {ways}, none of
them in the training stream, seed {seed}, at most {max_tokens} an answer. Every prompt has noise of its own, the
same in all ways; all ways run under the same loop and the checkpoint's own rule of when a canvas is finished. Written
by `mlx-diffusion eval --show {source} --markdown FILE` from the outcomes of every prompt, so do not edit it.

{picture}{advice}

## All families together

{ways_table}

Intervals are Wilson's. *steps/canvas*: denoising steps that a canvas took; *passes/token* and *positions/token*: passes
of the network behind the prompt, and positions pushed through its layers, for every token written; *accepted/round*:
tokens of a draft that a pass of the encoder agreed with; *at limit*: canvases that took as many steps as they may;
*seconds*: of work, summed over what ran side by side. With {smallest} a family a share of right answers is
known to within about {half:.0f} points (95 %).
"""
DENOISED = """
## Right answers in per cent

{accuracy_table}

## Denoising steps a canvas

{steps_table}
"""
SIDE_BY_SIDE = """
## Family by family

{tables}
"""
PREDICTED = """
## Predicted speed

{prediction}

{table}
"""
BOUND = """
## What one step can reach

Where every order of n items is equally likely, independent draws at every position make a valid shuffle with
probability n!/nⁿ, whatever draws them. Measured with one step at temperature 1; *chance* is that of so many valid draws
or more under the bound, which is broken below 0.01; *valid argmax* is what the loop itself gives after one step, where
the most likely token is taken instead.

{bound_table}
"""


def markdown_page(evaluation: Evaluation, source: str, picture: str | None) -> str:
    """The page; `source` is the evaluation's file and `picture` the plot's, both as the page links them."""
    plan = evaluation.plan
    counts = [family["prompts"] for family in plan["families"].values()]
    smallest = min(counts)
    text = PAGE.format(
        model=evaluation.header["model"],
        checkpoint=evaluation.header["checkpoint"],
        device="a CPU" if evaluation.header["device"] == "cpu" else "a GPU",
        prompts=count_of(sum(counts), "prompt"),
        families=count_of(len(counts), "family"),
        ways=count_of(len(evaluation.labels), "way"),
        seed=plan["seed"],
        max_tokens=count_of(plan["max_tokens"], "token"),
        source=source,
        picture=f"![Accuracy against positions per token]({picture})\n\n" if picture else "",
        advice=tables.recommendation(evaluation) or "",
        ways_table=tables.variant_table(evaluation, markdown=True),
        smallest=count_of(smallest, "prompt"),
        half=100 * 0.98 / smallest**0.5,
    )
    if denoises(evaluation):
        text += DENOISED.format(
            accuracy_table=tables.accuracy_tables(evaluation, markdown=True),
            steps_table=tables.steps_tables(evaluation, markdown=True),
        )
    else:
        text += SIDE_BY_SIDE.format(tables="\n\n".join(tables.side_by_side_tables(evaluation, markdown=True)))
    if predicted := tables.predicted_table(evaluation, markdown=True):
        text += PREDICTED.format(prediction=tables.PREDICTION, table=predicted)
    if evaluation.first_steps:
        text += BOUND.format(bound_table=tables.bound_table(evaluation, markdown=True))
    return text
