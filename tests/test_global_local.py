"""The fusion network against Table 1 of Hui et al. 2022. Does not cover its accuracy (boneage-node evaluate does)."""

import pytest
import torch

from inference.global_local import GLOBAL_SIDE, LOCAL_CHANNELS, LOCAL_SIDE, GlobalLocalNet

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


def test_the_shipped_width_is_a_setting():
    def parameters(width: float) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in GlobalLocalNet(width).parameters())

    assert parameters(0.25) < parameters(0.5) < parameters(1.0)
