"""The engine on the shipped samples: ages, refusals, poses. Accuracy on radiographs is boneage-node evaluate's."""

import hashlib
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.findings import finding_from_json, finding_to_json
from inference import torch_backend
from inference.anatomy import ROI_NAMES
from inference.bundle import DETECTOR, bundles_folder, list_methods, open_bundle
from inference.detector import make_finder, make_landmark_net, reflected
from inference.engine import Engine
from inference.errors import BundleError
from inference.film import display_bytes, read_film
from inference.finding import Estimate, Laterality, Refusal, RefusalCode, Sex
from inference.house import HouseNet, more_file
from inference.method import open_method
from inference.torch_backend import TorchLocator
from training.detector import NETS
from training.errors import RunError
from training.shipped import SHIPPED
from training.train import Start

SAMPLES = Path(str(resources.files("dicom_node").joinpath("samples")))
HANDS = sorted(path for path in SAMPLES.glob("*.dcm") if path.stem != "not-a-hand")


@pytest.fixture(scope="module", params=["house", "global-local"])
def engine(request):
    return Engine.load(request.param, threads=2, device="cpu")


@pytest.fixture(scope="module")
def hand():
    """Return a sample's 8-bit pixels, bones bright."""
    return display_bytes(read_film(dcmread(SAMPLES / "boy-12.dcm")))


def as_object(pixels: np.ndarray, *, sex: str = "M", photometric: str = "MONOCHROME2") -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    ds.Modality, ds.PatientSex = "CR", sex
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = np.ascontiguousarray(pixels).tobytes() + b"\0" * (pixels.size % 2)
    ds["PixelData"].VR = "OB"
    return ds


def test_there_are_eight_hands_and_a_non_hand():
    assert len(HANDS) == 8
    assert (SAMPLES / "not-a-hand.dcm").is_file()


@pytest.mark.parametrize("path", HANDS, ids=lambda p: p.stem)
def test_each_sample_is_read_within_18_months(engine, path):
    ds = dcmread(path)
    finding = engine.interpret(ds)
    assert isinstance(finding, Estimate), finding
    assert finding.subject.age_months is not None
    assert finding.age_months == pytest.approx(finding.subject.age_months, abs=18)
    assert finding.interval_low_months < finding.age_months < finding.interval_high_months
    assert [roi.name for roi in finding.rois] == list(ROI_NAMES)
    assert finding.laterality is Laterality.LEFT


def test_a_chest_is_refused(engine):
    finding = engine.interpret(dcmread(SAMPLES / "not-a-hand.dcm"))
    assert isinstance(finding, Refusal)
    assert finding.code is RefusalCode.NOT_A_HAND


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_film_reads_the_same(engine, hand, quarter_turns):
    upright = engine.interpret(as_object(hand))
    turned = engine.interpret(as_object(np.rot90(hand, quarter_turns)))
    assert isinstance(turned, Estimate)
    assert turned.age_months == pytest.approx(upright.age_months, abs=4)
    assert "rotated" in {flag.code for flag in turned.flags}


def test_a_mirrored_film_reads_the_same_and_shows_a_right_hand(engine, hand):
    upright, mirrored = engine.interpret(as_object(hand)), engine.interpret(as_object(hand[:, ::-1]))
    assert isinstance(mirrored, Estimate)
    assert mirrored.age_months == pytest.approx(upright.age_months, abs=3)
    assert (upright.laterality, mirrored.laterality) == (Laterality.LEFT, Laterality.RIGHT)


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_film_of_pixels_that_are_not_square_reads_as_a_square_one(engine, hand, factor):
    """Given a film squashed or drawn out in its rows, which says so, then age and places are those of the film."""
    rows, columns = hand.shape
    plain = engine.interpret(as_object(hand))
    stretched = as_object(cv2.resize(hand, (columns, round(rows * factor)), interpolation=cv2.INTER_AREA))
    stretched.PixelAspectRatio = [round(1000 / factor), 1000]
    finding = engine.interpret(stretched)
    assert isinstance(finding, Estimate)
    assert finding.age_months == pytest.approx(plain.age_months, abs=3)
    assert finding.hand.centre == pytest.approx((plain.hand.centre[0], plain.hand.centre[1] * factor), rel=0.02)
    assert finding.rois[0].box.centre[1] == pytest.approx(plain.rois[0].box.centre[1] * factor, rel=0.02)
    assert "pixels-not-square" in {flag.code for flag in finding.flags}


