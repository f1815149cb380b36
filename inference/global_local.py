"""The global-local fusion network of Hui et al., Appl. Sci. 2022, 12, 7218: Table 1 and Figure 7.

Two pathways of nine convolutions each, a whole-hand image and 18 ROI patches stacked as channels, are concatenated
after each of four stages; two valid convolutions, global max pooling, dense 512 and dense 1 follow. Batch
normalisation and ReLU come after each convolution.

Decisions where the paper is silent or contradicts itself:

* "2 x 2 x 2048" after the last two convolutions (section 4.2) against Table 1's strides: plain arithmetic gives
  7 -> 3 -> 1, and Table 1 is what is built; global max pooling is then over one position at 224 pixels.
* The figure shows one concatenated map feeding "the global path": the fused map goes on in the global pathway, the
  local pathway goes on from its own map. Conv 4 of the global pathway therefore sees twice the channels of conv 3.
* The paper evaluates both sexes with one network and does not say how sex enters, or whether it does. Here sex is
  embedded in 32 values that join the pooled feature before dense 512.
* Dense 512 is followed by ReLU and dropout; the output is the age in units of 12 months around 10 years, so that Adam's
  step size of 0.001 suits it.
* "The entire left-hand skeleton" is cut out upright by the shared detector and squashed into the square; the ROIs are
  squares of a fixed share of the hand around their centres (``inference.preparation``), so that a patch's scale tells
  size as the hand does. Which 18 ROIs: ``inference.anatomy``.
* What is equalised, film or hand: here the hand's window, whose table also serves the patches. Markers and collimated
  borders would otherwise take part of the grey values.
* Softened labels: each draw of a training film moves its age by a random amount of up to 3 months.
* The loss of the age is not named. Here the mean absolute error in months, smooth within half a month (smooth L1, beta
  0.5: ``training.losses``).
* The detector as the paper trains it is the recipe ``regions-paper``; the shipped one's is ``regions``.
* Shipped weights, recipe ``global-local``: AdamW and one cycle, not Adam and steps of a third; batches of 32, not 64;
  64 epochs of 100 batches, not at most 100 of all films; no early stopping (patience 10), but the best epoch by
  validation MAE; augmented as all methods are here, films of 100 x 100 pixels among them. What the paper states is the
  recipe ``global-local-paper``.
* The ablation of Table 4 takes a pathway away: what is left goes through its own four stages and straight into the last
  two convolutions, which then see half the channels. Equalisation is a switch of its own.
* ``width`` scales every convolution (1.0 is the paper's 121 million parameters); the dense layer keeps its 512 units.

``localiser`` says where the hand and the ROIs come from: "paper" is the paper's one-stage detector
(:mod:`inference.yolo`), with weights of its own in the bundle; "shared", the default, is this project's landmark
detector (``dicom_node/decisions/0003-own-detector-before-yolov5.md`` says why). With "paper" the film is seen as it
lies, equalised, in a square of 640 pixels, of which the detector sees ``detector_side``; patches are the boxes grown to
squares, a region that is not found is grey, and the hand's histogram flattens the grey values once more, as in
training. ``extras`` of the prediction then: ``boxes`` (N, 18, 4) in pixels of that square, ``box_scores`` (N, 18).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.errors import BundleError
from inference.localiser import Localiser, read_localiser
from inference.method import WEIGHTS, Prediction
from inference.pose import Pose
from inference.preparation import equalisation_table, fit_film, prepare
from inference.roi_align import grow_to_squares, roi_align
from inference.yolo import RegionNet, Regions, hand_bounds, locate_in_square

Grey = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

Paths = Literal["both", "global", "local"]
"""Which pathways a network has; the paper's has both."""

GLOBAL_SIDE = 224
"""Side of the global input in pixels."""
LOCAL_SIDE = 64
"""Side of each ROI patch in pixels."""
LOCAL_CHANNELS = 18
"""Number of ROI patches."""

REGIONS_FILE = "regions.safetensors"
"""The paper's detector in the bundle."""
FILM_SIDE = 640
"""Side of the square that holds the whole film for the paper's localiser, in pixels."""

_MEAN_MONTHS = 126.0
_UNIT_MONTHS = 42.0
_SEX_FEATURES = 32


def _convolution(channels_in: int, channels_out: int, side: int, stride: int, *, same: bool) -> nn.Sequential:
    padding = side // 2 if same else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _local_stages(channels: list[int]) -> nn.ModuleList:
    c1, c2, c3, c4, c5 = channels
    return nn.ModuleList(
        [
            nn.Sequential(
                _convolution(LOCAL_CHANNELS, c1, 5, 1, same=False),
                _convolution(c1, c2, 5, 1, same=False),
                _convolution(c2, c2, 3, 1, same=True),
            ),
            nn.Sequential(_convolution(c2, c3, 3, 2, same=True), _convolution(c3, c3, 3, 1, same=True)),
            nn.Sequential(_convolution(c3, c4, 3, 2, same=True), _convolution(c4, c4, 3, 1, same=True)),
            nn.Sequential(_convolution(c4, c5, 3, 2, same=True), _convolution(c5, c5, 3, 1, same=True)),
        ]
    )


