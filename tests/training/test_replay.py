"""training/replay.py: batches that wait for a later pass, exactly or in bounded memory."""

import json

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.training.replay import Replay

CPU = torch.device("cpu")


def test_the_newest_are_kept_and_copied():
    replay, x = Replay(2, 100), torch.zeros(3)
    for number in range(4):
        x.fill_(number)  # a loader may fill the same memory again
        replay.put(number, {"x": x, "name": "a", "ids": (torch.tensor([number]), None, 2)})
    assert list(replay.batches) == [2, 3]
    assert replay.get(2, CPU)["x"].tolist() == [2, 2, 2]
    assert replay.get(3, CPU)["ids"] == (torch.tensor([3]), None, 2)


def test_images_are_exact_while_there_is_room_and_within_half_a_step_of_8_bits_beyond():
    x = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    exact = Replay(2, 2 * 4 * x.numel() / 1e6)
    exact.put(0, x)
    assert torch.equal(exact.get(0, CPU), x)
    small = Replay(2, 2 * x.numel() / 1e6)
    small.put(0, x)
    back = small.get(0, CPU)
    assert back.dtype == x.dtype
    assert back.is_contiguous(memory_format=torch.channels_last)
    span = x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)
    assert ((back - x).abs() <= span / 510 * 1.001).all()
    assert not torch.equal(back, x)
    assert small.megabytes == pytest.approx((x.numel() + 4 * 2 * 4 * 3) / 1e6)


def test_images_of_8_bits_come_back_as_they_were_to_rounding():
    """Where a channel of a sample has both 0 and 255, its codes are the pixels."""
    pixels = torch.randint(256, (2, 3, 8, 8)).float()
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, 255
    x = (pixels - 125) / 63
    replay = Replay(1, x.numel() / 1e6)
    replay.put(0, x)
    torch.testing.assert_close(replay.get(0, CPU), x, rtol=1e-5, atol=1e-5)


def test_constant_channels_and_other_kinds():
    x = torch.full((2, 3, 4, 4), 7.0)
    replay = Replay(1, x.numel() / 1e6 + 1e-4)
    replay.put(0, {"x": x, "mask": torch.ones(2, 4, dtype=torch.bool), "ids": torch.arange(4)})
    back = replay.get(0, CPU)
    assert torch.equal(back["x"], x)
    assert back["mask"].dtype == torch.bool
    assert torch.equal(back["ids"], torch.arange(4))


@pytest.mark.parametrize("limit", [100, 3 * 4 * 3 * 5 * 5 / 1e6 + 1e-3])
def test_a_checkpoint_gives_it_back_bit_for_bit(limit):
    replay = Replay(3, limit)
    for number in range(4):
        x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
        replay.put(number, {"parts": [({"image": x, "n": number}, torch.arange(4))], "teacher": [torch.randn(4, 2)]})
    tensors, plain = replay.state()
    again = Replay(3, limit)
    again.put_state(tensors, json.loads(json.dumps(plain)))
    assert list(again.batches) == [1, 2, 3]
    for number in (1, 2, 3):
        (a, y), (b, z) = (each.get(number, CPU)["parts"][0] for each in (replay, again))
        assert torch.equal(a["image"], b["image"])
        assert a["image"].stride() == b["image"].stride()  # kernels may sum in another order otherwise
        assert (a["n"], y.tolist()) == (b["n"], z.tolist())
        assert torch.equal(replay.get(number, CPU)["teacher"][0], again.get(number, CPU)["teacher"][0])


def test_what_cannot_be_kept_says_how_to_go_on():
    replay = Replay(33, 1)
    with pytest.raises(ad.TrainingError, match=r"a batch holds a object, .* let every pass take a new batch \(fresh="):
        replay.put(0, (torch.zeros(1), object()))
    said = (
        r"33 batches take 5 MB, even in 8 bits per value, but buffer_mb is 1: expected a larger limit, a shorter delay"
    )
    with pytest.raises(ad.TrainingError, match=said):
        replay.put(0, torch.zeros(1, 3, 224, 224))
    assert not replay.batches
