"""The engine: a DICOM object in, a finding out. torch is loaded by :meth:`Engine.load`, not by the import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from inference.bundle import DETECTOR, open_bundle
from inference.errors import FilmError
from inference.film import Film, display_bytes, read_film
from inference.finding import (
    BoneProfile,
    Estimate,
    Finding,
    Flag,
    Laterality,
    ModelIdentity,
    Refusal,
    RefusalCode,
    Sex,
    Subject,
)
from inference.intervals import Calibration
from inference.recalibration import Recalibration
from inference.subject import read_subject

if TYPE_CHECKING:
    from inference.detector import FoundHand, Landmarks
    from inference.eligibility import Doubt, HandEvidence

Grey = npt.NDArray[np.uint8]

TRAINED_MONTHS = (12.0, 216.0)
"""Estimates outside this range are flagged: the training films hardly go further."""


@dataclass(frozen=True, slots=True, eq=False)
class LocatedHand:
    """One hand in a film with its landmarks and the evidence that it is one."""

    found: FoundHand
    landmarks: Landmarks
    evidence: HandEvidence

    @property
    def side(self) -> Laterality:
        """The side its thumb shows, in the usual postero-anterior projection."""
        return Laterality.RIGHT if self.landmarks.pose.mirrored else Laterality.LEFT


class Locator(Protocol):
    """Finds the hands of a film."""

    def locate(self, image: Grey) -> tuple[list[LocatedHand], Grey, bool]:
        """Return the hands, the image with bones bright, and whether its polarity had to be inverted for that."""
        ...


class Reading(NamedTuple):
    """What an age network says of one hand: its bone age in months and, where the method tells stages, the bones."""

    age_months: float
    profile: BoneProfile | None = None


class AgeNetwork(Protocol):
    """Estimates an age from one located hand."""

    def estimate(self, image: Grey, hand: LocatedHand, sex: Sex) -> Reading:
        """Return the bone age in months, and the bones' stages if there are any."""
        ...


class Engine:
    """Interpret hand radiographs with one method's model.

    Parameters
    ----------
    locator, network
        The two halves of the model.
    calibration
        Its intervals.
    identity
        What reports say of it.
    recalibration
        A site's own correction of its ages; it shows in the identity's version and in a flag.

    Raises
    ------
    BundleError
        If the recalibration was fitted with another model.
    """

    def __init__(
        self,
        locator: Locator,
        network: AgeNetwork,
        calibration: Calibration,
        identity: ModelIdentity,
        recalibration: Recalibration | None = None,
    ) -> None:
        if recalibration is not None:
            recalibration.check(identity)
            identity = recalibration.identify(identity)
        self._locator = locator
        self._network = network
        self._calibration = calibration
        self._recalibration = recalibration
        self.identity = identity

    @classmethod
    def load(
        cls,
        method: str = "global-local",
        *,
        threads: int = 2,
        device: str = "auto",
        recalibration: Path | None = None,
        folder: Path | None = None,
    ) -> Engine:
        """Load a method's bundle and the detector's.

        Parameters
        ----------
        method
            Name of a bundle, see ``inference.bundle.list_methods``.
        threads
            CPU threads torch may use.
        device
            "auto" (CUDA if there is one), "cpu" or "cuda".
        recalibration
            A site's recalibration file, see ``inference.recalibration``.
        folder
            Where the method's bundle lies; the shipped ones by default. The detector's is always the shipped one.

        Raises
        ------
        BundleError
            If a bundle is missing or its weights differ from their hashes, CUDA is asked for and absent, or the
            recalibration cannot be used with this model.
        """
        from inference.torch_backend import TorchAgeNetwork, TorchLocator, choose_device

        where = choose_device(device, threads)
        detector, bundle = open_bundle(DETECTOR), open_bundle(method, folder)
        return cls(
            TorchLocator(detector, where),
            TorchAgeNetwork(method, bundle, where),
            Calibration.parse(bundle.read_json("calibration.json")),
            ModelIdentity(method, str(bundle.metadata["name"]), bundle.version, bundle.weights_sha256),
            Recalibration.read(recalibration) if recalibration is not None else None,
        )

    def interpret(self, ds: Dataset) -> Finding:
        """Read one object; whatever is wrong with the film is a Refusal, never an exception."""
        subject = read_subject(ds)
        try:
            film = read_film(ds)
        except FilmError as error:
            return self._refuse(error.refusal, str(error), error.remedy, subject)
        return self.interpret_film(film, subject)

    def interpret_film(self, film: Film, subject: Subject) -> Finding:
        """Read one film that has been decoded."""
        from inference import eligibility

        image = display_bytes(film)
        doubt = eligibility.doubt_image(image)
        if doubt is not None:
            return self._refuse_doubt(doubt, subject, film.flags)
        located, image, inverted = self._locator.locate(image)
        hands = [hand for hand in located if eligibility.is_hand(hand.evidence)]
        if not hands:
            return self._refuse_doubt(eligibility.NO_HAND, subject, film.flags)
        flags = [*film.flags, *subject.flags]
        if inverted:
            flags.append(
                Flag("polarity-corrected", "The film was stored with bones dark; it was inverted for reading.")
            )
        hand = choose_hand(hands, image.shape[1])
        if len(hands) > 1:
            flags.append(Flag("two-hands", f"The film shows {len(hands)} hands; the {_SIDES[hand.side]} one was read."))
        return self._read_hand(image, film, subject, hand, hands_found=len(hands), flags=flags)

    def _read_hand(
        self, image: Grey, film: Film, subject: Subject, hand: LocatedHand, *, hands_found: int, flags: list[Flag]
    ) -> Finding:
        from inference import eligibility
        from inference.preparation import hand_box, make_rois

        rows, columns = image.shape
        box = hand_box(hand.landmarks).clipped(columns, rows)
        rois = tuple(roi for roi in make_rois(hand.landmarks) if roi.score >= eligibility.FOUND_SCORE)
        doubt = eligibility.doubt_completeness(hand.evidence)
        if doubt is None and box is None:
            doubt = eligibility.NO_HAND
        if doubt is not None:
            return Refusal(doubt.code, doubt.sentence, doubt.remedy, subject, box, rois, tuple(flags), self.identity)
        if subject.sex is None:
            return Refusal(
                RefusalCode.SEX_UNKNOWN,
                f"Bone age is read by sex, and the sex is not known: {subject.sex_source}.",
                "Correct PatientSex (0010,0040) in the archive and send the study again.",
                subject, box, rois, tuple(flags), self.identity,
            )  # fmt: skip
        assert box is not None
        read = self._network.estimate(image, hand, subject.sex)
        age, (low, high), changes = self._place(read.age_months, subject.sex)
        flags += changes + _flags_of_pose(film, hand, hands_found) + _flags_of_age(age, hand.evidence)
        return Estimate(
            age_months=age,
            interval_low_months=low,
            interval_high_months=high,
            interval_level=self._calibration.level,
            subject=subject,
            laterality=_laterality(film, hand, hands_found),
            hand=box,
            rois=rois,
            hands_found=hands_found,
            quality=min(1.0, max(0.0, hand.evidence.mean_score)),
            flags=tuple(flags),
            model=self.identity,
            profile=read.profile,
        )

    def _place(self, age: float, sex: Sex) -> tuple[float, tuple[float, float], list[Flag]]:
        """Return the age as this site reads it, its interval and what to say of it."""
        if self._recalibration is None:
            return age, self._calibration.interval(age, sex), []
        half = self._calibration.half_width(age, sex) * self._recalibration.interval_factor
        placed = self._recalibration.apply(age, sex)
        return placed, (max(0.0, placed - half), placed + half), [self._recalibration.flag(age)]

    def _refuse_doubt(self, doubt: Doubt, subject: Subject, flags: tuple[Flag, ...]) -> Refusal:
        return self._refuse(doubt.code, doubt.sentence, doubt.remedy, subject, flags)

    def _refuse(
        self, code: RefusalCode, sentence: str, remedy: str, subject: Subject, flags: tuple[Flag, ...] = ()
    ) -> Refusal:
        return Refusal(code, sentence, remedy, subject, flags=(*flags, *subject.flags), model=self.identity)


