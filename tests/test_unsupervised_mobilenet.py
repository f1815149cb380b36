"""Unsupervised localisation and MobileNetV3 against Li et al. 2021. Does not cover accuracy (evaluate does)."""

import cv2
import numpy as np
import pytest
import torch

from inference import unsupervised_mobilenet
from inference.errors import BundleError
from inference.finding import Sex
from inference.method import Prediction, open_method
from inference.mobilenet_v3 import ROWS, MobileNetV3
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from inference.unsupervised_mobilenet import (
    CHANNELS,
    ClusterNet,
    HandBox,
    UnsupervisedMobileNet,
    cluster,
    continuity_loss,
    hand_region,
    locate_hand,
    similarity_loss,
)
from training.ages import AgeBatch, LocatedFilm, Pool, age_batches
from training.losses import LOSSES, standardised_loss
from training.radiographs import Reading


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps are slow where several threads fight for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def phantom(age_months: float = 120.0, sex: Sex = Sex.MALE) -> LocatedFilm:
    """Draw a hand: soft tissue, and discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    cv2.fillPoly(image, [cv2.convexHull(np.rint(points).astype(np.int32))], 110)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, roi_centres(points, pose))


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_network_has_the_papers_sizes():
    with torch.device("meta"):
        net = UnsupervisedMobileNet()
        maps, outputs = torch.empty(2, 1, 224, 224), []
        for block in net.trunk.features:
            maps = block(maps)
            outputs.append(tuple(maps.shape[1:]))
        joined = net.features(torch.empty(2, 1, 224, 224), torch.empty(2))
        age = net(torch.empty(2, 1, 224, 224), torch.empty(2)).age_months
    assert outputs == [
        (16, 112, 112), (16, 112, 112), (24, 56, 56), (24, 56, 56), (40, 28, 28), (40, 28, 28), (40, 28, 28),
        (80, 14, 14), (80, 14, 14), (80, 14, 14), (80, 14, 14), (112, 14, 14), (112, 14, 14),
        (160, 7, 7), (160, 7, 7), (160, 7, 7), (960, 7, 7),
    ]  # fmt: skip
    assert joined.shape == (2, 1280 + 24)
    assert age.shape == (2,)


def test_it_has_about_7_6_million_parameters():
    with torch.device("meta"):
        assert parameters(UnsupervisedMobileNet()) == 7_606_825 - 2 * 9 * 16, (
            "two colours less in the first convolution"
        )
        assert parameters(MobileNetV3()) == 2_971_952 - 2 * 9 * 16, "MobileNetV3-Large's features"
        assert parameters(UnsupervisedMobileNet(0.5)) < parameters(UnsupervisedMobileNet())


def test_the_columns_se_and_nl_are_the_tables():
    assert [row.squeezes for row in ROWS] == [False] * 3 + [True] * 3 + [False] * 4 + [True] * 5
    assert [row.swishes for row in ROWS] == [False] * 6 + [True] * 9


def test_imagenet_weights_under_torchvisions_names_are_taken_and_colours_added_up():
    net = UnsupervisedMobileNet()
    weights = {
        f"features.{k.removeprefix('features.')}": torch.zeros_like(v) for k, v in net.trunk.state_dict().items()
    }
    weights["features.0.0.weight"] = torch.ones(16, 3, 3, 3)
    weights |= {"classifier.0.weight": torch.full((1280, 960), 2.0), "classifier.0.bias": torch.zeros(1280)}
    weights["classifier.3.weight"] = torch.zeros(1000, 1280)
    net.load_imagenet(weights)
    assert net.trunk.features[0][0].weight.unique().tolist() == [3.0]
    assert net.head[0].weight.unique().tolist() == [2.0]


def test_similarity_is_the_cross_entropy_with_the_own_cluster():
    """Given two pixels and two clusters, when one pixel is sure and the other torn, then the loss is their mean."""
    responses = torch.tensor([[[[np.log(3.0), 0.0]], [[0.0, 0.0]]]])
    labels = responses.argmax(1)
    assert similarity_loss(responses, labels).item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)


def test_continuity_is_the_mean_difference_of_neighbours():
    responses = torch.tensor([[[[0.0, 1.0], [4.0, 4.0]]]])
    assert continuity_loss(responses).item() == pytest.approx((4 + 3) / 2 + (1 + 0) / 2)
    assert continuity_loss(torch.full((1, CHANNELS, 5, 5), 7.0)).item() == 0


def test_the_cluster_net_has_two_convolutions_and_ninety_channels():
    net = ClusterNet()
    assert [m.kernel_size for m in net.modules() if isinstance(m, torch.nn.Conv2d)] == [(3, 3), (3, 3), (1, 1)]
    assert net(torch.rand(1, 1, 12, 10)).shape == (1, 90, 12, 10)


def test_algorithm_1_takes_the_papers_numbers(monkeypatch):
    """Given a film, then 50 steps of SGD (0.1, momentum 0.9) lower 4 x similarity + 1 x continuity, p = q = 90."""
    steps, groups, losses = [], [], []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            steps.append(1)
            groups.append((self.param_groups[0]["lr"], self.param_groups[0]["momentum"]))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    monkeypatch.setattr(
        unsupervised_mobilenet, "similarity_loss", lambda *given: losses.append(similarity_loss(*given)) or losses[-1]
    )
    labels = cluster(cv2.resize(phantom().pixels, (8, 10), interpolation=cv2.INTER_AREA))
    assert len(steps) == 50
    assert set(groups) == {(0.1, 0.9)}
    assert (unsupervised_mobilenet.SIMILARITY_WEIGHT, unsupervised_mobilenet.CONTINUITY_WEIGHT) == (4, 1)
    assert losses[-1] < losses[0]
    assert labels.max() < CHANNELS == 90


def test_clustering_separates_a_bright_hand_from_its_background():
    """Given a phantom, when its pixels are clustered, then the region found is the hand and only the hand."""
    film = cv2.resize(phantom().pixels, (26, 32), interpolation=cv2.INTER_AREA)
    labels = cluster(film, iterations=15)
    assert labels.shape == film.shape
    assert 2 <= len(np.unique(labels)) < CHANNELS
    region, truth = hand_region(labels, film), film > 60
    assert (region & truth).sum() / (region | truth).sum() > 0.85


def test_clustering_is_the_same_each_time_also_where_gradients_are_off():
    film = cv2.resize(phantom().pixels, (12, 15), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        once = cluster(film, iterations=3)
    torch.manual_seed(99)
    assert (once == cluster(film, iterations=3)).all()


def test_a_frame_around_the_film_is_background_too():
    """Given a dark frame and a film within it, when regions are picked, then the hand's is found, not the film's."""
    image = np.zeros((60, 50), dtype=np.uint8)
    image[6:54, 6:44] = 60
    image[20:45, 15:35] = 200
    labels = np.searchsorted([0, 60, 200], image)
    assert (hand_region(labels, image) == (image == 200)).all()


def test_without_a_region_the_whole_film_is_the_hand():
    image = np.full((30, 20), 90, dtype=np.uint8)
    assert hand_region(np.zeros((30, 20), dtype=np.int64), image).all()


def test_the_box_is_in_film_pixels(monkeypatch):
    film = np.full((384, 192), 30, dtype=np.uint8)
    film[96:288, 48:144] = 200
    monkeypatch.setattr(unsupervised_mobilenet, "cluster", lambda small: (small > 100).astype(np.int64))
    assert locate_hand(film) == HandBox(48, 96, 144, 288)


def test_both_localisers_give_one_equalised_square(monkeypatch):
    film, located = phantom(), []

    def find(pixels):
        located.append(pixels.shape)
        return HandBox(10, 20, 300, 380)

    monkeypatch.setattr(unsupervised_mobilenet, "locate_hand", find)
    for localiser in ("shared", "paper", "paper"):
        method = open_method("unsupervised-mobilenet", {"side": 64, "localiser": localiser})
        for _ in range(2):
            (crop,) = method.prepare(film.pixels, film.pose, film.centres)
        assert crop.shape == (64, 64)
        assert crop.dtype == np.uint8
        assert crop.max() == 255
    assert len(located) == 2, "each method object locates a film once"


def test_an_unknown_localiser_is_refused():
    with pytest.raises(BundleError, match="shared, paper"):
        open_method("unsupervised-mobilenet", {"localiser": "guess"})


def test_the_loss_is_the_squared_error_of_the_standardised_age():
    batch = AgeBatch((), torch.ones(2), torch.tensor([100.0, 150.0]))
    answer = Prediction(torch.tensor([100.0 + 41.2, 150.0 - 3 * 41.2]))
    assert standardised_loss(answer, batch).item() == pytest.approx((1 + 9) / 2, rel=1e-4)
    assert LOSSES["standardised"] is standardised_loss


def test_gradients_reach_every_part_and_a_few_steps_lower_the_loss():
    torch.manual_seed(3)
    method = open_method("unsupervised-mobilenet", {"side": 64, "width": 0.25})
    films = [phantom(age, sex) for age in (30, 200) for sex in Sex]
    batch = next(age_batches([Pool.make(films, 1.0)], method, 8, 1))
    net = method.make_net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        loss = standardised_loss(net(*batch.inputs, batch.male), batch)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        assert not [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
