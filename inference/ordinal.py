"""Ordinal regression of ages (Niu et al., CVPR 2016): K ranks, K - 1 questions "is it older than rank k?".

The loss is in ``training.ordinal``.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANKS = 241
"""K: one rank per month, 0 to 240."""


def expected_rank(logits: Tensor) -> Tensor:
    """Add up the probabilities of all K - 1 questions (..., K - 1): the age in months, shape (...), 0..K - 1.

    Wang et al. 2020, section 3: "we could simply add the probabilities of all ranks to output the predicted bone age".
    """
    return torch.sigmoid(logits.float()).sum(-1)