def test_monochrome1_is_inverted_once(engine, hand):
    upright = engine.interpret(as_object(hand))
    inverted = engine.interpret(as_object(255 - hand, photometric="MONOCHROME1"))
    assert isinstance(inverted, Estimate)
    assert inverted.age_months == pytest.approx(upright.age_months, abs=0.5)
    assert "polarity-corrected" not in {flag.code for flag in inverted.flags}


def test_a_wrong_photometric_interpretation_is_mended_and_said(engine, hand):
    upright = engine.interpret(as_object(hand))
    wrong = engine.interpret(as_object(255 - hand))
    assert isinstance(wrong, Estimate)
    assert wrong.age_months == pytest.approx(upright.age_months, abs=3)
    assert "polarity-corrected" in {flag.code for flag in wrong.flags}


def test_of_two_hands_the_left_one_is_read(engine, hand):
    both = np.hstack([hand, hand[:, ::-1]])
    finding = engine.interpret(as_object(both))
    assert isinstance(finding, Estimate)
    assert finding.hands_found == 2
    assert finding.laterality is Laterality.LEFT
    assert finding.hand.centre[0] < hand.shape[1]
    assert "two-hands" in {flag.code for flag in finding.flags}
    alone = engine.interpret(as_object(hand))
    assert finding.age_months == pytest.approx(alone.age_months, abs=4)


@pytest.mark.parametrize("stack", [np.hstack, np.vstack], ids=["beside", "above"])
@pytest.mark.parametrize("mirrored", [False, True], ids=["left", "right"])
def test_two_hands_of_one_side_are_both_found_and_said(engine, hand, stack, mirrored):
    """Given two left hands, or two right ones, then one is read as it is alone, framed, and the reader is told."""
    other = display_bytes(read_film(dcmread(SAMPLES / "boy-08.dcm")))
    first, second = (one[:, ::-1] if mirrored else one for one in (hand, other))
    finding, alone = engine.interpret(as_object(stack([first, second]))), engine.interpret(as_object(first))
    assert finding.hands_found == 2
    assert "hands-of-one-side" in {flag.code for flag in finding.flags}
    assert finding.laterality is (Laterality.RIGHT if mirrored else Laterality.LEFT)
    if stack is np.hstack:
        assert finding.hand.centre[0] < hand.shape[1]
        assert finding.age_months == pytest.approx(alone.age_months, abs=4)


def test_a_hand_whose_side_the_finder_got_wrong_is_put_right(hand, monkeypatch):
    """Given a finder that takes thumb for little finger, then the points are found as they are where it does not."""
    locator = TorchLocator(open_bundle(DETECTOR), torch.device("cpu"))
    (right,), *_ = locator.locate(hand)
    found = torch_backend.find_all_hands
    monkeypatch.setattr(
        torch_backend,
        "find_all_hands",
        lambda *given: [replace(one, pose=reflected(one.pose)) for one in found(*given)],
    )
    (put_right,), *_ = locator.locate(hand)
    assert put_right.side is right.side is Laterality.LEFT
    assert put_right.landmarks.points == pytest.approx(right.landmarks.points, abs=4)


@pytest.mark.parametrize(("share", "is_said"), [(0.0, False), (0.6, True)])
def test_a_part_of_another_hand_is_said(engine, hand, share, is_said):
    """Given more than half of another hand at the film's edge, then it is not passed over in silence."""
    part = display_bytes(read_film(dcmread(SAMPLES / "boy-08.dcm")))[:, : round(share * hand.shape[1])]
    finding = engine.interpret(as_object(np.hstack([hand, part])))
    assert finding.hands_found == 1
    assert ("another-hand" in {flag.code for flag in finding.flags}) is is_said


