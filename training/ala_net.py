"""The loss of ALA-Net: age, age of every region, regions (Wang et al. 2020, eq. 2)."""

from __future__ import annotations

from torch import Tensor

from inference.ala_net import key_boxes
from inference.method import Prediction
from training.ages import AgeBatch
from training.ordinal import ordinal_loss
from training.proposals import proposal_loss


def ala_net_terms(predicted: Prediction, batch: AgeBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return L_ord, L_ord^patch and L_RPN of a network in training mode."""
    found, centres = predicted.extras, batch.centres
    assert found is not None
    assert centres is not None
    boxes = key_boxes(centres, rows=batch.inputs[0].shape[-2])
    return (
        ordinal_loss(found["ordinal_logits"], batch.age_months),
        ordinal_loss(found["patch_logits"], batch.age_months[:, None]),
        proposal_loss(found["anchor_logits"], found["anchor_deltas"], found["anchors"], boxes),
    )


def ala_net_loss(predicted: Prediction, batch: AgeBatch) -> Tensor:
    """Add up the three terms."""
    age, patches, regions = ala_net_terms(predicted, batch)
    return age + patches + regions
