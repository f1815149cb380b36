"""The engine: a DICOM object in, a finding out. torch is loaded by :meth:`Engine.load`, not by the import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from inference.bundle import DETECTOR, Bundle, canonical_name, open_bundle
from inference.errors import BundleError, FilmError
from inference.film import Film, bytes_to_read, read_film, with_square_pixels, without_border
from inference.finding import (
    AssumedReading,
    BoneProfile,
    Box,
    Estimate,
    Finding,
    Flag,
    Laterality,
    ModelIdentity,
    Refusal,
    RefusalCode,
    Roi,
    Sex,
    Subject,
)
from inference.intervals import UNCALIBRATED, Calibration
from inference.method import DEFAULT_METHOD
from inference.recalibration import Recalibration
from inference.sex_alarm import SexAlarm, other
from inference.subject import read_subject

if TYPE_CHECKING:
    from inference.detector import FoundHand, Landmarks
    from inference.eligibility import Doubt, HandEvidence
    from inference.torch_backend import Form

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
    """What an age network says of one hand."""

    age_months: float
    profile: BoneProfile | None = None
    """Where the method tells stages: the bones."""
    male_logit: float | None = None
    """Where the method estimates the sex from the film alone: its log odds of male."""
    strangeness: float | None = None
    """Where the method tells it: how far the hand lies from ordinary ones, 1 at the limit."""


class SexedHand(NamedTuple):
    """What a reading is made from: an image with bones bright, the hand in it, and the sex to read it by."""

    image: Grey
    hand: LocatedHand
    sex: Sex


class AgeNetwork(Protocol):
    """Reads located hands."""

    def read(self, hands: Sequence[SexedHand]) -> list[Reading]:
        """Return one reading a hand, in their order; an empty list for no hand."""
        ...


class Stager(NamedTuple):
    """A second method beside the one that reads the age: its stages, and the age their score gives, go with it."""

    network: AgeNetwork
    identity: ModelIdentity

    def tell(self, hands: Sequence[SexedHand]) -> list[BoneProfile | None]:
        """Return the bones of each hand, named as this model's."""
        profiles = [reading.profile for reading in self.network.read(hands)]
        return [profile and replace(profile, model=self.identity) for profile in profiles]


