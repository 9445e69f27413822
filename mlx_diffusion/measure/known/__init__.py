"""Texts that are known in part, measured: gaps filled, forms filled in and questions decided, beside their rivals."""
