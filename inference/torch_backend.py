"""The engine's two halves on torch: the detector's nets and the age networks, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._pytree import tree_map

from inference.bundle import Bundle
from inference.detector import (
    FoundHand,
    find_all_hands,
    find_landmarks,
    find_turned_hands,
    is_same_hand,
    make_finder,
    make_landmark_net,
    reflected,
)
from inference.eligibility import SURE_SIDE_SCORE, is_hand, weigh
from inference.engine import LocatedHand, Reading, SexedHand
from inference.errors import BundleError
from inference.finding import Sex
from inference.method import Prediction, open_method, weight_files_of
from inference.preparation import roi_centres, to_units

Grey = npt.NDArray[np.uint8]
Form = Literal["eager", "channels-last", "half"]
"""How a net computes: as it is; with weights and images laid out channels last; in float16 by autocast, CUDA only."""
FORMS: tuple[Form, ...] = get_args(Form)


def choose_device(device: str, threads: int) -> torch.device:
    """Return the torch device for "auto", "cpu" or "cuda", and set the number of CPU threads.

    Raises
    ------
    BundleError
        If CUDA is asked for and there is none.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa move landmarks, and ages with them
    if device == "cuda" and not torch.cuda.is_available():
        raise BundleError(
            "CUDA was asked for, but torch finds no CUDA device; set interpret.device to 'auto' or 'cpu'."
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


class OnDevice(nn.Module):
    """A net that takes CPU tensors and gives CPU tensors, and computes elsewhere."""

    def __init__(self, net: nn.Module, device: torch.device, form: Form = "eager") -> None:
        super().__init__()
        self.layout = torch.contiguous_format if form == "eager" else torch.channels_last
        self.net = net.eval().to(device).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.autocast = form == "half" and device.type == "cuda"
        self.device = device

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Move the inputs, compute, move the output (a tensor or a tuple of them) back."""
        placed = (self._place(value) for value in inputs)
        with torch.autocast(self.device.type, torch.float16, enabled=self.autocast):
            output = self.net(*placed)
        return tree_map(lambda value: value.cpu().float() if isinstance(value, torch.Tensor) else value, output)

    def _place(self, value: torch.Tensor) -> torch.Tensor:
        placed = value.to(self.device)
        return placed.contiguous(memory_format=self.layout) if placed.ndim == 4 else placed


def load_net(
    net: nn.Module,
    bundle: Bundle,
    file: str,
    device: torch.device,
    form: Form = "eager",
    *,
    more: dict[str, str] | None = None,
) -> nn.Module:
    """Fill a net with a bundle's weights.

    ``more`` are further files, each with the prefix of its names in the net's state.

    Raises
    ------
    BundleError
        If the weights do not fit the net.
    """
    try:
        weights = bundle.read_weights(file)
        for other, prefix in (more or {}).items():
            weights |= {f"{prefix}{key}": value for key, value in bundle.read_weights(other).items()}
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"{file} does not fit the network that the bundle describes; install the package again."
        ) from error
    return OnDevice(net, device, form).eval()


class TorchLocator:
    """Finds hands and landmarks with the ``hand-detector`` bundle.

    It computes in one form: a hand is cut out of the film in steps of a 32nd of a pixel and its grey values are ranked,
    so that landmarks which another form moves by hundredths of a pixel move the age by a tenth of a month.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        self._finder = load_net(make_finder(), bundle, "finder.safetensors", device)
        self._landmarks = load_net(make_landmark_net(), bundle, "landmarks.safetensors", device)

    def locate(self, image: Grey) -> tuple[list[LocatedHand], Grey, bool]:
        """Find hands; see :class:`inference.engine.Locator`. A film that seems to show none is turned by quarters."""
        located = self._describe(find_all_hands(self._finder, image), image)
        if any(is_hand(hand.evidence) for hand in located[0]):
            return located
        turned = find_turned_hands(self._finder, image)
        return self._describe(turned, image) if turned else located

    def _describe(self, found: list[FoundHand], image: Grey) -> tuple[list[LocatedHand], Grey, bool]:
        inverted = bool(found) and found[0].inverted > 0.5
        if inverted:
            image = np.asarray(255 - image, dtype=np.uint8)
        hands: list[LocatedHand] = []
        for hand in found:
            _keep(hands, self._describe_one(hand, image))
        return hands, image, inverted

    def _describe_one(self, hand: FoundHand, image: Grey) -> LocatedHand:
        """Find a hand's landmarks; where they are not sure, those of the other side's hand if these are."""
        landmarks = find_landmarks(self._landmarks, image, hand.pose)
        described = LocatedHand(hand, landmarks, weigh(hand, landmarks))
        if described.evidence.mean_score >= SURE_SIDE_SCORE:
            return described
        landmarks = find_landmarks(self._landmarks, image, reflected(hand.pose))
        other = LocatedHand(hand, landmarks, weigh(hand, landmarks))
        return other if other.evidence.mean_score >= SURE_SIDE_SCORE else described


def _keep(hands: list[LocatedHand], new: LocatedHand) -> None:
    """Add a hand, unless it is one that is there: of two findings of one hand, the surer one stays."""
    for place, before in enumerate(hands):
        if is_same_hand(new.landmarks, before.landmarks):
            if new.evidence.mean_score > before.evidence.mean_score:
                hands[place] = new
            return
    hands.append(new)


class TorchAgeNetwork:
    """An age method's network with its bundle's weights."""

    def __init__(self, name: str, bundle: Bundle, device: torch.device, form: Form = "eager") -> None:
        self._method = open_method(name, bundle.config)
        first, *others = weight_files_of(self._method).items()
        self._net = load_net(self._method.make_net(), bundle, first[0], device, form, more=dict(others))

    def read(self, hands: Sequence[SexedHand]) -> list[Reading]:
        """Return one reading a hand, computed in one batch; see :class:`inference.engine.AgeNetwork`."""
        if not hands:
            return []
        prepared = [self._prepare(one) for one in hands]
        inputs = (as_batch(np.stack(parts)) for parts in zip(*prepared, strict=True))
        male = torch.tensor([1.0 if one.sex is Sex.MALE else -1.0 for one in hands])
        with torch.inference_mode():
            predicted = self._net(*inputs, male)
        return [self._tell(predicted, male, place) for place in range(len(hands))]

    def _prepare(self, one: SexedHand) -> list[npt.NDArray[np.float32]]:
        landmarks = one.hand.landmarks
        prepared = self._method.prepare(one.image, landmarks.pose, roi_centres(landmarks.points, landmarks.pose))
        return [to_units(part) for part in prepared]

    @staticmethod
    def _tell(predicted: Prediction, male: torch.Tensor, place: int) -> Reading:
        logit = None if predicted.male_logit is None else float(predicted.male_logit[place])
        strangeness = None if predicted.strangeness is None else float(predicted.strangeness[place])
        age = float(predicted.age_months[place])
        if predicted.stages is None:
            return Reading(age, male_logit=logit, strangeness=strangeness)
        from inference.precise_baa import read_profile

        return Reading(age, read_profile(predicted, male, place), logit)


def as_batch(images: npt.NDArray[np.float32]) -> torch.Tensor:
    """Turn images (N, rows, columns) or (N, channels, rows, columns) into a tensor with a channel axis."""
    tensor = torch.from_numpy(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor
