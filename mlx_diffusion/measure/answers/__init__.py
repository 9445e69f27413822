"""How well a checkpoint answers and at what cost: suites of prompts with exact checkers, measured, kept and compared.

`session.run` measures an `EvaluationPlan` and gives an `Evaluation`, from which figures, comparisons, tables and plots
are made. Imports generation and tasks, and nothing of the command or of the converter.
"""
