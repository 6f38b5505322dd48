"""Kullback-Leibler divergences of logits, from teacher to student, in float32.

The factor ``temperature^2`` keeps gradients as large as without temperature (Hinton et al.,
Distilling the knowledge in a neural network, 2015).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def softmax_kl(student: Tensor, teacher: Tensor, dim: int, temperature: float = 1.0) -> Tensor:
    """``temperature^2 * KL(softmax(teacher / T) || softmax(student / T))``, summed over ``dim``.

    Args:
        student: logits of any shape.
        teacher: the same shape; gets no gradient.
        dim: the dimension that is a distribution; it is gone in the result.
        temperature: T, above 0.
    """
    student_log = F.log_softmax(student.float() / temperature, dim)
    teacher_log = F.log_softmax(teacher.detach().float() / temperature, dim)
    divergence = F.kl_div(student_log, teacher_log, reduction="none", log_target=True)
    return divergence.sum(dim) * temperature**2


def bernoulli_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``temperature^2 * KL`` of one yes-or-no distribution an element.

    Binary cross entropy less the teacher's entropy: the same gradient, but 0 where both agree.

    Args:
        student: logits of any shape.
        teacher: the same shape; gets no gradient.
        temperature: T, above 0.

    Returns:
        The inputs' shape.
    """
    ours, theirs = student.float() / temperature, teacher.detach().float() / temperature
    targets = theirs.sigmoid()
    cross = F.binary_cross_entropy_with_logits(ours, targets, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(theirs, targets, reduction="none")
    return (cross - entropy) * temperature**2
