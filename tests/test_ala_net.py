"""ALA-Net against what Wang et al. 2020 state of it. Does not cover its accuracy (boneage-node evaluate does)."""

import math

import cv2
import numpy as np
import pytest
import torch
from monai.data.box_utils import non_max_suppression

from dicom_node.errors import SettingsError
from dicom_node.settings import load_settings
from inference.ala_net import KEY_POINTS, WINDOW, AlaNet, key_boxes
from inference.anatomy import ROI_NAMES
from inference.bundle import open_bundle
from inference.errors import BundleError
from inference.finding import Sex
from inference.method import method_names, open_method
from inference.ordinal import expected_rank
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from inference.proposals import decode_boxes, encode_boxes, make_anchors, overlaps, pick_best
from inference.roi_align import roi_align
from training.ages import LocatedFilm, Pool, age_batches, augmented
from training.ala_net import ala_net_loss, ala_net_terms
from training.errors import RunError
from training.ordinal import ordinal_loss
from training.proposals import match_anchors, proposal_loss
from training.radiographs import Reading
from training.train import Start


def phantom(age_months: float, sex: Sex) -> LocatedFilm:
    """Draw discs at the 17 key points whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    centres = roi_centres(points, pose)
    for x, y in centres[: len(KEY_POINTS)]:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, centres)


def test_the_network_has_the_papers_sizes():
    with torch.device("meta"):
        net = AlaNet(1.0)
    assert [sum(isinstance(u, torch.nn.Conv2d) for u in stage.modules()) for stage in net.trunk.stages] == [
        1, 10, 13, 19, 10,
    ]  # fmt: skip
    assert sum(p.numel() for p in net.trunk.parameters()) == 23_508_032 - 2 * 64 * 49, "ResNet-50's, with one colour"
    with torch.device("meta"):
        maps = net.trunk(torch.empty(2, 1, 512, 416))[-1]
        assert maps.shape == (2, 2048, 16, 13)
        described = net.region_head(torch.empty(2 * 17, 2048, 7, 7))
    assert described.shape == (2 * 17, 1024)
    layers = [type(layer).__name__ for layer in net.region_head]
    assert (layers.count("Conv2d"), layers.count("Linear")) == (4, 1)
    assert len(KEY_POINTS) == len(set(KEY_POINTS)) == 17
    assert ROI_NAMES[: len(KEY_POINTS)] == KEY_POINTS


def test_an_answer_has_17_regions_within_the_image():
    torch.manual_seed(1)
    net = open_method("ala-net", {"width": 0.125}).make_net().eval()
    with torch.inference_mode():
        answer = net(torch.randn(2, 1, 256, 208), torch.tensor([1.0, -1.0]))
    boxes, scores = answer.extras["boxes"], answer.extras["box_scores"]
    assert answer.age_months.shape == (2,)
    assert boxes.shape == (2, 17, 4)
    assert (boxes[..., :2] < boxes[..., 2:]).all()
    assert 0 <= float(boxes.min()) <= float(boxes[..., [0, 2]].max()) <= 208
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert "patch_logits" not in answer.extras, "regions are asked for their age while training only"


def test_the_input_keeps_the_aspect_and_its_long_side_is_512():
    method = open_method("ala-net", {"width": 0.25})
    film = phantom(100, Sex.MALE)
    (image,) = method.prepare(film.pixels, film.pose, film.centres)
    assert image.shape == (512, 416)
    assert (WINDOW[2] - WINDOW[0]) / 416 == pytest.approx((WINDOW[3] - WINDOW[1]) / 512)


def test_key_boxes_are_64_pixels_around_the_discs():
    """Given a film whose discs are its key points, when it is augmented, then the boxes are centred on the discs."""
    method = open_method("ala-net", {"width": 0.25})
    film = phantom(150, Sex.MALE)
    generator = np.random.default_rng(3)
    for _ in range(3):
        (image,), centres = augmented(film, method, generator)
        boxes = key_boxes(torch.from_numpy(centres)[None], rows=512)[0].numpy()
        assert boxes.shape == (17, 4)
        assert np.allclose(boxes[:, 2:] - boxes[:, :2], 64)
        middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
        inside = [(x, y) for x, y in middles if 0 <= x < 416 and 0 <= y < 512]
        bright = [cv2.blur(image, (5, 5))[y, x] > 0 for x, y in inside]
        assert np.mean(bright) > 0.85, "a disc may be covered by an augmentation"


def slow_roi_align(maps, box, stride, side, samples):
    """Read one box's bins sample by sample, as Mask R-CNN's section 3 describes it."""
    channels, rows, columns = maps.shape
    out = torch.zeros(channels, side, side)
    x0, y0, x1, y1 = (float(value) for value in box)
    for i in range(side):
        for j in range(side):
            for a in range(samples):
                for b in range(samples):
                    y = (y0 + (y1 - y0) * (i + (a + 0.5) / samples) / side) / stride - 0.5
                    x = (x0 + (x1 - x0) * (j + (b + 0.5) / samples) / side) / stride - 0.5
                    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
                    top, left = min(int(y), rows - 2), min(int(x), columns - 2)
                    dy, dx = y - top, x - left
                    value = (
                        maps[:, top, left] * (1 - dy) * (1 - dx)
                        + maps[:, top, left + 1] * (1 - dy) * dx
                        + maps[:, top + 1, left] * dy * (1 - dx)
                        + maps[:, top + 1, left + 1] * dy * dx
                    )
                    out[:, i, j] += value / samples**2
    return out


def test_roi_align_is_the_slow_reference():
    torch.manual_seed(5)
    maps = torch.randn(2, 3, 8, 6)
    boxes = torch.tensor([
        [[10.0, 20.0, 70.0, 90.0], [0.0, 0.0, 96.0, 128.0]],
        [[33.3, 41.7, 40.1, 60.2], [80.0, 100.0, 120.0, 140.0]],
    ])  # fmt: skip
    fast = roi_align(maps, boxes, stride=16, side=3, samples=2)
    assert fast.shape == (2, 2, 3, 3, 3)
    for image in range(2):
        for region in range(2):
            slow = slow_roi_align(maps[image], boxes[image, region], 16, 3, 2)
            assert torch.allclose(fast[image, region], slow, atol=1e-5)


def test_roi_align_of_a_ramp_gives_the_bins_middles():
    ramp = (torch.arange(8.0) + 0.5).expand(1, 1, 8, 8) * 4  # the value is the x coordinate in image pixels
    bins = roi_align(ramp, torch.tensor([[[8.0, 8.0, 24.0, 24.0]]]), stride=4, side=4)
    assert torch.allclose(bins[0, 0, 0], torch.tensor([10.0, 14.0, 18.0, 22.0]).expand(4, 4), atol=1e-5)


def test_boxes_are_read_back_as_they_were_written():
    anchors = make_anchors(2, 3, 32, 64)
    assert anchors.shape == (6, 4)
    assert anchors[4].tolist() == [48 - 32, 48 - 32, 48 + 32, 48 + 32]
    boxes = anchors + torch.tensor([5.0, -7.0, 30.0, 2.0])
    assert torch.allclose(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-4)
    shift = encode_boxes(anchors[:1] + 16, anchors[:1])
    assert shift.tolist() == [[0.25, 0.25, 0, 0]]


def test_overlaps_are_intersection_over_union():
    first = torch.tensor([[0.0, 0, 2, 2]])
    second = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    assert overlaps(first, second)[0].tolist() == pytest.approx([1, 1 / 7, 0])


def test_suppression_picks_what_monais_picks():
    torch.manual_seed(6)
    corners = torch.rand(2, 40, 2) * 100
    boxes, scores = torch.cat([corners, corners + 20 + torch.rand(2, 40, 2) * 20], -1), torch.rand(2, 40)
    picked = pick_best(boxes, scores, 8, 0.3)
    for image in range(2):
        reference = non_max_suppression(boxes[image], scores[image], 0.3, max_proposals=8)
        assert picked[image, : len(reference)].tolist() == reference.tolist()
        assert len(reference) == 8


def test_the_estimate_is_the_sum_of_probabilities():
    logits = torch.tensor([[2.0, 0.0, -1.0], [50.0, 50.0, -50.0]])
    wanted = [sum(1 / (1 + math.exp(-value)) for value in row) for row in logits.tolist()]
    assert expected_rank(logits).tolist() == pytest.approx(wanted, abs=1e-5)
    torch.manual_seed(2)
    net = AlaNet(0.125).eval()
    with torch.inference_mode():
        answer = net(torch.randn(2, 1, 128, 104), torch.ones(2))
    summed = torch.sigmoid(answer.extras["ordinal_logits"]).sum(1)
    assert answer.extras["ordinal_logits"].shape == (2, 240)
    assert torch.allclose(answer.age_months, summed)


def test_the_ordinal_loss_is_equation_1():
    """Given K = 4 ranks and an age of 2, then the questions' answers are yes (y > 0), yes (y > 1), no (y > 2)."""
    probabilities = torch.tensor([[0.9, 0.6, 0.3]])
    wanted = -(math.log(0.9) + math.log(0.6) + math.log(1 - 0.3)) / 3
    logits = torch.logit(probabilities)
    assert ordinal_loss(logits, torch.tensor([2.0])).item() == pytest.approx(wanted, abs=1e-6)
    regions = logits[:, None].expand(-1, 5, -1)
    assert ordinal_loss(regions, torch.tensor([[2.0]])).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("age_months", [99.8, 100.0, 100.2])
