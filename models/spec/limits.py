"""How far attention may lie from its float64 reference. Imports no torch."""

from __future__ import annotations

LIMITS = {"bfloat16": 4e-3, "float16": 1e-3, "float32": 1e-5}
"""Relative error allowed by dtype. Rounding the exact answer to bfloat16 alone gives 1.65e-3, and the absorbed form
rounds its query and its sums once more; float16 has eight times finer steps, float32 works in three TF32 passes."""
ROW_LIMIT = 4.0
"""A single row may be so many times worse than the whole; chosen here, between the spread that rounding gives and 1."""
