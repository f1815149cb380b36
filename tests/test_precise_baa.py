"""Precise-BAA against what Jia et al. 2022 state of it. Does not cover its accuracy (boneage-node evaluate does)."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.interpolate import PchipInterpolator

from inference import torch_backend
from inference.anatomy import BOX_NAMES, RUS_NAMES
from inference.bone_detector import CLASSES, HEAD_OVERLAPS, BoneDetector, Detection, HeadAnswer, best_boxes, pool_boxes
from inference.detector import FoundHand, Landmarks
from inference.engine import LocatedHand, SexedHand
from inference.errors import BundleError
from inference.finding import DERIVED, BoneProfile, Sex
from inference.maturity import BoneAttention, MaturityNet
from inference.method import Prediction, open_method
from inference.palm import PalmNet, clean_mask, keep_palm
from inference.pose import Pose, template_points
from inference.precise_baa import FILM_SIDE, PreciseNet, read_profile
from inference.preparation import fit_film, roi_centres
from inference.recursive_pyramid import AtrousPooling, FeaturePyramid, RecursivePyramid, SwitchableAtrousConv
from inference.rus_chn import STAGE_COUNTS, TOP_SCORE, Maturity, curve_knots, source, stage_scores
from inference.torch_backend import TorchAgeNetwork
from training.ages import AgeBatch, LocatedFilm, Pool, age_batches
from training.cascade import anchor_loss, detector_loss, generalised_iou, head_loss, match_boxes, palm_loss
from training.maturity import class_weights, even_stages, maturity_loss, stage_loss
from training.radiographs import Reading

BOTH = torch.tensor([1.0, -1.0])


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps are slow where several threads fight for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def phantom(age_months: float = 120.0, sex: Sex = Sex.MALE) -> LocatedFilm:
    """Draw discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, roi_centres(points, pose))


