"""How well a checkpoint answers and at what cost: suites of prompts with exact checkers, measured, kept and compared.

`session.run` measures a `Plan` and gives a `Record`; figures, comparisons, tables and plots are made from records.
Imports generation and tasks, and nothing of the command or of the converter.
"""
