"""The help of `mlx-diffusion eval`, and the checks of its command line: options that do not go together."""

import argparse

from mlx_diffusion.cli.eval.known import is_known

EPILOG = """\
examples:
  mlx-diffusion eval
  mlx-diffusion eval --suite lists --mode reference --mode confidence:0.9 -o eval.json
  mlx-diffusion eval --mode all --sweep temperature=0,1 -o ways.json --markdown ways.md
  mlx-diffusion eval --sweep max_denoising_steps=1,2,4,8,16,48 -o steps.json --plot steps.png
  mlx-diffusion eval --model ./mine-4bit --suite worded-lists,questions.jsonl --max-tokens 256
  mlx-diffusion eval --compare before.json after.json
  mlx-diffusion eval --show steps.json --plot steps.svg --markdown steps.md
  mlx-diffusion eval --recipes 8bit,4bit,2bit --count 50
  mlx-diffusion eval --calibrate --model ./mine-4bit --suite worded-lists,worded-numbers

suites:
  lists, squares (the default: the task set of ParallelBench), numbers, records, code, stories, thinking, tools;
  all of these; worded-lists, worded-squares, worded-numbers: the same in words, for checkpoints that did not train
  on the tasks;
  any single family (shuffle, worded-sort, ...); FILE.jsonl: lines of {"prompt": ..., "answer": ...}, where "regex" or
  "checker" (contains, number, json, permutation, insertion, removal, replacement, latin, sudoku) may stand for "answer"
  infill, forms, decisions: texts known in part, by themselves and beside their rivals; worded-infill, worded-forms and
  worded-decisions: the same in words; infill:FILE.jsonl reads gaps in the form of HumanEval-Infilling, packed or not,
  and compares with the solution (nothing of it is run); schema:FILE.jsonl reads schemas in the form of JSONSchemaBench

modes:
  reference         canvases, denoised by the published sampler
  autoregressive    one token a pass, by the encoder alone
  speculative       the same tokens, drafted and then verified several a pass; all: the library's own modes
  speculative:CHIP  drafted as on one of Apple's chips, whose passes cost what the published model's are predicted to,
                    as in "speculative:M4 Pro"; the prompts of a batch are drafted in turn and teach each other
  confidence:0.9    canvases; keep tokens of at least this probability
  random:0.5        canvases; keep tokens by chance: a broken sampler, to see that it shows
A sweep is of the modes that have its option: temperature=0,1 is not of reference, which runs once.

Interrupted, the same command goes on. Results go to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""
NOT_CALIBRATED = ("mode", "sweep", "recipes", "output", "answers", "plot", "markdown", "show", "compare")


def check_usage(args: argparse.Namespace) -> None:
    """End with wrong usage where options do not go together."""
    measuring = ("suite", "count", "mode", "sweep", "recipes", "output", "batch_size", "workers", "max_tokens")
    given = [name for name in measuring if getattr(args, name)]
    for name in ("count", "max_tokens", "batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            args.usage_error(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
    if args.seed < 0:
        args.usage_error(f"--seed is {args.seed}; it must be 0 or more")
    if (args.show or args.compare) and given:
        args.usage_error(f"--{given[0].replace('_', '-')} measures, which --show and --compare do not; leave out one")
    if args.compare and (args.plot or args.markdown):
        args.usage_error("--compare draws and writes nothing; use --show for that")
    if args.recipes is not None and (args.plot or args.answers):
        args.usage_error("--recipes draws nothing and keeps no answers; leave out --plot and --answers")
    known = any(is_known(suite.strip()) for suite in (args.suite or "").split(","))
    if args.markdown and not (args.output or args.show or known):
        args.usage_error("--markdown names the JSON file that it is made from; add --output FILE")
    if args.answers and not args.output:
        args.usage_error("--answers are kept in the output; add --output FILE")
    if args.calibrate:
        unlike = [name for name in NOT_CALIBRATED if getattr(args, name)]
        if unlike:
            args.usage_error(f"--calibrate has no --{unlike[0]}; leave out one")
