"""The text that the chat shows before the first message.

Knows nothing of terminals.
"""

from mlx_diffusion.cli.arguments import REAL_MODEL

TRY = ("Copy: fig oak ant", "Reverse: fig oak ant", "In words: 4217")

TOY = f"""\
This is "demo", a toy that shows how text comes into focus: it knows small
tasks on lists, numbers and dates, and nothing of the world. Try:

    {TRY[0]}
    {TRY[1]}
    {TRY[2]}

Its lists are 3 to 6 words out of 40, which it names where others are given;
behind two questions it does best in a fresh conversation (/reset).

The real model is a download of 18 GB and wants 32 GB of memory:

    mlx-diffusion chat --model {REAL_MODEL}

`mlx-diffusion doctor` says what this machine can run; with less memory,
`mlx-diffusion convert` makes a smaller one.
"""
OTHER = "Chatting with {model}.\n"
KEYS = "/help shows what else there is; Ctrl-C stops an answer, Ctrl-D leaves."


def welcome(model: str) -> str:
    return (TOY + "\n" if model == "demo" else OTHER.format(model=model)) + KEYS