def _global_stages(channels: list[int], maps: int) -> nn.ModuleList:
    c1, c2, c3, c4, c5 = channels
    return nn.ModuleList(
        [
            nn.Sequential(
                _convolution(1, c1, 7, 2, same=True),
                _convolution(c1, c2, 7, 2, same=True),
                _convolution(c2, c2, 7, 1, same=True),
            ),
            nn.Sequential(_convolution(maps * c2, c3, 3, 2, same=True), _convolution(c3, c3, 3, 1, same=True)),
            nn.Sequential(_convolution(maps * c3, c4, 3, 2, same=True), _convolution(c4, c4, 3, 1, same=True)),
            nn.Sequential(_convolution(maps * c4, c5, 3, 2, same=True), _convolution(c5, c5, 3, 1, same=True)),
        ]
    )


class GlobalLocalNet(nn.Module):
    """Estimate bone age from a whole hand and 18 ROI patches (Hui et al. 2022, Table 1).

    Parameters
    ----------
    width
        Factor on the number of channels of every convolution; 1.0 is the paper's.
    dropout
        Probability of dropping a unit of the dense layer while training.
    paths
        Leave a pathway out, for the ablation.
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.3, paths: Paths = "both") -> None:
        super().__init__()
        self.width, self.paths = width, paths
        *channels, last = (max(8, round(width * c / 8) * 8) for c in (64, 128, 256, 512, 1024, 2048))
        maps = 2 if paths == "both" else 1  # how many are concatenated after each stage
        if paths != "local":
            self.global_stages = _global_stages(channels, maps)
        if paths != "global":
            self.local_stages = _local_stages(channels)
        self.head = nn.Sequential(
            _convolution(maps * channels[-1], last, 3, 2, same=False),
            _convolution(last, last, 3, 1, same=False),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.sex = nn.Sequential(nn.Linear(1, _SEX_FEATURES), nn.ReLU(inplace=True))
        self.dense = nn.Linear(last + _SEX_FEATURES, 512)
        self.dropout = nn.Dropout(dropout)
        self.age = nn.Linear(512, 1)

    def features(self, *images: Tensor) -> Tensor:
        """Return the pooled feature, shape (N, 2048 x width), of the images that :meth:`forward` takes."""
        if self.paths != "both":
            stages = self.global_stages if self.paths == "global" else self.local_stages
            (image,) = images
            for stage in stages:
                image = stage(image)
            return self.head(image)  # type: ignore[no-any-return]
        whole, local = images
        for global_stage, local_stage in zip(self.global_stages, self.local_stages, strict=True):
            local = local_stage(local)
            whole = torch.cat([global_stage(whole), local], dim=1)
        return self.head(whole)  # type: ignore[no-any-return]

    def forward(self, *inputs: Tensor) -> Prediction:
        """Return bone ages in months.

        Parameters
        ----------
        inputs
            ``whole``, shape (N, 1, 224, 224), and ``local``, shape (N, 18, 64, 64), the patches of
            ``inference.anatomy.ROI_NAMES`` in that order, each float32 of -1..1 (without a pathway, only the other's);
            then ``male``, shape (N,), float32: +1 male, -1 female.
        """
        *images, male = inputs
        feature = torch.cat([self.features(*images), self.sex(male[:, None])], dim=1)
        hidden = self.dropout(torch.relu(self.dense(feature)))
        return Prediction(self.age(hidden).float().squeeze(1) * _UNIT_MONTHS + _MEAN_MONTHS)


class LocatingNet(GlobalLocalNet):
    """The fusion network with the paper's detector before it: from a whole film to the age.

    Parameters
    ----------
    width, paths
        As :class:`GlobalLocalNet`.
    detector
        The detector, and the side of its input in pixels.
    equalise
        Flatten the hand's histogram.
    """

    def __init__(self, width: float, paths: Paths, detector: RegionNet, detector_side: int, *, equalise: bool) -> None:
        super().__init__(width, paths=paths)
        self.detector, self.detector_side, self.equalise = detector, detector_side, equalise

    def train(self, mode: bool = True) -> LocatingNet:
        """Switch the fusion network; the detector stays as it was trained."""
        super().train(mode)
        self.detector.eval()
        return self

    def locate(self, film: Tensor) -> Regions:
        """Find the left hand's regions in films (N, 1, 640, 640) of -1..1, in their pixels."""
        return locate_in_square(self.detector, film, self.detector_side)

    def cut(self, film: Tensor, found: Regions) -> tuple[Tensor, Tensor]:
        """Return the hands (N, 1, 224, 224) and the patches (N, 18, 64, 64); what was not found is grey."""
        bounds = hand_bounds(found, film.shape[-1])
        whole = roi_align(film, bounds[:, None], stride=1, side=GLOBAL_SIDE)[:, 0]
        patches = roi_align(film, grow_to_squares(found.boxes), stride=1, side=LOCAL_SIDE, samples=1)[:, :, 0]
        if self.equalise:
            whole, patches = _equalised(whole, patches)
        return whole, patches * (found.scores > 0)[..., None, None]

    def forward(self, *inputs: Tensor) -> Prediction:
        """Return ages in months for ``film`` (N, 1, 640, 640), float32 of -1..1, and ``male`` (N,), +1 or -1.

        Boxes and scores are among the extras; gradients reach the fusion network only.
        """
        film, male = inputs
        with torch.no_grad():
            found = self.locate(film)
            whole, patches = self.cut(film, found)
        images = {"both": (whole, patches), "global": (whole,), "local": (patches,)}[self.paths]
        predicted = super().forward(*images, male)
        return predicted._replace(extras={"boxes": found.boxes, "box_scores": found.scores})


def _equalised(whole: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Carry hands (N, 1, H, W) and patches (N, 18, h, w) of -1..1 through each hand's own table."""
    grey = [((images.cpu().numpy() + 1) * 127.5).clip(0, 255).round().astype(np.uint8) for images in (whole, patches)]
    tables = [equalisation_table(hand) for hand in grey[0]]
    made = [np.stack([table[one] for table, one in zip(tables, images, strict=True)]) for images in grey]
    flat = [torch.from_numpy(images.astype(np.float32) / 127.5 - 1).to(whole.device) for images in made]
    return flat[0], flat[1]


@dataclass(frozen=True, slots=True)
class DetectorForm:
    """The paper's detector: its width and depth multiples and the side of its input in pixels."""

    width: float = 0.5
    depth: float = 0.33
    side: int = 320


class GlobalLocalMethod:
    """The method with its network's width, the parts that an ablation takes away, and where it takes the ROIs from."""

    name = "global-local"
    localiser_file = REGIONS_FILE

    def __init__(
        self,
        width: float,
        *,
        equalise: bool = True,
        paths: Paths = "both",
        localiser: Localiser = "shared",
        detector: DetectorForm | None = None,
    ) -> None:
        self.width, self.equalise, self.paths = width, equalise, paths
        self.localiser, self.detector = localiser, detector or DetectorForm()
        self.weight_files = WEIGHTS if localiser == "shared" else WEIGHTS | {REGIONS_FILE: "detector."}

    def make_localiser(self) -> RegionNet:
        """Return the paper's detector with fresh weights."""
        return RegionNet(self.detector.width, self.detector.depth)

    def make_age_net(self) -> GlobalLocalNet:
        """Return the fusion network alone with fresh weights."""
        return GlobalLocalNet(self.width, paths=self.paths)

    def make_net(self) -> GlobalLocalNet:
        """Return the network with fresh weights, the detector before it with the paper's localiser."""
        if self.localiser == "shared":
            return self.make_age_net()
        return LocatingNet(self.width, self.paths, self.make_localiser(), self.detector.side, equalise=self.equalise)

    def prepare(self, film: Grey, pose: Pose, centres: Float) -> tuple[Grey, ...]:
        """Return the whole hand (224, 224) and the 18 patches (18, 64, 64), equalised; without a pathway, the other.

        For the paper's localiser the whole film (640, 640), equalised.
        """
        if self.localiser == "paper":
            return (square_film(film)[0],)
        hand = prepare(film, pose, centres, side=GLOBAL_SIDE, patch_side=LOCAL_SIDE, equalise=self.equalise)
        inputs = {"both": (hand.whole, hand.patches), "global": (hand.whole,), "local": (hand.patches,)}
        return inputs[self.paths]


def square_film(film: Grey) -> tuple[Grey, float]:
    """Equalise a film and fit it into the square of 640 pixels that the paper's localiser sees; also its scale."""
    return fit_film(equalisation_table(film)[film], FILM_SIDE)


KEYS = ("width", "equalise", "paths", "localiser", "detector_width", "detector_depth", "detector_side")
"""What :func:`open_method` reads of a configuration."""


def open_method(config: dict[str, Any]) -> GlobalLocalMethod:
    """Read ``width``; ``localiser`` ("shared" or "paper"), ``detector_width``, ``detector_depth``, ``detector_side``.

    For the ablation ``equalise`` (true) and ``paths`` ("both", "global" or "local").

    Raises
    ------
    BundleError
        If ``paths`` or ``localiser`` is something else.
    """
    paths = config.get("paths", "both")
    if paths not in get_args(Paths):
        raise BundleError(f"There are no paths {paths!r}; there are {', '.join(get_args(Paths))}.")
    own = {key: config[f"detector_{key}"] for key in ("width", "depth", "side") if f"detector_{key}" in config}
    return GlobalLocalMethod(
        float(config["width"]),
        equalise=bool(config.get("equalise", True)),
        paths=paths,
        localiser=read_localiser(config),
        detector=DetectorForm(**own),
    )
