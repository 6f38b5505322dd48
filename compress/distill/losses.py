"""Distillation losses: pure functions over tensors, computed in float32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cwd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation: each channel's map as a distribution over positions.

    ``tau^2 / (N C) * sum_nc KL(softmax_hw(teacher / tau) || softmax_hw(student / tau))``.
    Source: Shu et al., Channel-wise knowledge distillation for dense prediction (2021), eq. 4.

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.
        temperature: tau, above 0.

    Returns:
        A scalar, 0 where both agree up to a constant in each channel.
    """
    batch, channels = student.shape[:2]
    # a softmax over thousands of positions overflows in half precision; memory order may be NHWC
    student_log = F.log_softmax(student.float().reshape(batch, channels, -1) / temperature, -1)
    teacher_log = F.log_softmax(
        teacher.detach().float().reshape(batch, channels, -1) / temperature, -1
    )
    divergence = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    return divergence * temperature**2 / (batch * channels)
