"""2M-Net against what Liu et al. 2024 state of it. Does not cover its accuracy (boneage-node evaluate does)."""

import math

import cv2
import numpy as np
import pytest
import torch

from inference.errors import BundleError
from inference.finding import Sex
from inference.jigsaw import cut_tiles, jigsaw, join_tiles
from inference.method import Prediction, open_method
from inference.non_local import ChannelAttention, SpatialAttention
from inference.pose import Pose, template_points
from inference.preparation import HAND_WINDOW, roi_centres
from inference.two_m_net import PIECES, WINDOW, TwoMBranch, TwoMNet, crop_centre, group_of_step, shrink
from training.ages import AgeBatch, LocatedFilm, Pool, age_batches
from training.losses import jigsaw_loss
from training.radiographs import Reading


def phantom(age_months: float, sex: Sex) -> LocatedFilm:
    """Draw discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, roi_centres(points, pose))


def test_a_model_has_the_papers_11_8_million_parameters():
    with torch.device("meta"):
        net = TwoMNet(1.0)
    for branch in (net.of_male, net.of_female):
        assert round(sum(p.numel() for p in branch.parameters()) / 1e6, 1) == 11.8


def test_stages_and_features_have_resnet_18s_sizes():
    with torch.device("meta"):
        net = TwoMBranch(1.0).eval()
        image = torch.empty(1, 1, 448, 448)
    assert [tuple(maps.shape[1:]) for maps in net.trunk(image)] == [
        (64, 112, 112), (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14)
    ]  # fmt: skip
    real = TwoMBranch(1.0).eval()
    assert [f.shape for f in real.features(torch.randn(2, 1, 32, 32), 4)] == [(2, 64), (2, 128), (2, 256), (2, 512)]
    assert net.heads[-1][0].in_features == 256 + 512
    kinds = [type(module).__name__ for module in net.attention]
    assert kinds == ["Identity", "SpatialAttention", "ChannelAttention", "ChannelAttention"]


def test_granularity_and_depth_of_each_step_are_the_papers():
    """Given K = 4 and T = 3, then N = 2**(T - t) and (T - 1) - t = K - k, as the paper has it."""
    assert [2 ** (3 - t) for t in (1, 2, 3)] == list(PIECES)
    for t in (1, 2):
        assert (3 - 1) - t == 4 - group_of_step(t)


def test_a_jigsaw_is_a_permutation_of_tiles():
    images = torch.arange(3 * 2 * 8 * 12).reshape(3, 2, 8, 12).float()
    assert torch.equal(join_tiles(cut_tiles(images, 4)), images)
    assert torch.equal(cut_tiles(images, 2)[1, 1], images[1, :, :4, 6:]), "tiles come row by row"
    torch.manual_seed(1)
    shuffled = jigsaw(images, 4)
    assert shuffled.shape == images.shape
    assert not torch.equal(shuffled, images)
    orders = []
    for before, after in zip(cut_tiles(images, 4), cut_tiles(shuffled, 4), strict=True):
        where = [[torch.equal(a, b) for b in before].index(True) for a in after]
        assert sorted(where) == list(range(16))
        orders.append(where)
    assert orders[0] != orders[1], "each image has an order of its own"
    assert torch.equal(jigsaw(images, 1), images)


def test_an_image_that_has_no_equal_tiles_is_refused():
    with pytest.raises(ValueError, match="9 x 8"):
        jigsaw(torch.zeros(1, 1, 9, 8), 4)


def test_spatial_relations_are_equations_1_and_2():
    torch.manual_seed(2)
    block = SpatialAttention(4).eval()
    maps = torch.randn(1, 4, 4, 6)
    small = torch.nn.functional.max_pool2d(maps, 2)
    theta, phi, g = block.theta(maps), block.phi(small), block.g(small)
    expected, theta, phi, g = torch.zeros(1, 2, 4, 6), theta.detach(), phi.detach(), g.detach()
    for row in range(4):
        for column in range(6):
            weights = {
                (i, j): math.exp(float(theta[0, :, row, column] @ phi[0, :, i, j])) for i in range(2) for j in range(3)
            }
            for (i, j), weight in weights.items():
                expected[0, :, row, column] += weight / sum(weights.values()) * g[0, :, i, j]
    assert block.relations(maps).shape == (1, 24, 6)
    assert torch.allclose(block(maps), maps), "a fresh block changes nothing"
    torch.nn.init.ones_(block.norm.weight)
    wanted = maps + block.norm(block.out(expected))
    assert torch.allclose(block(maps), wanted, atol=1e-5)


def test_channel_relations_are_equation_3():
    maps = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 2.0]]]])
    products = [[1, 1, 0], [1, 2, 2], [0, 2, 4]]
    wanted = torch.tensor([[math.exp(-p) / sum(math.exp(-q) for q in row) for p in row] for row in products])
    assert torch.allclose(ChannelAttention.relations(maps)[0], wanted, atol=1e-6)
    block = ChannelAttention()
    assert torch.equal(block(maps), maps)
    torch.nn.init.constant_(block.weight, 0.5)
    assert torch.allclose(block(maps)[0, :, 0], maps[0, :, 0] + 0.5 * wanted @ maps[0, :, 0], atol=1e-6)


def test_the_loss_is_equation_4_once_per_step():
    steps = torch.tensor([[100.0, 110.0, 130.0], [60.0, 50.0, 40.0]])
    predicted = Prediction(steps[:, -1], extras={"step_months": steps})
    batch = AgeBatch((), torch.ones(2), torch.tensor([120.0, 50.0]))
    assert jigsaw_loss(predicted, batch).item() == pytest.approx((20 + 10) / 2 + (10 + 0) / 2 + (10 + 10) / 2)


def test_each_sex_has_its_own_model_and_view():
    """Given a mixed batch, when one sex's model changes, then only that sex's estimates change."""
    torch.manual_seed(3)
    net = open_method("2m-net", {"width": 0.125, "side": 64}).make_net().eval()
    image, male = torch.randn(3, 1, 64, 64), torch.tensor([1.0, -1.0, 1.0])
    with torch.inference_mode():
        before = net(image, male)
        alone = net.of_female(shrink(image[1:2]))
    assert before.age_months.shape == (3,)
    assert before.age_months[1] == pytest.approx(alone.item(), abs=1e-3)
    torch.nn.init.constant_(net.of_male.heads[-1][-1].bias, 1.0)
    with torch.inference_mode():
        after = net(image, male).age_months
    assert (after != before.age_months).tolist() == [True, False, True]


def test_males_see_the_hands_window_and_females_all_of_it():
    image = torch.arange(512.0).expand(1, 1, 512, 512)
    assert crop_centre(image).shape == shrink(image).shape == (1, 1, 448, 448)
    assert crop_centre(image)[0, 0, 0, 0] == 32
    assert shrink(image)[0, 0, 0, [0, -1]].tolist() == pytest.approx([0.1, 510.9], abs=0.5)
    inner = [(a + b) / 2 + (a - b) / 2 * 7 / 8 for a, b in ((WINDOW[0], WINDOW[2]), (WINDOW[1], WINDOW[3]))]
    assert inner == pytest.approx(HAND_WINDOW[:2], abs=0.001)


def test_the_node_gets_an_estimate_whatever_the_sexes():
    method = open_method("2m-net", {"width": 0.125})
    film = phantom(100, Sex.MALE)
    (image,) = method.prepare(film.pixels, film.pose, film.centres)
    assert image.shape == (512, 512)
    assert image.dtype == np.uint8
    assert (int(image.min()), int(image.max())) == (0, 255)
    with torch.device("meta"):
        net = method.make_net()
    assert isinstance(net, TwoMNet)


def test_a_side_that_has_no_four_tiles_is_refused_when_the_method_is_opened():
    with pytest.raises(BundleError, match="must be a multiple of 32 pixels; it is 500"):
        open_method("2m-net", {"width": 0.125, "side": 500})


def test_gradients_reach_every_part_and_a_few_steps_lower_the_loss():
    """Given phantoms whose discs grow with age, when both sexes train for a while, then the loss falls by a quarter."""
    torch.manual_seed(4)
    method = open_method("2m-net", {"width": 0.125, "side": 96})
    films = [phantom(age, sex) for age in (40, 100, 200) for sex in Sex]
    batches = age_batches([Pool.make(films, 1.0)], method, 12, 5)
    net = method.make_net()
    for module in net.modules():
        if isinstance(module, SpatialAttention):
            torch.nn.init.ones_(module.norm.weight)  # it starts at zero, which would stop the gradient
        if isinstance(module, ChannelAttention):
            torch.nn.init.constant_(module.weight, 0.1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for step in range(16):
        batch = next(batches)
        loss = jigsaw_loss(net(*batch.inputs, batch.male), batch)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            # A constant before a softmax or a batch normalisation changes nothing.
            assert all(name.endswith(("phi.bias", "theta.bias", "g.bias")) for name in unreached), unreached
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:2])


def test_imagenet_weights_fill_both_trunks():
    net = TwoMNet(1.0)
    source = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for key, value in net.of_male.trunk.state_dict().items():
        _, stage, rest = key.split(".", 2)
        old = f"layer{stage}.{rest}" if stage != "0" else {"0": "conv1", "1": "bn1"}[rest[0]] + rest[1:]
        source[old] = torch.full_like(value, 0.5)
    source["conv1.weight"] = torch.stack([torch.full((64, 7, 7), c) for c in (1.0, 2.0, 4.0)], dim=1)
    net.load_imagenet(source)
    for branch in (net.of_male, net.of_female):
        assert (branch.trunk.stages[0][0].weight == 7).all()
        assert (branch.trunk.stages[4][1].conv2.weight == 0.5).all()
