"""Losses of the age networks, by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from inference.method import Prediction
from inference.unsupervised_mobilenet import SPREAD_MONTHS
from training.ages import AgeBatch
from training.ala_net import ala_net_loss
from training.maturity import maturity_loss

DENSITY_SPREAD_MONTHS = 6.0
"""Standard deviation of the label's distribution over monthly bins: about two readers' disagreement."""
_MEAN_WEIGHT = 1 / 6
_SEX_WEIGHT = 3.0


def absolute_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Mean absolute error in months, smooth within half a month."""
    return nn.functional.smooth_l1_loss(predicted.age_months, batch.age_months, beta=0.5)


def density_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Label-distribution learning (Gao et al., IEEE TIP 2017, eq. 4; the mean's error as in Gao et al., IJCAI 2018).

    Cross entropy of the predicted with a Gaussian age distribution, absolute error of its mean, and the
    cross entropy of the network's own estimate of the sex.
    """
    assert predicted.log_density is not None
    assert predicted.male_logit is not None
    centres = torch.arange(predicted.log_density.shape[1], device=batch.age_months.device) + 0.5
    target = torch.softmax(-(((centres - batch.age_months[:, None]) / DENSITY_SPREAD_MONTHS) ** 2) / 2, dim=1)
    entropy = -(target * predicted.log_density).sum(1).mean()
    sex = nn.functional.binary_cross_entropy_with_logits(predicted.male_logit, (batch.male > 0).float())
    return entropy + _MEAN_WEIGHT * absolute_loss(predicted, batch) + _SEX_WEIGHT * sex


def jigsaw_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Add up the mean absolute errors, in months, of 2M-Net's three steps (Liu et al. 2024, eq. 4, once per step)."""
    assert predicted.extras is not None
    steps = predicted.extras["step_months"]
    return (steps - batch.age_months[:, None]).abs().mean(0).sum()


def standardised_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Mean squared error of the age in standard deviations (Li et al. 2021, eq. 6 and 7)."""
    return nn.functional.mse_loss(predicted.age_months / SPREAD_MONTHS, batch.age_months / SPREAD_MONTHS)


LOSSES: dict[str, Callable[[Prediction, AgeBatch], Tensor]] = {
    "absolute": absolute_loss,
    "ala-net": ala_net_loss,
    "density": density_loss,
    "jigsaw": jigsaw_loss,
    "maturity": maturity_loss,
    "standardised": standardised_loss,
}


METHODS_OF: dict[str, str] = {
    "ala-net": "ala-net",
    "density": "house",
    "jigsaw": "2m-net",
    "maturity": "precise-baa",
}
"""The one method whose answers a loss can judge; the others are of the age alone."""