def test_a_wide_film_of_one_hand_shows_one_hand(engine, hand):
    """Given much room beside a hand, where halves of the film are looked at too, then it is not found twice."""
    finding = engine.interpret(as_object(np.pad(hand, ((0, 0), (300, 420)), mode="linear_ramp")))
    assert isinstance(finding, Estimate)
    assert finding.hands_found == 1


@pytest.mark.parametrize("grey", [0, 0xFFFF])
def test_what_lies_outside_a_shutter_does_not_matter(engine, hand, grey):
    """Given a second hand and bright ends beside a round shutter, then the hand in it is read as it is alone."""
    beside = np.hstack([hand, hand])
    beside[:, hand.shape[1] + 600 :] = 255
    ds = as_object(beside)
    rows, columns = hand.shape
    ds.ShutterShape, ds.ShutterPresentationValue = ["RECTANGULAR", "CIRCULAR"], grey
    ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = 1, columns
    ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = 1, rows
    ds.CenterOfCircularShutter, ds.RadiusOfCircularShutter = [rows // 2, columns // 2], rows // 2 + 20
    finding, alone = engine.interpret(ds), engine.interpret(as_object(hand))
    assert finding.hands_found == 1
    assert finding.age_months == pytest.approx(alone.age_months, abs=1.5)
    assert finding.hand.centre == pytest.approx(alone.hand.centre, abs=6)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(0, 420), slice(None)), (slice(620, None), slice(None)), (slice(None), slice(0, 330))],
    ids=["fingers-only", "wrist-only", "half-a-hand"],
)
def test_a_part_of_a_hand_is_refused(engine, hand, rows, columns):
    finding = engine.interpret(as_object(hand[rows, columns]))
    assert isinstance(finding, Refusal)
    assert finding.code in {RefusalCode.NOT_A_HAND, RefusalCode.HAND_INCOMPLETE}


