"""Unsupervised localisation and MobileNetV3 of Li et al. 2021, a deep learning-based computer-aided diagnosis method.

Two parts. *Unsupervised learning of object localization*, Algorithm 1: a small network is trained on the one film at
hand until its pixels fall into few clusters, after Kim et al., IEEE TIP 2020; the largest region that is not background
is the hand, and its box is cut out. *Deep-learning-based bone age assessment*, Table 1: MobileNetV3-Large on the
equalised crop, 24 features of the sex beside its 1,280, and a multilayer perceptron.

Decisions where the paper is silent or contradicts itself:

* Eq. (2) takes the logarithm of responses that are normalised, not probabilities: a softmax comes before it, as in Kim
  et al.; both losses are means, over pixels for eq. (2), over pixels and channels for eq. (4), not sums, since a
  learning rate of 0.1 is for means. ReLU and batch normalisation follow each of the two convolutions (3 x 3).
* The clusters are those of a film 96 pixels long: the box needs no more, and 50 iterations take about a second or two.
* Which clusters are background is not said. Here: those that hold a tenth or more of the film's margin (3 % at every
  edge but the lower one, where the forearm leaves the film), and those darker than the margin. A region that fills
  three quarters of its box is no hand but a film within a frame, and is treated in the same way again.
* If no region of at least 5 % of the film is left, what was there before, at worst the whole film, is the hand.
* The convolutions repeat the film's edge; zeros around it would make the edge a cluster of its own.
* The network starts from the same random weights for every film, so that one film always gives one box.
* The box is resized into a square whatever its shape.
* "About 7.6 million parameters" are 5.9 million if the perceptron has one linear layer of 1,304 units before the
  output. With two, an input and a hidden one, they are 7,606,825, so that is what was built (288 fewer here: a film is
  grey, and the first convolution takes one channel in place of three).
* "Standardisation" uses mean 127.3 and standard deviation 41.2 months, those of the RSNA training films.
* Where the learning rate starts, which falls by ten every 30 epochs, is not said. Shipped weights: AdamW with one
  cycle, augmented as all methods are here, labels softened by 3 months; the paper's own: recipe
  ``unsupervised-mobilenet-paper``, from 0.01.

``localiser`` says where the hand comes from: "paper" is Algorithm 1; "shared" is this project's detector, upright and
always a left hand, which costs milliseconds, works on films with borders, and lets training move the crop. "shared" is
the default. With "paper", pose and ROIs play no part: of this project's augmentation only the grey values' has an
effect; one that a recipe names moves the crop.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.detector import crop_upright
from inference.localiser import Localiser, read_localiser
from inference.method import Prediction
from inference.mobilenet_v3 import MobileNetV3
from inference.pose import Pose
from inference.preparation import HAND_WINDOW, equalisation_table

Grey = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]

# Algorithm 1 and its section.
CHANNELS = 90
"""p and q: channels of the features, and the most clusters there can be."""
ITERATIONS = 50
LEARNING_RATE, MOMENTUM = 0.1, 0.9
SIMILARITY_WEIGHT, CONTINUITY_WEIGHT = 4.0, 1.0
CLUSTER_SIDE = 96
"""Longer side, in pixels, of the film that is clustered."""
_MARGIN_SHARE, _BACKGROUND_SHARE = 0.03, 0.1
_SMALLEST_SHARE = 0.05
_FRAME_SHARE, _MOST_FRAMES = 0.75, 3
_SEED = 2021
_BOXES_KEPT = 16384  # the films of a whole training

# Table 1 and "Details of training".
SIDES = (224, 500, 700)
"""Sides of the square inputs the paper compares."""
FEATURES = 1280
SEX_FEATURES = 24
MEAN_MONTHS, SPREAD_MONTHS = 127.3, 41.2


def similarity_loss(responses: Tensor, labels: Tensor) -> Tensor:
    """Eq. (2) of responses (1, q, H, W) and labels (1, H, W): cross entropy of each pixel with its own cluster."""
    return nn.functional.cross_entropy(responses, labels)


def continuity_loss(responses: Tensor) -> Tensor:
    """Eq. (4) of responses (1, q, H, W): mean absolute differences of neighbours, vertical and horizontal."""
    down = (responses[..., 1:, :] - responses[..., :-1, :]).abs().mean()
    right = (responses[..., :, 1:] - responses[..., :, :-1]).abs().mean()
    return down + right


class ClusterNet(nn.Module):
    """Two 3 x 3 convolutions, one 1 x 1, batch normalisation: responses whose largest is a pixel's cluster (Fig. 5)."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in in (1, channels):
            layers += [
                nn.Conv2d(channels_in, channels, 3, padding=1, padding_mode="replicate"),
                nn.ReLU(),
                nn.BatchNorm2d(channels),
            ]
        self.features = nn.Sequential(*layers)
        self.response = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Map a (1, 1, H, W) image to responses (1, channels, H, W)."""
        responses: Tensor = self.response(self.features(image))
        return responses

    def start(self, seed: int) -> None:
        """Draw the convolutions' weights anew (He et al. 2015), the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)