_SIDES = {Laterality.LEFT: "left", Laterality.RIGHT: "right", Laterality.UNKNOWN: "only"}


def choose_hand(hands: list[LocatedHand], columns: int) -> LocatedHand:
    """Take the left hand of several; among hands of one side, the one further to the film's left.

    Two hands of one film lie palm down with their thumbs inward: the left hand is the one whose thumb points right.
    """
    left = [hand for hand in hands if hand.side is Laterality.LEFT] or hands
    return min(left, key=lambda hand: float(hand.landmarks.points[:, 0].mean()) / columns)


def _laterality(film: Film, hand: LocatedHand, hands_found: int) -> Laterality:
    """Trust the header for one hand; for two, only the pixels can tell which one was read."""
    if hands_found == 1 and film.laterality is not Laterality.UNKNOWN:
        return film.laterality
    return hand.side


def _flags_of_pose(film: Film, hand: LocatedHand, hands_found: int) -> list[Flag]:
    flags = []
    if hands_found == 1 and film.laterality is Laterality.UNKNOWN:
        flags.append(
            Flag("laterality-from-pixels", f"The header names no side; the thumb shows a {_SIDES[hand.side]} hand.")
        )
    elif hands_found == 1 and film.laterality is not hand.side:
        flags.append(
            Flag(
                "laterality-conflict",
                f"The header says {_SIDES[film.laterality]} hand, the thumb shows a {_SIDES[hand.side]} one; "
                "check for a mirrored film.",
            )
        )
    turned = hand.landmarks.pose.rotation_deg
    if abs(turned) > 45:
        flags.append(Flag("rotated", f"The hand lies turned by {abs(turned):.0f} degrees; it was read upright."))
    return flags


def _flags_of_age(age_months: float, evidence: HandEvidence) -> list[Flag]:
    flags = []
    if not TRAINED_MONTHS[0] <= age_months <= TRAINED_MONTHS[1]:
        flags.append(
            Flag("outside-training-range", "The estimate lies at the edge of the ages the model was trained on.")
        )
    if evidence.missing:
        flags.append(Flag("bone-missing", f"Not found: {', '.join(evidence.missing)}."))
    return flags