def test_ages_between_months_are_taught_as_the_nearest_one(age_months):
    """Given answers that are sure of 100 months, then the loss is nil for 99.8 and for 100.2, and their sum is 100."""
    logits = torch.where(torch.arange(240) < 100, 20.0, -20.0)[None]
    assert ordinal_loss(logits, torch.tensor([age_months])).item() == pytest.approx(0, abs=1e-6)
    assert expected_rank(logits).item() == pytest.approx(100, abs=1e-3)


def test_softened_ages_are_taught_without_bias():
    ages = torch.linspace(97, 103, 6001)
    answers = torch.zeros(1, 240, requires_grad=True)
    ordinal_loss(answers.expand(6001, -1), ages).backward()
    taught = 0.5 - answers.grad[0] * 240  # the slope of cross entropy is the probability less the answer
    assert taught.sum().item() == pytest.approx(100, abs=0.05)


def test_anchors_are_objects_by_overlap_or_by_being_the_nearest():
    anchors = make_anchors(1, 4, 32, 64)  # middles at x = 16, 48, 80, 112
    near, far = [16 - 30.0, -16, 16 + 34, 48], [80 + 4.0, -16, 148, 48]  # middles at x = 18 and 116
    labels, place = match_anchors(anchors, torch.tensor([[near, far]]))
    assert labels.tolist() == [[1, -1, 0, 1]]
    assert (place[0, 0], place[0, 3]) == (0, 1)
    between = torch.tensor([[[28.0 - 32, -16, 28 + 32, 48]]])  # its middle at 28: no overlap reaches 0.7
    labels, _ = match_anchors(anchors, between)
    assert overlaps(anchors[:1], between[0]).item() < 0.7
    assert labels.tolist() == [[1, -1, 0, 0]]