def unreached(net: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that the last backward pass gave no gradient, or none that is a number."""
    return [
        name
        for name, p in net.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0 or not torch.isfinite(p.grad).all()
    ]


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# RUS-CHN: points and curve


def test_the_bones_have_the_papers_stages():
    assert dict(zip(RUS_NAMES, STAGE_COUNTS, strict=True)) == {
        "radius": 15, "ulna": 13, "PP1": 13, "PP3": 13, "PP5": 13, "MP3": 13, "MP5": 13,
        "MC1": 12, "DP1": 12, "DP3": 12, "DP5": 12, "MC3": 11, "MC5": 11,
    }  # fmt: skip


@pytest.mark.parametrize("sex", Sex)
def test_points_rise_with_every_stage_and_add_up_to_1000(sex):
    points = stage_scores(sex)
    for row, count in zip(points, STAGE_COUNTS, strict=True):
        assert row[0] == 0
        assert (np.diff(row[:count]) > 0).all()
        assert (row[count:] == 0).all()
    assert points.max(1).sum() == TOP_SCORE
    assert "RUS-CHN" in source()


@pytest.mark.parametrize(("sex", "male", "oldest"), [(Sex.MALE, 1.0, 216.0), (Sex.FEMALE, -1.0, 204.0)])
def test_the_curve_goes_through_its_knots_rises_everywhere_and_is_differentiable(sex, male, oldest):
    reference = Maturity()
    scores, months = curve_knots(sex)
    at_knots = reference(torch.tensor(scores, dtype=torch.float32), torch.full((len(scores),), male))
    assert np.allclose(at_knots.numpy(), months, atol=1e-3)
    dense = torch.linspace(0, TOP_SCORE, 3001, requires_grad=True)
    ages = reference(dense, torch.full((3001,), male))
    (slopes,) = torch.autograd.grad(ages.sum(), dense)
    assert (ages.diff() > 0).all()
    assert (slopes > 0).all()
    slope = PchipInterpolator(scores, months).derivative()(dense.detach().double().numpy())
    assert np.allclose(slopes.numpy(), slope, atol=1e-3), "the monotone cubic's, which has no jumps"
    beyond = reference(torch.tensor([-5.0, 2000.0]), torch.full((2,), male))
    assert beyond.tolist() == pytest.approx([0.0, oldest])


def test_a_mature_hand_has_1000_points():
    mature = torch.zeros(2, 13, 15)
    for bone, count in enumerate(STAGE_COUNTS):
        mature[:, bone, count - 1] = 1
    scores = Maturity().bone_scores(mature, BOTH)
    assert scores.sum(1).tolist() == [1000.0, 1000.0]
    assert scores[:, 0].tolist() == [209.0, 210.0], "the radius, by sex"


# Stages 3 and 4


def test_the_trunk_is_densenet_121():
    with torch.device("meta"):
        net = MaturityNet()
        assert parameters(net.trunk) == 6_953_856 - 2 * 64 * 49, "DenseNet-121's features, with one colour"
        assert net.trunk(torch.empty(1, 1, 224, 224)).shape == (1, 1024, 7, 7)
        assert parameters(MaturityNet(16)) < parameters(net) / 3
    assert [head.out_features for head in net.stages] == list(STAGE_COUNTS)


def test_bones_attend_to_bones():
    """Given features of two hands, when attention is asked for, then it is a 13 x 13 map whose rows add up to 1."""
    attention = BoneAttention(20, 8)
    bones = torch.randn(2, 13, 20)
    weights = attention.weights(bones)
    assert weights.shape == (2, 13, 13)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 13), atol=1e-5)
    query, key = attention.query(bones[0]), attention.key(bones[0])
    by_hand = torch.softmax(query @ key.T / 8**0.5, -1) @ attention.value(bones[0])
    assert torch.allclose(attention(bones)[0], bones[0] + by_hand, atol=1e-5)


def test_stages_are_distributions_over_each_bones_own_stages_and_give_the_age():
    net = PreciseNet(4).eval()
    answer = net(torch.rand(2, 13, 32, 32) * 2 - 1, BOTH)
    assert answer.stages.shape == (2, 13, 15)
    for bone, count in enumerate(STAGE_COUNTS):
        assert torch.allclose(answer.stages[:, bone, :count].sum(-1), torch.ones(2), atol=1e-5)
        assert (answer.stages[:, bone, count:] == 0).all()
    score = Maturity().bone_scores(answer.stages, BOTH).sum(1)
    assert torch.allclose(answer.age_months, Maturity()(score, BOTH))


def test_imagenet_weights_under_torchvisions_names_are_taken():
    net = PreciseNet(32)
    weights = {}
    for key, value in net.maturity.trunk.state_dict().items():
        weights["features." + key.replace(".layers.", ".")] = torch.full_like(value, 2)
    weights["features.conv0.weight"] = torch.ones(64, 3, 7, 7)
    net.load_imagenet(weights | {"classifier.weight": torch.zeros(1000, 1024)})
    assert net.maturity.trunk.conv0.weight.unique().tolist() == [3.0]
    assert net.maturity.trunk.denseblock4.denselayer16.layers.conv2.weight.unique().tolist() == [2.0]


def test_a_profile_names_stages_and_says_that_they_are_derived():
    stages = torch.zeros(1, 13, 15)
    stages[:, :, 1], stages[:, :, 2] = 0.25, 0.75
    male = torch.ones(1)
    profile = read_profile(Prediction(torch.tensor([50.0]), stages=stages), male)
    assert profile.origin == DERIVED == "derived, not read"
    assert [bone.name for bone in profile.bones] == list(RUS_NAMES)
    radius = profile.bones[0]
    assert (radius.stage, radius.last_stage, radius.probability) == (2, 14, 0.75)
    assert radius.points == pytest.approx(0.25 * 8 + 0.75 * 11)
    assert profile.points == pytest.approx(sum(bone.points for bone in profile.bones), abs=1e-3)
    with pytest.raises(ValueError, match="no stages"):
        read_profile(Prediction(torch.tensor([50.0])), male)


def test_a_profile_names_the_stage_that_has_the_expected_points():
    """Given a radius that is likeliest not there at all, but expected to have points, then its stage is not 0."""
    stages = torch.zeros(1, 13, 15)
    stages[:, :, 2] = 1
    stages[0, 0] = torch.tensor([0.3, 0, 0, 0, 0, 0.2, 0.25, 0.25, 0, 0, 0, 0, 0, 0, 0])
    radius, ulna = read_profile(Prediction(torch.tensor([50.0]), stages=stages), -torch.ones(1)).bones[:2]
    points = stage_scores(Sex.FEMALE)[0]
    assert radius.points == pytest.approx(0.2 * points[5] + 0.25 * (points[6] + points[7]), abs=1e-4)
    assert points[radius.stage - 1] < radius.points < points[radius.stage + 1]
    assert radius.probability == pytest.approx(float(stages[0, 0, radius.stage]))
    assert (ulna.stage, ulna.probability) == (2, 1.0)


# Losses of stage 3


def test_the_stage_loss_is_class_weighted_cross_entropy():
    torch.manual_seed(1)
    logits = torch.randn(2, 13, 15)
    labels = torch.randint(0, 11, (2, 13))
    weights = torch.ones(13, 15)
    weights[:, 3] = 4
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weights[0])
    assert stage_loss(torch.softmax(logits, -1), labels, weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_rare_stages_weigh_more_and_missing_ones_nothing():
    shares = torch.zeros(13, 15)
    shares[:, 0], shares[:, 1], shares[:, 2] = 0.5, 0.49, 0.01
    weights = class_weights(shares)
    assert weights[0, 0].item() == pytest.approx(1 / (15 * 0.5))
    assert weights[0, 2].item() == 5.0
    assert (weights[:, 3:] == 0).all()


@pytest.mark.parametrize("sex", Sex)
def test_even_stages_have_the_points_of_their_age(sex):
    stages = even_stages(sex)
    assert torch.allclose(stages.sum(-1), torch.ones(241, 13), atol=1e-4)
    points = (stages * torch.tensor(stage_scores(sex), dtype=torch.float32)).sum((-1, -2))
    scores, months = curve_knots(sex)
    assert np.allclose(points.numpy(), np.interp(np.arange(241), months, scores), atol=1.0)


def test_the_weak_loss_is_least_where_age_and_stages_agree():
    male = torch.ones(1)
    batch = AgeBatch((), male, torch.tensor([120.0]))
    reference = Maturity()

    def loss_at(month: int) -> float:
        stages = even_stages(Sex.MALE)[month][None]
        age = reference(reference.bone_scores(stages, male).sum(1), male)
        return maturity_loss(Prediction(age, stages=stages), batch).item()

    assert loss_at(120) < loss_at(132) < loss_at(180)


def test_gradients_reach_every_part_and_a_few_steps_lower_the_loss():
    torch.manual_seed(2)
    method = open_method("precise-baa", {"side": 32, "growth": 4})
    films = [phantom(age, sex) for age in (40, 190) for sex in Sex]
    batch = next(age_batches([Pool.make(films, 1.0)], method, 6, 1))
    assert batch.inputs[0].shape == (6, 13, 32, 32)
    net = method.make_net()
    optimiser, losses = torch.optim.AdamW(net.parameters(), lr=3e-3), []
    for _ in range(8):
        loss = maturity_loss(net(*batch.inputs, batch.male), batch)
        optimiser.zero_grad()
        loss.backward()
        assert not unreached(net)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# Stage 1


def test_the_largest_region_is_kept_and_its_holes_are_filled():
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:12, 2:12] = True
    mask[5:7, 5:7] = False
    mask[15:18, 15:18] = True
    clean = clean_mask(mask)
    assert clean.sum() == 100
    assert clean[2:12, 2:12].all()
    assert clean_mask(np.zeros((4, 4), dtype=bool)).all(), "no palm: the whole film"


def test_what_is_not_palm_is_black():
    film = torch.rand(1, 1, 64, 64)
    logits = torch.full((1, 1, 32, 32), -5.0)
    logits[..., 8:24, 8:24] = 5
    kept = keep_palm(film, logits)
    assert (kept[..., :12, :] == -1).all()
    assert kept[..., 20:40, 20:40].max() > 0.9


def test_the_palm_net_is_a_u_net_of_the_papers_size():
    with torch.device("meta"):
        net = PalmNet()
        assert parameters(net) == pytest.approx(31.0e6, rel=0.01), "Ronneberger et al. 2015"
    assert PalmNet(0.02)(torch.rand(1, 1, 512, 512)).shape == (1, 1, 256, 256)


# Stage 2


def test_switchable_atrous_convolution_is_equation_1():
    torch.manual_seed(4)
    conv = torch.nn.Conv2d(3, 5, 3, padding=1, stride=2, bias=False)
    maps = torch.randn(1, 3, 14, 12)
    switchable = SwitchableAtrousConv(conv)
    assert torch.allclose(switchable(maps), conv(maps), atol=1e-5), "it starts as the convolution it replaces"
    torch.nn.init.normal_(switchable.difference)
    torch.nn.init.normal_(switchable.switch.weight)
    around = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(maps, (2, 2, 2, 2), mode="replicate"), 5, stride=2)
    s = switchable.switch(around)
    w, dw = switchable.weight, switchable.difference
    far = torch.nn.functional.conv2d(maps, w + dw, stride=2, padding=3, dilation=3)
    assert torch.allclose(switchable(maps), s * conv(maps) + (1 - s) * far, atol=1e-5)


def test_atrous_pooling_has_four_branches():
    pooling = AtrousPooling(8)
    assert pooling(torch.randn(2, 8, 9, 7)).shape == (2, 64, 9, 7)
    convolutions = [m for m in pooling.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.kernel_size[0], c.dilation[0]) for c in convolutions] == [(1, 1), (3, 3), (3, 6), (1, 1)]


def test_coarse_maps_flow_into_finer_ones():
    pyramid = FeaturePyramid((4, 6), 8)
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
    before = pyramid([fine, coarse])
    assert [tuple(m.shape) for m in before] == [(1, 8, 8, 8), (1, 8, 4, 4)]
    after = pyramid([fine, coarse + 1])
    assert not torch.allclose(before[0], after[0])


def test_the_pyramid_looks_twice_and_feeds_back_into_every_block():
    torch.manual_seed(5)
    net = RecursivePyramid(18, 0.125, 16).eval()
    film, seen = torch.randn(1, 1, 64, 64), []
    net.trunk.stages[0].register_forward_hook(lambda *_: seen.append(1))
    first = net(film)
    assert len(seen) == 2
    assert [m.shape[-1] for m in first] == [16, 8, 4, 2]
    for conv in net.feedback:
        torch.nn.init.normal_(conv.weight)
    assert not torch.allclose(first[0], net(film)[0])


def test_the_pyramid_has_switchable_convolutions_in_three_blocks_of_resnet_50():
    with torch.device("meta"):
        net = RecursivePyramid(50)
    counts = [sum(isinstance(m, SwitchableAtrousConv) for m in stage.modules()) for stage in net.trunk.stages]
    assert counts == [0, 0, 4, 6, 3]


def test_generalised_iou_of_small_examples():
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    found = generalised_iou(box.expand(3, 4), others)
    assert found.tolist() == pytest.approx([1.0, 2 / 6, 0 - 4 / 12])


def test_each_head_counts_boxes_from_its_own_overlap_on():
    true = torch.tensor([[[0.0, 0.0, 10.0, 10.0]] + [[50.0, 50.0, 60.0, 60.0]] * 12])
    given = torch.tensor([[[0.0, 0.0, 10.0, 6.5], [30.0, 30.0, 40.0, 40.0]]])
    assert HEAD_OVERLAPS == (0.5, 0.6, 0.7)
    assert [match_boxes(given, true, overlap)[0].tolist() for overlap in HEAD_OVERLAPS] == [
        [[0, 13]], [[0, 13]], [[13, 13]],
    ]  # fmt: skip


def test_the_heads_loss_is_cross_entropy_and_one_minus_giou():
    true = torch.tensor([[[0.0, 0.0, 10.0, 10.0]] + [[50.0, 50.0, 60.0, 60.0]] * 12])
    given = torch.tensor([[[0.0, 0.0, 10.0, 8.0], [30.0, 30.0, 40.0, 40.0]]])
    answer = HeadAnswer(given, torch.zeros(1, 2, CLASSES), given)
    assert head_loss(answer, true, 0.5).item() == pytest.approx(np.log(14) + 1 - 0.8)
    assert head_loss(answer._replace(boxes=true[:, [0, 1]]), true, 0.5).item() == pytest.approx(np.log(14))


def test_anchors_with_and_without_a_bone_weigh_the_same():
    """Given one anchor on a bone and 999 elsewhere, when all say "no", then half of the largest loss is left."""
    true = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    anchors = torch.cat([true[0], torch.tensor([[50.0, 50.0, 60.0, 60.0]]).repeat(999, 1)])
    logits = torch.full((1, 1000), -10.0)
    assert anchor_loss(Detection(logits, anchors[None], anchors, ()), true).item() == pytest.approx(5, rel=1e-3)


def test_boxes_are_read_from_the_map_of_their_size():
    maps = [torch.full((1, 1, 128 >> level, 128 >> level), float(level)) for level in range(4)]
    sides = torch.tensor([40.0, 111.0, 113.0, 300.0, 500.0])
    boxes = torch.stack([torch.zeros(5), torch.zeros(5), sides, sides], dim=1)[None]
    assert pool_boxes(maps, boxes)[0, :, 0, 3, 3].tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_of_each_bone_the_best_box_is_taken():
    boxes = torch.tensor([[[float(k), 0.0, k + 5.0, 5.0] for k in range(20)]])
    logits = torch.zeros(1, 20, CLASSES)
    for bone in range(13):
        logits[0, 19 - bone, bone] = 5
    head = HeadAnswer(boxes, logits, boxes)
    found, scores = best_boxes(Detection(torch.empty(0), torch.empty(0), torch.empty(0), (head,) * 3), 512)
    assert found[0, :, 0].tolist() == [19.0 - bone for bone in range(13)]
    assert scores.min() > 0.9


def test_detector_and_palm_net_learn_and_gradients_reach_every_part():
    """Given one film, when both nets step on it, their losses fall; what starts at zero is reached from step 2 on."""
    torch.manual_seed(6)
    film = phantom()
    square, scale = fit_film(film.pixels, FILM_SIDE)
    image = torch.from_numpy(square[::2, ::2].copy())[None, None] / 127.5 - 1
    centres = torch.from_numpy(film.centres[:13]).float()[None] * scale / 2
    boxes = torch.cat([centres - 14, centres + 14], dim=-1)
    detector, losses = BoneDetector(18, 0.125), []
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(6):
        loss = detector_loss(detector(image, boxes), boxes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not unreached(detector)
    palm, losses = PalmNet(0.02), []
    mask = (torch.nn.functional.interpolate(image, size=(256, 256)) > 0).float()
    optimiser = torch.optim.AdamW(palm.parameters(), lr=3e-3)
    for _ in range(5):
        loss = palm_loss(palm(image), mask)
        optimiser.zero_grad()
        loss.backward()
        assert not unreached(palm)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# The method


def test_both_localisers_answer_with_ages_and_stages():
    film = phantom()
    shared = open_method("precise-baa", {"side": 48, "growth": 4})
    (patches,) = shared.prepare(film.pixels, film.pose, film.centres)
    assert patches.shape == (13, 48, 48)
    paper = open_method("precise-baa", {"side": 32, "growth": 4, "detector_width": 0.02, "localiser": "paper"})
    (whole,) = paper.prepare(film.pixels, film.pose, film.centres)
    assert whole.shape == (512, 512)
    net = paper.make_net().eval()
    with torch.no_grad():
        answer = net(torch.from_numpy(whole)[None, None] / 127.5 - 1, torch.ones(1))
    assert answer.stages.shape == (1, 13, 15)
    boxes = answer.extras["boxes"]
    assert boxes.shape == (1, 13, 4)
    assert (boxes >= 0).all()
    assert (boxes <= 513).all()
    with pytest.raises(BundleError, match="shared, paper"):
        open_method("precise-baa", {"localiser": "guess"})


def test_a_film_is_fitted_without_changing_its_shape():
    square, scale = fit_film(np.full((400, 200), 90, dtype=np.uint8), FILM_SIDE)
    assert scale == 512 / 400
    assert (square[:, :256] == 90).all()
    assert (square[:, 256:] == 0).all()


def test_the_node_gets_the_profile_beside_the_age(monkeypatch):
    """Given a bundle of precise-baa, when the node's network reads a hand, then age and stages come out together."""
    config = {"side": 32, "growth": 4}
    monkeypatch.setattr(torch_backend, "load_net", lambda net, *_, **__: net.eval())
    network = TorchAgeNetwork("precise-baa", SimpleNamespace(config=config), torch.device("cpu"))
    film = phantom()
    points = film.pose.to_film(template_points())
    landmarks = Landmarks(points, np.ones(len(points)), np.full((len(BOX_NAMES), 2), 0.1), film.pose)
    hand = LocatedHand(FoundHand(film.pose, 1.0, 0.0), landmarks, None)
    read = network.read([SexedHand(film.pixels, hand, Sex.FEMALE)])[0]
    assert read.profile is not None
    assert read.profile.age_months == pytest.approx(read.age_months)
    assert 0 < read.profile.points < TOP_SCORE
    assert TypeAdapter(BoneProfile).validate_json(TypeAdapter(BoneProfile).dump_json(read.profile)) == read.profile
