"""Texts that are known in part: gaps and forms are filled, questions decided, on a canvas that holds what is known."""