def test_the_proposal_loss_is_ren_et_als():
    anchors = make_anchors(1, 4, 32, 64)
    boxes = torch.tensor([[[28.0 - 32, -16, 28 + 32, 48]]])
    logits = torch.tensor([[1.0, 9.0, -2.0, -3.0]])
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 0] = torch.tensor([0.0, 0.0, 2.0, 0.0])
    entropies = math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-3.0))
    shift = 12 / 64  # smooth L1: half its square; of a growth of 2: 2 - 0.5
    wanted = (entropies + shift**2 / 2 + 1.5) / 3
    assert proposal_loss(logits, deltas, anchors, boxes).item() == pytest.approx(wanted, abs=1e-5)


def test_gradients_reach_every_part_and_a_few_steps_lower_every_loss():
    """Given phantoms whose discs grow with age, when the net trains for a while, then its three losses have fallen."""
    torch.manual_seed(7)
    method = open_method("ala-net", {"width": 0.125, "long_side": 256})
    films = [phantom(age, sex) for age in (40, 100, 200) for sex in Sex]
    batches = age_batches([Pool.make(films, 1.0)], method, 6, 8)
    net = method.make_net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    terms = []
    for step in range(14):
        batch = next(batches)
        predicted = net(*batch.inputs, batch.male)
        terms.append([term.item() for term in ala_net_terms(predicted, batch)])
        loss = ala_net_loss(predicted, batch)
        assert loss.item() == pytest.approx(sum(terms[-1]), rel=1e-5)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert not unreached
        optimiser.step()
    first, last = np.mean(terms[:2], axis=0), np.mean(terms[-3:], axis=0)
    assert (last < 0.9 * first).all(), (first, last)


@pytest.mark.parametrize("name", ["ala-net", "2m-net"])
def test_a_method_without_weights_is_named_as_such(tmp_path, monkeypatch, name):
    """Given a method that is implemented and has no bundle, then bundle and settings say so, and what there is."""
    assert name in method_names()
    with pytest.raises(BundleError, match="no weights here: train and export it"):
        open_bundle(name, tmp_path)
    monkeypatch.setattr("dicom_node.settings.list_methods", lambda: ["global-local"])
    settings = tmp_path / "node.toml"
    settings.write_text(f'[node]\ndata_dir = "data"\n[interpret]\nmethod = "{name}"\n')
    with pytest.raises(SettingsError, match="use one of: global-local"):
        load_settings(settings)
    settings.write_text('[node]\ndata_dir = "data"\n[interpret]\nmethod = "global-local"\n')
    assert load_settings(settings).interpret.method == "global-local"


def test_imagenet_weights_of_another_width_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet50.pth")
    with pytest.raises(RunError, match="width differs"):
        Start(imagenet=tmp_path / "resnet50.pth").apply("ala-net", AlaNet(0.125))
    with pytest.raises(RunError, match="takes no ImageNet weights"):
        Start(imagenet=tmp_path / "resnet50.pth").apply("global-local", torch.nn.Linear(1, 1))
