"""The figures of an epoch, worked out by hand."""

import pytest
import torch

from adaptive_depth.training.meter import Meter

RIGHT, WRONG = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])


def test_each_loss_of_a_schedule_is_a_mean_over_the_images_of_its_own_passes() -> None:
    """Of the first epoch, base-net passes lack the batches of the delay: 4 and 2 images learn, 4 of them twice."""
    meter, y = Meter(), torch.zeros(4, dtype=torch.long)
    meter.add_pass("S", torch.tensor(1.0), RIGHT.repeat(4, 1), y)
    meter.add_pass("S", torch.tensor(4.0), torch.cat([RIGHT, WRONG]), y[:2])
    meter.add_pass("B", torch.tensor(3.0), torch.cat([RIGHT, WRONG.repeat(3, 1)]), y)
    meter.add_pass("R", torch.tensor(100.0), WRONG.repeat(4, 1), y)
    epoch = meter.epoch(1, None)
    assert epoch.loss == pytest.approx((4 * 1 + 2 * 4) / 6)
    assert epoch.accuracy == pytest.approx(100 * 5 / 6)
    assert epoch.base_loss == pytest.approx(3)
    assert epoch.base_accuracy == pytest.approx(25)


def test_an_interrupted_epoch_goes_on_with_its_sums() -> None:
    y = torch.zeros(2, dtype=torch.long)
    before, after = Meter(), Meter()
    before.add_pass("S", torch.tensor(1.0), RIGHT.repeat(2, 1), y)
    before.add_pass("B", torch.tensor(2.0), RIGHT.repeat(2, 1), y)
    after.put(before.to_json(), torch.device("cpu"))
    after.add_pass("S", torch.tensor(3.0), WRONG.repeat(2, 1), y)
    epoch = after.epoch(1, None)
    assert (epoch.loss, epoch.base_loss) == (2.0, 2.0)
    assert (epoch.accuracy, epoch.base_accuracy) == (50.0, 100.0)
