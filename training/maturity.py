"""How stages of bones are learned: from radiologists' stages where there are some, from ages where there are not.

The paper's loss is cross entropy, weighted by class since some stages are rare (Jia et al. 2022, section 4.3). It needs
the stage of every bone, which no public set of films this project uses has. The weak loss needs the age only.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.finding import Sex
from inference.method import Prediction
from inference.rus_chn import MOST_STAGES, STAGE_COUNTS, curve_knots, stage_scores
from training.ages import AgeBatch

Float = npt.NDArray[np.float64]

EVENNESS_WEIGHT = 3.0
"""Months of age error that one unit of the even stages' cross entropy is worth."""
_LAST_MONTH = 240
_TINY = 1e-12
_LARGEST_WEIGHT = 5.0


def stage_loss(stages: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross entropy of bones with radiologists' stages.

    Parameters
    ----------
    stages
        Shape (N, 13, 15): probabilities.
    labels
        Shape (N, 13): stages from 0 on, or shape (N, 13, 15), distributions over them.
    weights
        Shape (13, 15): weight of each class, see :func:`class_weights`.

    Returns
    -------
    Tensor
        The weighted mean over films and bones, as ``torch.nn.CrossEntropyLoss`` weighs.
    """
    wanted = labels if labels.ndim == 3 else nn.functional.one_hot(labels, MOST_STAGES)
    weighted = wanted.float() * weights
    return -(weighted * torch.log(stages + _TINY)).sum() / weighted.sum()


def class_weights(shares: Tensor) -> Tensor:
    """Return weights (13, 15) of classes with these shares (13, 15) of a bone's films: inverse, 1 if all are alike.

    None is above 5, and a stage that never occurs has weight 0.
    """
    counts = torch.tensor(STAGE_COUNTS, dtype=shares.dtype)[:, None]
    inverse = 1 / (counts * shares.clamp(min=_TINY))
    return torch.where(shares > 0, inverse.clamp(max=_LARGEST_WEIGHT), 0.0)


@cache
def even_stages(sex: Sex) -> Tensor:
    """Return each bone's stages at ages of 0 to 240 months if all bones went through theirs evenly: (241, 13, 15).

    At one share of the way, 0 to 1, each bone stands between two of its stages. The points of all bones add up to a sum
    that grows with the share, and the curve says at which age children have that sum. So an age names a share, and the
    share two stages of each bone with a probability each.
    """
    share = np.linspace(0, 1, 2001)
    places = share[:, None] * (np.array(STAGE_COUNTS) - 1)
    points = stage_scores(sex)
    sums = sum(np.interp(places[:, bone], np.arange(MOST_STAGES), points[bone]) for bone in range(len(STAGE_COUNTS)))
    scores, months = curve_knots(sex)
    at_age = np.interp(np.arange(_LAST_MONTH + 1), months, scores)
    at_age_places = np.interp(at_age, sums, share)[:, None] * (np.array(STAGE_COUNTS) - 1)
    distance = np.abs(at_age_places[..., None] - np.arange(MOST_STAGES))
    return torch.tensor(np.clip(1 - distance, 0, None), dtype=torch.float32)


@cache
def _even_weights(sex: Sex) -> Tensor:
    """Return class weights as if films were spread evenly over the ages 1 to 18."""
    return class_weights(even_stages(sex)[12:217].mean(0))


def maturity_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Weak loss: the age's absolute error in months, and a little of the cross entropy with even stages.

    The age alone says nothing of which bone its points come from: without the second term a single bone could carry all
    change. It is the paper's class-weighted cross entropy, with stages that the age implies for bones that mature
    together, at a weight low enough for a film to say otherwise.
    """
    assert predicted.stages is not None
    error = nn.functional.smooth_l1_loss(predicted.age_months, batch.age_months, beta=0.5)
    month = batch.age_months.round().long().clamp(0, _LAST_MONTH).cpu()
    male = (batch.male > 0).cpu()[:, None, None]
    labels = torch.where(male, even_stages(Sex.MALE)[month], even_stages(Sex.FEMALE)[month])
    weights = torch.where(male, _even_weights(Sex.MALE), _even_weights(Sex.FEMALE))
    labels, weights = labels.to(predicted.stages.device), weights.to(predicted.stages.device)
    return error + EVENNESS_WEIGHT * stage_loss(predicted.stages, labels, weights)