def cluster(image: Grey, iterations: int = ITERATIONS) -> Labels:
    """Cluster the pixels of an image (H, W): lines 1 to 7 of Algorithm 1; returns labels (H, W) of 0..89."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        values = torch.from_numpy(image.astype(np.float32) / 255)[None, None]
        net = ClusterNet()
        net.start(_SEED)
        optimiser = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        labels = torch.zeros(1, *image.shape, dtype=torch.long)
        for _ in range(iterations):
            responses = net(values)
            labels = responses.argmax(1)
            loss = SIMILARITY_WEIGHT * similarity_loss(responses, labels)
            loss = loss + CONTINUITY_WEIGHT * continuity_loss(responses)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    found: Labels = labels[0].numpy()
    return found


def hand_region(labels: Labels, image: Grey) -> Mask:
    """Remove the background's clusters and return the largest region left, shape (H, W): lines 8 and 9.

    ``image`` is what was clustered, bones bright. All of it is the answer if no region is large enough.
    """
    region = np.ones(image.shape, dtype=bool)
    for _ in range(_MOST_FRAMES):
        left, top, width, height = cv2.boundingRect(region.astype(np.uint8))
        inside = np.s_[top : top + height, left : left + width]
        if region[inside].mean() < _FRAME_SHARE:
            break
        largest = _largest(_without_background(labels[inside], image[inside]))
        if largest.sum() < _SMALLEST_SHARE * region.size:
            break
        region = np.zeros_like(region)
        region[inside] = largest
    return region


def _without_background(labels: Labels, image: Grey) -> Mask:
    """Say of each pixel whether its cluster is neither of the margin nor darker than it."""
    width = max(1, round(_MARGIN_SHARE * max(image.shape)))
    margin = np.ones(image.shape, dtype=bool)
    margin[width:, width:-width] = False
    background = np.bincount(labels[margin], minlength=CHANNELS) > _BACKGROUND_SHARE * margin.sum()
    edge = np.median(image[margin])
    for label in np.unique(labels):
        background[label] |= np.median(image[labels == label]) <= edge
    return np.asarray(~background[labels], dtype=np.bool_)


def _largest(mask: Mask) -> Mask:
    """Return the largest connected region of a mask, or the mask if it is empty."""
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(statistics) < 2:
        return mask
    return np.asarray(regions == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax(), dtype=np.bool_)


class HandBox(NamedTuple):
    """A half-open box in film pixels."""

    left: int
    top: int
    right: int
    bottom: int


def locate_hand(film: Grey) -> HandBox:
    """Return the hand's bounding box in a film, bones bright: Algorithm 1."""
    rows, columns = film.shape
    scale = min(1.0, CLUSTER_SIDE / max(rows, columns))
    extent = (max(8, round(columns * scale)), max(8, round(rows * scale)))
    small = np.asarray(cv2.resize(film, extent, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    region = hand_region(cluster(small), small)
    down, across = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    step_x, step_y = columns / extent[0], rows / extent[1]
    return HandBox(
        int(across[0] * step_x),
        int(down[0] * step_y),
        min(columns, round((across[-1] + 1) * step_x)),
        min(rows, round((down[-1] + 1) * step_y)),
    )


class UnsupervisedMobileNet(nn.Module):
    """Estimate bone age from one crop of the hand (Table 1).

    Parameters
    ----------
    width
        Factor on the trunk's channels; 1.0 is the paper's. The 1,280 features and the perceptron stay.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.trunk = MobileNetV3(width)
        self.head = nn.Sequential(nn.Linear(self.trunk.channels, FEATURES), nn.Hardswish(inplace=True))
        self.sex = nn.Sequential(nn.Linear(1, SEX_FEATURES), nn.ReLU(inplace=True))
        joined = FEATURES + SEX_FEATURES
        self.perceptron = nn.Sequential(
            nn.Linear(joined, joined),
            nn.ReLU(inplace=True),
            nn.Linear(joined, joined),
            nn.ReLU(inplace=True),
            nn.Linear(joined, 1),
        )

    def features(self, image: Tensor, male: Tensor) -> Tensor:
        """Return what the perceptron sees, shape (N, 1304), of the same inputs as :meth:`forward`."""
        image_features = self.head(self.trunk(image).mean((-2, -1)))
        return torch.cat([image_features, self.sex((male[:, None] + 1) / 2)], dim=1)  # 0 and 1, as the paper codes sex

    def forward(self, image: Tensor, male: Tensor) -> Prediction:
        """Return bone ages in months.

        Parameters
        ----------
        image
            Shape (N, 1, side, side), float32 of -1..1.
        male
            Shape (N,), float32: +1 male, -1 female.
        """
        standard: Tensor = self.perceptron(self.features(image, male)).float().squeeze(1)
        return Prediction(standard * SPREAD_MONTHS + MEAN_MONTHS)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take the trunk and the 1,280 features from torchvision's weights; see :class:`MobileNetV3`."""
        self.trunk.load_imagenet(weights)
        self.head[0].load_state_dict({key: weights[f"classifier.0.{key}"] for key in ("weight", "bias")})


class UnsupervisedMobileNetMethod:
    """The method with its input's side in pixels, its network's width and where it takes the hand from."""

    name = "unsupervised-mobilenet"

    def __init__(self, side: int, width: float, localiser: Localiser) -> None:
        self.side, self.width, self.localiser = side, width, localiser
        self._boxes: dict[bytes, HandBox] = {}

    def make_net(self) -> UnsupervisedMobileNet:
        """Return the network with fresh weights."""
        return UnsupervisedMobileNet(self.width)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey]:  # noqa: ARG002 - as AgeMethod has it
        """Return the equalised crop, shape (side, side); the ROIs' centres play no part."""
        crop = self._cut(film) if self.localiser == "paper" else crop_upright(film, pose, self.side, HAND_WINDOW)
        return (np.asarray(cv2.LUT(crop, equalisation_table(crop)), dtype=np.uint8),)

    def _cut(self, film: Grey) -> Grey:
        box = self._box_of(film)
        hand = film[box.top : box.bottom, box.left : box.right]
        return np.asarray(cv2.resize(hand, (self.side, self.side), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _box_of(self, film: Grey) -> HandBox:
        """Locate the hand once per film: training sees each many times."""
        key = hashlib.blake2b(np.ascontiguousarray(film).data, digest_size=16).digest()
        if key not in self._boxes:
            if len(self._boxes) >= _BOXES_KEPT:
                self._boxes.clear()
            self._boxes[key] = locate_hand(film)
        return self._boxes[key]


KEYS = ("side", "width", "localiser")
"""What :func:`open_method` reads of a configuration."""


def open_method(config: dict[str, Any]) -> UnsupervisedMobileNetMethod:
    """Read ``side`` (pixels, 224), ``width`` (1.0) and ``localiser`` ("shared" or "paper", "shared").

    Raises
    ------
    BundleError
        If there is no such localiser.
    """
    side, width = int(config.get("side", SIDES[0])), float(config.get("width", 1.0))
    return UnsupervisedMobileNetMethod(side, width, read_localiser(config))
