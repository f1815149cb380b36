"""The fusion network against Table 1 of Hui et al. 2022. Does not cover its accuracy (boneage-node evaluate does)."""

import cv2
import numpy as np
import pytest
import torch

from inference.finding import Sex
from inference.global_local import GLOBAL_SIDE, LOCAL_CHANNELS, LOCAL_SIDE, GlobalLocalNet
from inference.method import Prediction, open_method
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from training.ages import AgeBatch, LocatedFilm, Pool, age_batches
from training.losses import absolute_loss
from training.radiographs import Reading
from training.recipe import read_recipe

TABLE_1 = [(56, 128, 256), (28, 256, 512), (14, 512, 1024), (7, 1024, 2048)]


def test_the_paper_has_121_million_parameters():
    with torch.device("meta"):
        net = GlobalLocalNet(1.0)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(121.5e6, rel=0.01)


def test_every_stage_has_the_papers_sizes():
    with torch.device("meta"):
        net = GlobalLocalNet(1.0).eval()
        whole = torch.empty(1, 1, GLOBAL_SIDE, GLOBAL_SIDE)
        local = torch.empty(1, LOCAL_CHANNELS, LOCAL_SIDE, LOCAL_SIDE)
    for stage, (side, channels, fused) in enumerate(TABLE_1):
        local = net.local_stages[stage](local)
        own = net.global_stages[stage](whole)
        assert own.shape == local.shape == (1, channels, side, side)
        whole = torch.cat([own, local], dim=1)
        assert whole.shape[1] == fused
    assert net.head[0](whole).shape == (1, 2048, 3, 3)
    assert net.head(whole).shape == (1, 2048)


GLOBAL_CONVOLUTIONS = [
    (7, 64, 2, "same"), (7, 128, 2, "same"), (7, 128, 1, "same"), (3, 256, 2, "same"), (3, 256, 1, "same"),
    (3, 512, 2, "same"), (3, 512, 1, "same"), (3, 1024, 2, "same"), (3, 1024, 1, "same"), (3, 2048, 2, "valid"),
    (3, 2048, 1, "valid"),
]  # fmt: skip
LOCAL_CONVOLUTIONS = [(5, 64, 1, "valid"), (5, 128, 1, "valid"), (3, 128, 1, "same"), *GLOBAL_CONVOLUTIONS[3:9]]


def convolutions(*parts: torch.nn.Module) -> list[tuple[int, int, int, str]]:
    """Side, channels, stride and padding of all convolutions, in their order."""
    found = [m for part in parts for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
    kinds = [{m.kernel_size[0] // 2: "same", 0: "valid"}[m.padding[0]] for m in found]
    return [(m.kernel_size[0], m.out_channels, m.stride[0], kind) for m, kind in zip(found, kinds, strict=True)]


def test_every_convolution_is_table_1s_and_normalised_and_rectified():
    with torch.device("meta"):
        net = GlobalLocalNet(1.0)
    assert convolutions(net.global_stages, net.head) == GLOBAL_CONVOLUTIONS
    assert convolutions(net.local_stages) == LOCAL_CONVOLUTIONS
    layers = [m for m in (*net.global_stages.modules(), *net.local_stages.modules()) if not list(m.children())]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * (len(kinds) // 3)
    assert (net.dense.out_features, net.age.out_features) == (512, 1)
    assert isinstance(net.head[2], torch.nn.AdaptiveMaxPool2d)


def test_there_are_eleven_convolutions_in_the_global_path_and_nine_in_the_local():
    net = GlobalLocalNet(0.0625)
    count = lambda modules: sum(isinstance(m, torch.nn.Conv2d) for m in modules.modules())  # noqa: E731
    assert count(net.global_stages) + count(net.head) == 11
    assert count(net.local_stages) == 9


def test_gradients_reach_every_part():
    net = GlobalLocalNet(0.0625)
    ages = net(torch.randn(2, 1, 224, 224), torch.randn(2, 18, 64, 64), torch.tensor([1.0, -1.0])).age_months
    ages.sum().backward()
    assert ages.shape == (2,)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    unreached = [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    assert not unreached


def phantom(age_months: float, sex: Sex) -> LocatedFilm:
    """Draw discs at the landmarks whose size grows with age."""
    pose = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
    image = np.full((400, 320), 20, dtype=np.uint8)
    points = pose.to_film(template_points())
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), round(2 + age_months / 30), 220, -1)
    return LocatedFilm(Reading(1, age_months, sex, "train"), image, pose, roi_centres(points, pose))


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(3)
    method = open_method("global-local", {"width": 0.0625})
    films = [phantom(age, sex) for age in (30, 200) for sex in Sex]
    batch = next(age_batches([Pool.make(films, 1.0)], method, 6, 1))
    net = method.make_net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = absolute_loss(net(*batch.inputs, batch.male), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.7 * losses[0]


def test_labels_are_softened_by_three_months_in_training_and_the_loss_is_the_absolute_error():
    """Given films of 100 months, then what training is told spreads over 97 to 103; an error of 10 months costs 10."""
    method = open_method("global-local", {"width": 0.0625, "paths": "global"})
    batches = age_batches([Pool.make([phantom(100, Sex.MALE)], 1.0)], method, 40, 2)
    ages = next(batches).age_months
    assert 97 <= ages.min() < 97.7
    assert 102.3 < ages.max() <= 103
    batch = AgeBatch((), torch.ones(2), torch.tensor([100.0, 100.0]))
    loss = absolute_loss(Prediction(torch.tensor([110.0, 94.0])), batch)
    assert loss.item() == pytest.approx((10 + 6) / 2 - 0.25), "a quarter month less: smooth within half a month"
    assert read_recipe("global-local").loss == "absolute"


def test_the_shipped_width_is_a_setting():
    def parameters(width: float) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in GlobalLocalNet(width).parameters())

    assert parameters(0.25) < parameters(0.5) < parameters(1.0)
