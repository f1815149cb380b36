"""Weights in few bits: what a file holds, and what is read from it."""

from __future__ import annotations

import pytest
import torch

from inference.quantised import EIGHT, SIX, pack, unpack


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 3, 3), (2, 1), (1, 7, 2)])  # not all fill their last three bytes
def test_whole_numbers_of_six_bits_come_back_as_they_were(shape):
    """Given weights that are whole numbers with the largest in each channel, then none of them changes."""
    whole = torch.randint(-31, 32, shape, generator=torch.Generator().manual_seed(7)).float()
    whole.view(shape[0], -1)[:, 0] = -31
    stored = pack("w", whole, SIX)
    assert stored["w"].dtype == torch.uint8
    assert len(stored["w"]) == 3 * -(-whole.numel() // 4)
    torch.testing.assert_close(unpack(stored)["w"], whole, rtol=1e-6, atol=1e-6)


def test_bytes_of_six_bits_lie_as_documented():
    """Given 1, 2, 3 and -31 in one channel, then 33, 34, 35 and 1 lie from the lowest bits up."""
    stored = pack("w", torch.tensor([[1.0, 2.0, 3.0, -31.0]]), SIX)
    raised = 33 | 34 << 6 | 35 << 12 | 1 << 18
    assert stored["w"].tolist() == list(raised.to_bytes(3, "little"))
    assert stored["w.six_bit_shape"].tolist() == [1, 4]
    assert stored["w.six_bit_scale"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("bits", [EIGHT, SIX])
def test_weights_are_within_their_rounding_and_small_channels_keep_theirs(bits):
    """Given channels of very different size, then each is rounded by its own step."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 2, 6)[:, None]
    off = (unpack(pack("w", weight, bits))["w"] - weight).square().mean(1).sqrt()
    step = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
    assert (off < 0.4 * step).all()  # a step's uniform error has 0.29


def test_one_large_number_does_not_cost_its_channel_all_others():
    """Given an outlier among small numbers, then in 6 bits it is cut, and the mean error is less than uncut."""
    weight = torch.randn(1, 4096, generator=torch.Generator().manual_seed(1))
    weight[0, 0] = 9.0
    off = (unpack(pack("w", weight, SIX))["w"] - weight).square().mean().sqrt()
    assert off < 0.9 * 0.289 * 9 / 31


def test_zeros_stay_zeros_and_other_tensors_as_they_are():
    """Given a channel of zeros, counts and half precision, then they are read as such."""
    stored = pack("w", torch.zeros(2, 4), SIX) | {"n": torch.tensor(5), "b": torch.ones(3).half()}
    read = unpack(stored)
    assert read.keys() == {"w", "n", "b"}
    assert not read["w"].any()
    assert read["n"].dtype == torch.int64
    assert read["b"].dtype == torch.float32
