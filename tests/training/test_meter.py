"""The figures of an epoch, worked out by hand."""

import pytest
import torch

from adaptive_depth.tasks import Detection, MultiLabel, Regression, Segmentation
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


def test_of_dense_outputs_the_places_are_counted() -> None:
    """One image of 2 pixels, one of them right; then one of 1 x 3 of which one is ignored and two are right."""
    meter = Meter()
    logits = torch.stack([RIGHT, WRONG], -1)  # [1, 2, 2]
    meter.add_pass("S", torch.tensor(1.0), logits, torch.zeros(1, 2, dtype=torch.long))
    volume = torch.stack([RIGHT, RIGHT, WRONG], -1)[:, :, None]  # [1, 2, 1, 3]
    meter.add_pass("S", torch.tensor(1.0), volume, torch.tensor([[[0, 0, -100]]]))
    assert meter.epoch(1, None).accuracy == pytest.approx(100 * 3 / 4)
    soft = torch.tensor([[[0.6, 0.1], [0.4, 0.9]]])  # distributions over 2 classes: the classes 0 and 1
    meter.add_pass("S", torch.tensor(1.0), logits, soft)
    assert meter.epoch(1, None).accuracy == pytest.approx(100 * 5 / 6)


def test_of_segmentation_the_pixels_of_the_labels_are_counted() -> None:
    """Logits of 1 pixel for labels of 2 x 2, of which one is ignored and two are right."""
    meter = Meter(Segmentation())
    meter.add_pass("B", torch.tensor(1.0), RIGHT[:, :, None, None], torch.tensor([[[0, 0], [1, 255]]]))
    meter.add_pass("S", torch.tensor(1.0), RIGHT[:, :, None, None], torch.tensor([[[0]]]))
    assert meter.epoch(1, None).base_accuracy == pytest.approx(100 * 2 / 3)


def test_other_tasks_have_no_accuracy() -> None:
    for task in (MultiLabel(), Regression()):
        meter = Meter(task)
        meter.add_pass("S", torch.tensor(1.0), RIGHT, RIGHT)
        assert meter.epoch(1, None).accuracy is None


def test_sums_of_an_earlier_version_go_on() -> None:
    """They counted a class an image: 4 of 8, and then 2 more of 2."""
    meter = Meter()
    meter.put({"images": 8, "sums": {"loss": [8.0, "float32"], "accuracy": [400, "int64"]}}, torch.device("cpu"))
    meter.add_pass("S", torch.tensor(1.0), RIGHT.repeat(2, 1), torch.zeros(2, dtype=torch.long))
    assert meter.epoch(1, None).accuracy == pytest.approx(60)


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


def test_parts_of_a_detectors_loss_are_means_over_its_images() -> None:
    """Of the super-net's passes alone, 1 and 3 images; a part that a batch lacks is 0 there."""
    meter = Meter(Detection())
    meter.add_pass("S", torch.tensor(3.0), {"box": torch.tensor(1.0), "mask": torch.tensor(2.0)}, [{}])
    meter.add_pass("S", torch.tensor(5.0), {"box": torch.tensor(5.0)}, [{}] * 3)
    meter.add_pass("B", torch.tensor(9.0), {"box": torch.tensor(9.0)}, [{}])
    before = meter.to_json()
    epoch = meter.epoch(1, None)
    assert epoch.parts == {"box": pytest.approx(4.0), "mask": pytest.approx(0.5)}
    assert epoch.loss == pytest.approx(4.5)
    assert epoch.accuracy is None
    resumed = Meter(Detection())
    resumed.put(before, torch.device("cpu"))
    resumed.add_pass("S", torch.tensor(0.0), {"box": torch.tensor(0.0)}, [{}] * 4)
    assert resumed.epoch(1, None).parts == {"box": pytest.approx(2.0), "mask": pytest.approx(0.25)}
