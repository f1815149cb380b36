"""The loss of ordinal regression: K - 1 binary questions "is the age more than k months?" (``inference.ordinal``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def ordinal_loss(logits: Tensor, age_months: Tensor) -> Tensor:
    """Mean over the questions, eq. (1) of Wang et al. 2020, and over the films (and regions) of a batch.

    Ages are rounded to their rank first: unrounded, softened ones answer "yes" to the number of questions of their next
    whole month, half a month too many on average.

    Parameters
    ----------
    logits
        Shape (..., K - 1).
    age_months
        Shape (...), as the logits' leading axes or to be broadcast to them; months, whole or not.
    """
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    older = (age_months.round()[..., None] > ranks).float().expand_as(logits)
    return binary_cross_entropy_with_logits(logits, older)