@dataclass(frozen=True, slots=True, eq=False)
class _Readable:
    """A film that nothing speaks against reading, on its way to the network."""

    film: Film
    subject: Subject
    image: Grey
    hand: LocatedHand
    hands_found: int
    box: Box
    rois: tuple[Roi, ...]
    flags: tuple[Flag, ...]

    @property
    def sexed(self) -> list[SexedHand]:
        """What is to be read: the hand by the child's sex, by either where it is not known."""
        sexes = tuple(Sex) if self.subject.sex is None else (self.subject.sex,)
        return [SexedHand(self.image, self.hand, sex) for sex in sexes]


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
    sex_alarm
        When a film that contradicts PatientSex is flagged; never without.
    stager
        What tells the stages of bones beside the age; without, the network itself does, if it can.

    Raises
    ------
    BundleError
        If the recalibration was fitted with another model or other intervals.
    """

    def __init__(
        self,
        locator: Locator,
        network: AgeNetwork,
        calibration: Calibration,
        identity: ModelIdentity,
        recalibration: Recalibration | None = None,
        *,
        sex_alarm: SexAlarm | None = None,
        stager: Stager | None = None,
    ) -> None:
        if recalibration is not None:
            recalibration.check(identity, calibration)
            identity = recalibration.identify(identity)
        self._locator = locator
        self._network = network
        self._calibration = calibration
        self._recalibration = recalibration
        self._sex_alarm = sex_alarm
        self._stager = stager
        self.identity = identity

    @classmethod
    def load(
        cls,
        method: str = DEFAULT_METHOD,
        *,
        threads: int = 2,
        device: str = "auto",
        recalibration: Path | None = None,
        folder: Path | None = None,
        form: Form = "eager",
        stages: str | None = None,
        uncalibrated: bool = False,
    ) -> Engine:
        """Load a method's bundle and the detector's.

        Parameters
        ----------
        method
            Name of a bundle, see ``inference.bundle.list_methods``, or of an ensemble's, see ``inference.ensemble``,
            or several methods' with ``+`` between them, see ``inference.named_ensemble``.
        threads
            CPU threads torch may use.
        device
            "auto" (CUDA if there is one), "cpu" or "cuda".
        recalibration
            A site's recalibration file, see ``inference.recalibration``.
        folder
            Where the method's bundle lies; the shipped ones by default. The detector's is always the shipped one.
        form
            How the age network computes; "eager" is what the node runs, see ``inference.torch_backend.Form``.
        stages
            One of ``inference.method.STAGE_METHODS`` that tells the stages of bones beside the method's age.
        uncalibrated
            Take intervals, too, that only stand there while the method is being calibrated: they promise nothing.

        Raises
        ------
        BundleError
            If a bundle is missing or its weights differ from their hashes, CUDA is asked for and absent, or the
            recalibration cannot be used with this model.
        """
        from inference.ensemble import open_network
        from inference.torch_backend import TorchLocator, choose_device

        where = choose_device(device, threads)
        detector, bundle = open_bundle(DETECTOR), open_bundle(method, folder)

        def open_one(name: str, opened: Bundle, form: Form) -> Stager:
            network, weights_sha256 = open_network(name, opened, where, folder, form)
            label = str(opened.metadata["name"])
            return Stager(network, ModelIdentity(canonical_name(name), label, opened.version, weights_sha256))

        network, identity = open_one(method, bundle, form)
        calibration, sex_alarm = read_intervals(bundle, uncalibrated=uncalibrated)
        return cls(
            TorchLocator(detector, where),
            network,
            calibration,
            identity,
            Recalibration.read(recalibration) if recalibration is not None else None,
            sex_alarm=sex_alarm,
            stager=None if stages is None else open_one(stages, open_bundle(stages, folder), "eager"),
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
        return self.interpret_films([(film, subject)])[0]

    def interpret_films(self, films: Sequence[tuple[Film, Subject]]) -> list[Finding]:
        """Read decoded films, the network all of them in one batch: for backlogs, above all on CUDA.

        Hands are found film by film. The batch must fit the device's memory: give a few dozen films at a time.
        """
        looked = [self._look(film, subject) for film, subject in films]
        readable = [one for one in looked if isinstance(one, _Readable)]
        readings = iter(self._read(readable))
        return [next(readings) if isinstance(one, _Readable) else one for one in looked]

    def read_both_sexes(self, film: Film) -> dict[Sex, Reading] | None:
        """Return what the network says of a film by either sex, not recalibrated; None for a film that is refused."""
        looked = self._look(film, Subject(None, "both are asked for", None, "none"))
        if isinstance(looked, Refusal):
            return None
        return dict(zip(Sex, self._network.read(looked.sexed), strict=True))

    def _look(self, film: Film, subject: Subject) -> _Readable | Refusal:
        """Find the hand to read, or why there is none."""
        from inference import eligibility

        image, corner = without_border(bytes_to_read(film))
        image, steps = with_square_pixels(image, film.pixel_aspect)
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
        flags += _flags_of_others(hand, hands)
        if any(eligibility.may_be_hand(one.evidence) for one in located):
            flags.append(_ANOTHER_HAND)
        box, rois = _places(image, hand, corner, steps)
        doubt = eligibility.doubt_completeness(hand.evidence)
        if doubt is None and box is None:
            doubt = eligibility.NO_HAND
        if doubt is None:
            picture = eligibility.weigh_picture(image, hand.landmarks)
            doubt = eligibility.doubt_picture(picture)
            flags += eligibility.flags_of_picture(picture)
        if doubt is not None:
            return Refusal(doubt.code, doubt.sentence, doubt.remedy, subject, box, rois, tuple(flags), self.identity)
        assert box is not None
        return _Readable(film, subject, image, hand, len(hands), box, rois, tuple(flags))

    def _read(self, readable: list[_Readable]) -> list[Finding]:
        hands = [hand for one in readable for hand in one.sexed]
        readings = iter(self._network.read(hands))
        by_film = [[next(readings) for _ in one.sexed] for one in readable]
        certain = [i for i, one in enumerate(readable) if one.subject.sex is not None]
        alarms = self._check_sex([readable[i].sexed[0] for i in certain], [by_film[i][0] for i in certain])
        profiles = self._tell_stages([readable[i].sexed[0] for i in certain], [by_film[i][0] for i in certain])
        findings: list[Finding] = [self._leave_open(one, found) for one, found in zip(readable, by_film, strict=True)]
        for i, alarm, profile in zip(certain, alarms, profiles, strict=True):
            findings[i] = self._conclude(readable[i], by_film[i][0], alarm, profile)
        return findings

    def _tell_stages(self, hands: list[SexedHand], readings: list[Reading]) -> list[BoneProfile | None]:
        return [one.profile for one in readings] if self._stager is None else self._stager.tell(hands)

    def _leave_open(self, one: _Readable, readings: list[Reading]) -> Refusal:
        """Return the refusal of a hand whose sex is not known, with what either sex would give."""
        assumed = []
        for (_, _, sex), reading in zip(one.sexed, readings, strict=True):
            age, (low, high), _ = self._place(reading.age_months, sex)
            assumed.append(AssumedReading(sex, age, low, high, self._calibration.level))
        pose_flags = _flags_of_pose(one.film, one.hand, one.hands_found)
        return Refusal(
            RefusalCode.SEX_UNKNOWN,
            f"Bone age is read by sex, and the sex is not known: {one.subject.sex_source}.",
            "Correct PatientSex (0010,0040) in the archive and send the study again.",
            one.subject,
            one.box,
            one.rois,
            (*one.flags, *pose_flags, *_strange(readings[0])),
            self.identity,
            tuple(assumed),
        )

    def _check_sex(self, hands: list[SexedHand], readings: list[Reading]) -> list[list[Flag]]:
        """Return for each hand the flag of a contradicted sex, or nothing; only contradicted hands are read again."""
        flags: list[list[Flag]] = [[] for _ in hands]
        alarm = self._sex_alarm
        if alarm is None:
            return flags
        doubted = [i for i, hand in enumerate(hands) if alarm.contradicts(readings[i].male_logit, hand.sex)]
        others = self._network.read([hands[i]._replace(sex=other(hands[i].sex)) for i in doubted]) if doubted else []
        for i, again in zip(doubted, others, strict=True):
            flag = alarm.flag(readings[i].age_months, again.age_months)
            flags[i] = [] if flag is None else [flag]
        return flags

    def _conclude(self, one: _Readable, reading: Reading, alarm: list[Flag], profile: BoneProfile | None) -> Estimate:
        hand, sex = one.hand, one.sexed[0].sex
        age, (low, high), changes = self._place(reading.age_months, sex)
        pose_flags = _flags_of_pose(one.film, hand, one.hands_found)
        return Estimate(
            age_months=age,
            interval_low_months=low,
            interval_high_months=high,
            interval_level=self._calibration.level,
            subject=one.subject,
            laterality=_laterality(one.film, hand, one.hands_found),
            hand=one.box,
            rois=one.rois,
            hands_found=one.hands_found,
            quality=min(1.0, max(0.0, hand.evidence.mean_score)),
            flags=(*one.flags, *alarm, *changes, *pose_flags, *_flags_of_age(age, hand.evidence), *_strange(reading)),
            model=self.identity,
            profile=profile,
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


def read_intervals(bundle: Bundle, *, uncalibrated: bool = False) -> tuple[Calibration, SexAlarm | None]:
    """Return a bundle's intervals and its alarm for a wrong sex, if it has one.

    Raises
    ------
    BundleError
        If there are no intervals, or what is there cannot be used, or, unless ``uncalibrated``, is what a calibration
        that was broken off has left.
    """
    name = bundle.folder.name
    remedy = f"run boneage-node calibrate --method {name} --data DATA"
    try:
        table = bundle.read_json("calibration.json")
    except FileNotFoundError as error:
        raise BundleError(f"Bundle {name!r} has no intervals (calibration.json): {remedy}.") from error
    except ValueError as error:
        raise BundleError(f"The intervals of bundle {name!r} (calibration.json) cannot be read: {remedy}.") from error
    calibration = Calibration.parse(table)
    if calibration.split == UNCALIBRATED and not uncalibrated:
        raise BundleError(f"Bundle {name!r} has no intervals: its calibration was broken off; {remedy}.")
    return calibration, SexAlarm.parse(table)


def _places(
    image: Grey, hand: LocatedHand, corner: tuple[int, int], steps: tuple[float, float]
) -> tuple[Box | None, tuple[Roi, ...]]:
    """Return the hand's box, None where nothing of it is in the image, and the ROIs found, in film pixels.

    ``corner`` (x, y) is where the image begins in the film, ``steps`` (x, y) are film pixels to a pixel of the image.
    """
    from inference.eligibility import FOUND_SCORE
    from inference.preparation import hand_box, make_rois

    rows, columns = image.shape
    box = hand_box(hand.landmarks).clipped(columns, rows)
    rois = [roi for roi in make_rois(hand.landmarks) if roi.score >= FOUND_SCORE]
    placed = tuple(Roi(roi.name, roi.box.scaled(*steps).moved(*corner), roi.score) for roi in rois)
    return box and box.scaled(*steps).moved(*corner), placed


_SIDES = {Laterality.LEFT: "left", Laterality.RIGHT: "right", Laterality.UNKNOWN: "only"}


def choose_hand(hands: list[LocatedHand], columns: int) -> LocatedHand:
    """Take the left hand of several; among hands of one side, the one further to the film's left.

    Two hands of one film lie palm down with their thumbs inward: the left hand is the one whose thumb points right.
    """
    left = [hand for hand in hands if hand.side is Laterality.LEFT] or hands
    return min(left, key=lambda hand: float(hand.landmarks.points[:, 0].mean()) / columns)


_ANOTHER_HAND = Flag(
    "another-hand",
    "The film may show another hand, not recognised for sure; check that the framed one is the one to be read.",
)


def _flags_of_others(hand: LocatedHand, hands: list[LocatedHand]) -> list[Flag]:
    """Say that a film shows several hands, and where only a frame tells which one was read: two of its side."""
    count, side = len(hands), _SIDES[hand.side]
    if count == 1:
        return []
    if sum(one.side is hand.side for one in hands) == 1:
        return [Flag("two-hands", f"The film shows {count} hands; the {side} one was read.")]
    return [
        Flag(
            "hands-of-one-side",
            f"The film shows {count} hands, several of them {side} ones; the framed one was read. "
            "Check for a mirrored film.",
        )
    ]


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


def _strange(reading: Reading) -> list[Flag]:
    if reading.strangeness is None or reading.strangeness <= 1:
        return []
    sentence = "The hand looks unlike those the model was trained on, as under a cast or bandage; check the estimate."
    return [Flag("unlike-training", sentence)]


def _flags_of_age(age_months: float, evidence: HandEvidence) -> list[Flag]:
    flags = []
    if not TRAINED_MONTHS[0] <= age_months <= TRAINED_MONTHS[1]:
        flags.append(
            Flag("outside-training-range", "The estimate lies at the edge of the ages the model was trained on.")
        )
    if evidence.missing:
        flags.append(Flag("bone-missing", f"Not found: {', '.join(evidence.missing)}."))
    return flags