@pytest.mark.parametrize("kind", ["noise", "black", "gradient", "bars"])
def test_an_image_without_a_hand_is_refused(engine, kind):
    ramp = np.tile(np.linspace(0, 255, 600).astype(np.uint8), (800, 1))
    images = {
        "noise": np.random.default_rng(3).integers(0, 256, (800, 600)).astype(np.uint8),
        "black": np.zeros((800, 600), dtype=np.uint8),
        "gradient": ramp,
        "bars": np.where(np.indices((800, 600))[1] // 40 % 2 == 0, 30, 200).astype(np.uint8),
    }
    finding = engine.interpret(as_object(images[kind]))
    assert isinstance(finding, Refusal)
    assert finding.code in {RefusalCode.NOT_A_HAND, RefusalCode.POOR_IMAGE}


@pytest.mark.parametrize("levels", [8, 15])
def test_a_film_of_a_few_grey_values_is_refused(engine, hand, levels):
    """Given a hand in 3 bits or a little more, then bones that are read from steps of grey get no age."""
    pixels = hand.astype(np.float64)
    few = np.rint(pixels / pixels.max() * (levels - 1)) * (255 // (levels - 1))
    finding = engine.interpret(as_object(few.astype(np.uint8)))
    assert isinstance(finding, Refusal)
    assert (finding.code, "grey values" in finding.sentence) == (RefusalCode.POOR_IMAGE, True)


@pytest.mark.parametrize("sex", ["", "O", "X"])
def test_an_unknown_sex_is_refused_never_defaulted(engine, hand, sex):
    finding = engine.interpret(as_object(hand, sex=sex))
    assert isinstance(finding, Refusal)
    assert finding.code is RefusalCode.SEX_UNKNOWN
    assert len(finding.rois) == len(ROI_NAMES)


def test_an_unknown_sex_is_read_by_either(engine, hand):
    """What a reader gets to choose from is what either sex would have got, with its interval."""
    unknown = engine.interpret(as_object(hand, sex=""))
    known = {sex: engine.interpret(as_object(hand, sex=sex.value)) for sex in Sex}
    assert [reading.sex for reading in unknown.assumed] == list(Sex)
    for reading in unknown.assumed:
        estimate = known[reading.sex]
        assert reading.age_months == pytest.approx(estimate.age_months, abs=1e-3)
        assert reading.interval_low_months == pytest.approx(estimate.interval_low_months, abs=1e-3)
        assert reading.interval_high_months == pytest.approx(estimate.interval_high_months, abs=1e-3)


def test_a_second_methods_stages_and_age_stand_beside_the_first_ones_age(engine, hand):
    """Given a method for the stages, then the age stays, and bones, score and second age are that method's own."""
    film = as_object(hand)
    both = Engine.load(engine.identity.method, stages="precise-baa", device="cpu").interpret(film)
    alone = Engine.load("precise-baa", device="cpu")
    read = alone.interpret(film)
    assert (both.age_months, both.model) == (engine.interpret(film).age_months, engine.identity)
    assert both.profile == replace(read.profile, model=alone.identity)
    assert both.profile.age_months == read.age_months
    assert both.profile.age_months != both.age_months
    assert finding_from_json(finding_to_json(both)) == both


def test_reading_twice_gives_the_same(engine, hand):
    assert engine.interpret(as_object(hand)) == engine.interpret(as_object(hand))


def test_the_shipped_weights_are_small_and_whole():
    assert "global-local" in list_methods()
    for name in ("global-local", "hand-detector"):
        bundle = open_bundle(name)
        assert len(bundle.weights_sha256) == 64
        assert (bundle.folder / "docs" / "README.md").is_file()
    total = sum(path.stat().st_size for path in bundles_folder().rglob("*.safetensors"))
    assert total <= 40e6


def test_a_damaged_weight_file_is_refused(tmp_path):
    shutil.copytree(bundles_folder() / "hand-detector", tmp_path / "hand-detector")
    weights = tmp_path / "hand-detector" / "models" / "finder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"finder\.safetensors"):
        open_bundle("hand-detector", tmp_path)


def test_an_unknown_method_names_those_there_are():
    with pytest.raises(BundleError, match="global-local"):
        open_bundle("no-such-method")


def test_the_identity_of_the_model_follows_its_weights():
    bundle = open_bundle("global-local")
    files = sorted((bundle.folder / "models").glob("*.safetensors"))
    assert "model.safetensors" in {file.name for file in files}
    lines = (f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    assert bundle.weights_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("target", ["finder", "landmarks", "global-local"])
def test_a_run_can_start_from_the_shipped_weights(target):
    makers = {
        "finder": make_finder,
        "landmarks": make_landmark_net,
        "global-local": open_method("global-local", open_bundle("global-local").config).make_net,
    }
    net = Start(SHIPPED).apply(target, makers[target]())
    name, file = ("hand-detector", f"{target}.safetensors") if target in NETS else (target, "model.safetensors")
    shipped = open_bundle(name).read_weights(file)
    assert all(torch.equal(value, shipped[key]) for key, value in net.state_dict().items())


def test_a_run_can_start_from_any_of_the_shipped_networks():
    """Without a number from the first of the same net; the familiarity beside them is no network."""
    bundle = open_bundle("house")
    variants = [bundle.config["variant"], *(one["variant"] for one in bundle.config["more"])]
    first = variants.index("lite2") + 1
    for init, number in (("shipped", first), (f"shipped:{len(variants)}", len(variants))):
        net = Start(Path(init)).apply("house", HouseNet("lite2"))
        shipped = bundle.read_weights(more_file(number - 2))
        assert all(torch.equal(value, shipped[key]) for key, value in net.state_dict().items())


def test_a_run_without_weights_is_no_start(tmp_path):
    with pytest.raises(RunError, match="no weights"):
        Start(tmp_path).apply("finder", make_finder())
