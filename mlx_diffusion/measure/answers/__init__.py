"""Evaluations of a checkpoint's answers and their cost: suites with exact checkers, run, kept and compared.

`runner.evaluate` runs an `EvaluationPlan` and gives an `Evaluation`, from which figures, comparisons, tables and plots
are made. Knows nothing of the command.
"""
