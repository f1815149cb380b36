"""ALA-Net, the anatomical local-aware network of Wang et al., MICCAI 2020: regions found and age estimated in one net.

A ResNet-50 reads the hand. On its fourth block a region proposal network finds 17 regions; RoIAlign and a head that all
regions share (four convolutions, one dense layer) describe each, and the maximum over the regions is the local feature.
Global, local and sex feature together go through an MLP to K - 1 probabilities "older than k months", whose sum is the
age. While training, a second MLP estimates the age from every region alone (anatomical patch training), and
``training.ala_net`` adds up eq. (2): L_ord + L_ord^patch + L_RPN.

Decisions where the paper is silent, and where this differs from it:

* The image: the paper's is the whole film, long side 512, aspect kept. Ours is the upright hand cut out of the film by
  the node's detector, long side 512, aspect kept (416 x 512), because a film may show two hands or lie on its side. The
  network still finds its regions by itself.
* Grey values are stretched between the 1st and 99th percentile; the paper does not equalise.
* The 17 key points: BoNet's annotations are not to be had. Ours are the first 17 of ``inference.anatomy.ROI_NAMES``, as
  the node's detector finds them: the 13 RUS bones and four carpal regions (all but the whole carpus, which holds the
  other four). A region has no name here: the RPN knows "region" and "none" only, as Ren et al. have it.
* "The 4th block of ResNet" is its last, conv5_x, at a stride of 32. All regions being 64 x 64, one anchor of that size
  at each place replaces the nine of Ren et al.
* The best 17 proposals are taken after greedy suppression at an overlap of 0.5 (Ren et al.: 0.7): the true regions
  overlap by less than 0.35, and there is no room for a region twice.
* RoIAlign gives 7 x 7 bins of 2 x 2 samples; the head's convolutions are 3 x 3 with 256 channels, batch normalisation
  and ReLU; its dense layer gives 1,024 features. No gradient goes through the boxes' places (as in Ren et al.).
* Sex goes through a linear layer to 32 values and ReLU, and joins both MLPs, each with one hidden layer of 512: a
  region's stage says nothing of the age without it.
* K = 241 ranks, one a month from 0 to 240; ages between two are taught as the nearer one.
* Shipped weights: trained with AdamW and one cycle, not Adam and steps, augmented as all methods are here, labels
  softened by 3 months; what the paper states is the recipe ``ala-net-paper``.
* ``width`` scales every convolution and the head's dense layer (1.0 is the paper's); the MLPs keep their hidden layer.

What a report shows as regions are the shared detector's 18, as with every method: the 17 the network proposes bear no
names, so nobody could be told which is which. ``compare`` measures both.

``extras`` of the prediction: ``ordinal_logits`` (N, 240); ``boxes`` (N, 17, 4), x0, y0, x1, y1 in input pixels, best
first, and ``box_scores`` (N, 17), 0..1; while training, too, ``patch_logits`` (N, 17, 240), ``anchor_logits`` (N, A),
``anchor_deltas`` (N, A, 4) and ``anchors`` (A, 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.anatomy import ROI_NAMES
from inference.method import Prediction
from inference.ordinal import RANKS, expected_rank
from inference.pose import Pose
from inference.preparation import stretched_crop
from inference.proposals import Proposals, RegionProposalNet, clip_boxes, pick_best
from inference.resnet import STRIDES, ResNetStages, make_mlp, pool_average
from inference.roi_align import roi_align

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

WINDOW = (0.11, 0.02, 0.89, 0.98)
"""What of the template's plane the input shows: 13 parts wide, 16 high."""
LONG_SIDE = 512
"""The paper's input: the long side in pixels."""
KEY_POINTS = ROI_NAMES[:17]
"""The key points that regions are centred on."""
BOX_SHARE = 64 / 512
"""Side of a region as a share of the input's long side."""

_BINS = 7
_LARGEST_OVERLAP = 0.5
_SEX_FEATURES = 32
_HIDDEN = 512


def key_boxes(centres: Tensor, rows: int) -> Tensor:
    """Return the boxes of the key points in pixels of an input of so many rows: shape (N, 17, 4).

    ``centres`` (N, 18, 2) are the ROIs' in the template's plane.
    """
    x0, y0, _, y1 = WINDOW
    corner = centres.new_tensor([x0, y0])
    middles = (centres[:, : len(KEY_POINTS)] - corner) * (rows / (y1 - y0))
    return torch.cat([middles - rows * BOX_SHARE / 2, middles + rows * BOX_SHARE / 2], dim=-1)


