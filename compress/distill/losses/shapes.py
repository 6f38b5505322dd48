"""Refuse to compare what has different shapes: broadcasting would do it without a word."""

from __future__ import annotations

from torch import Tensor

from compress.errors import CompressError


def same_shape(what: str, student: Tensor, teacher: Tensor) -> None:
    """``what`` names the loss and what it compares, such as ``masks: mask coefficients``.

    Raises:
        CompressError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise CompressError(
            f"distill: {what} have shape {tuple(student.shape)} in the student and "
            f"{tuple(teacher.shape)} in the teacher, so they cannot be compared. Leave this loss "
            "out, or choose a teacher of the same kind."
        )