def _region_head(channels_in: int, channels: int, features: int) -> nn.Sequential:
    """Return the head that all regions share: four convolutions and one dense layer."""
    layers: list[nn.Module] = []
    for place in range(4):
        layers += [
            nn.Conv2d(channels_in if place == 0 else channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * _BINS**2, features), nn.ReLU(inplace=True))


class AlaNet(nn.Module):
    """Estimate bone age from a hand and from the regions it finds in it (Wang et al. 2020, Figure 2).

    Parameters
    ----------
    width
        Factor on the number of channels; 1.0 is the paper's.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.trunk = ResNetStages(50, width)
        channels = self.trunk.channels[-1]
        region, local = (max(8, round(width * c / 8) * 8) for c in (256, 1024))
        self.proposer = RegionProposalNet(channels, max(8, round(width * 512 / 8) * 8))
        self.region_head = _region_head(channels, region, local)
        self.sex = nn.Sequential(nn.Linear(1, _SEX_FEATURES), nn.ReLU(inplace=True))
        self.whole = make_mlp(channels + local + _SEX_FEATURES, _HIDDEN, RANKS - 1)
        self.patch = make_mlp(local + _SEX_FEATURES, _HIDDEN, RANKS - 1)

    def forward(self, image: Tensor, male: Tensor) -> Prediction:
        """Return bone ages in months, with the regions in ``extras`` (see the module).

        Parameters
        ----------
        image
            Shape (N, 1, rows, columns), float32 of -1..1; rows are the long side.
        male
            Shape (N,), float32: +1 male, -1 female.
        """
        maps = self.trunk(image)[-1]
        proposals = self.proposer(maps, STRIDES[-1], BOX_SHARE * image.shape[-2])
        boxes, scores = self.best_boxes(proposals, image.shape[-2], image.shape[-1])
        local = self.local_features(maps, boxes)
        sex = self.sex(male[:, None])
        logits = self.whole(torch.cat([pool_average(maps), local.amax(1), sex], dim=1))
        extras = {"ordinal_logits": logits, "boxes": boxes, "box_scores": scores}
        if self.training:
            patch_sex = sex[:, None].expand(-1, local.shape[1], -1)
            extras |= {
                "patch_logits": self.patch(torch.cat([local, patch_sex], dim=-1)),
                "anchor_logits": proposals.logits,
                "anchor_deltas": proposals.deltas,
                "anchors": proposals.anchors,
            }
        return Prediction(expected_rank(logits), extras=extras)

    @staticmethod
    def best_boxes(proposals: Proposals, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return the 17 best regions, boxes (N, 17, 4) within an image of that size and scores (N, 17)."""
        boxes, scores = clip_boxes(proposals.boxes(), rows, columns), torch.sigmoid(proposals.logits.detach())
        best = pick_best(boxes, scores, len(KEY_POINTS), _LARGEST_OVERLAP)
        return boxes.gather(1, best[..., None].expand(-1, -1, 4)), scores.gather(1, best)

    def local_features(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Describe each region: shape (N, 17, 1024 x width)."""
        patches = roi_align(maps, boxes, STRIDES[-1], side=_BINS)
        described: Tensor = self.region_head(patches.flatten(0, 1))
        return described.reshape(*boxes.shape[:2], -1)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take a ResNet-50's weights for the trunk; see :meth:`inference.resnet.ResNetStages.load_imagenet`."""
        self.trunk.load_imagenet(weights)


class AlaNetMethod:
    """The method with its network's width and its input's long side in pixels."""

    name = "ala-net"

    def __init__(self, width: float, long_side: int) -> None:
        self.width, self.rows, self.columns = width, long_side, long_side * 13 // 16

    def make_net(self) -> AlaNet:
        """Return the network with fresh weights."""
        return AlaNet(self.width)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey]:  # noqa: ARG002 - as AgeMethod has it
        """Return the upright hand, shape (rows, columns); the net finds its regions without the ROIs' centres."""
        return (stretched_crop(film, pose, (self.columns, self.rows), WINDOW),)


KEYS = ("width", "long_side")
"""What :func:`open_method` reads of a configuration."""


def open_method(config: dict[str, Any]) -> AlaNetMethod:
    """Read ``width`` and ``long_side`` (512 if it is not given)."""
    return AlaNetMethod(float(config["width"]), int(config.get("long_side", LONG_SIDE)))
