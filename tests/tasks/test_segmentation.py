"""Classes of pixels: values worked out by hand or by scikit-learn, models of every kind, and what does not fit."""

import importlib.util
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn
from torchvision import tv_tensors

import adaptive_depth as ad
from adaptive_depth.tasks import Classification, Segmentation, as_task
from adaptive_depth.tasks.segmentation import MaskQueries

TESTS = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("detectors", TESTS / "detectors.py")
assert _spec is not None
assert _spec.loader is not None
detectors = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(detectors)

UNSURE, SURE = [0.0, 0.0], [log(3.0), 0.0]  # probabilities (1/2, 1/2) and (3/4, 1/4)


def test_miou_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator)
    target = torch.randint(4, (2, 6, 5), generator=generator)
    target[0, :2] = 255
    task = Segmentation(ignore_index=255)
    metric = task.metric(logits)
    for part in range(2):
        task.measure(metric, logits[part : part + 1], target[part : part + 1])
    counted = (target != 255).numpy()
    expected = jaccard_score(target.numpy()[counted], logits.argmax(1).numpy()[counted], average="macro")
    assert task.value(metric) == pytest.approx(100 * expected, rel=1e-5)
    assert task.quality.name == "mIoU"


def test_torchvisions_dict_and_a_coarser_grid() -> None:
    """Logits of 1 x 1 places for labels of 2 x 2: each pixel gets them."""
    task = Segmentation()
    logits = torch.tensor(SURE).view(1, 2, 1, 1)
    target = torch.tensor([[[1, 1], [255, 1]]])
    assert task.loss(task.output({"out": logits, "aux": None}), target).item() == pytest.approx(log(4), rel=1e-6)
    other = torch.tensor(UNSURE).view(1, 2, 1, 1)
    assert task.distil(other, logits, target).item() == pytest.approx(0.130812, abs=1e-6)


def test_labels_of_a_coarser_grid_than_the_logits_are_refused() -> None:
    with pytest.raises(
        ad.TrainingError, match=r"labels of \[2, 4\] pixels for logits of \[4, 4\]: expected as many, or"
    ):
        Segmentation().loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4).long())


def test_the_second_head_of_torchvision_learns_with_a_weight() -> None:
    """log 4 of the first, log 2 of the other, on a coarser grid: with half the weight."""
    out, aux = torch.tensor(SURE).view(1, 2, 1, 1).expand(1, 2, 2, 2), torch.tensor(UNSURE).view(1, 2, 1, 1)
    target = torch.ones(1, 2, 2, dtype=torch.long)
    task = Segmentation()
    output = task.output({"out": out, "aux": aux})
    assert task.loss(output, target).item() == pytest.approx(log(4) + 0.5 * log(2), rel=1e-6)
    assert Segmentation(aux_weight=0).loss(output, target).item() == pytest.approx(log(4), rel=1e-6)
    assert task.distil(output, output, target).item() == 0
    metric = task.metric(output)
    task.measure(metric, output, target)
    assert task.value(metric) == 0.0  # all pixels are of class 0 to it
    assert task.hits(output, target) == (0, 4)
    assert task.classes_of(output) == 2


@pytest.mark.parametrize(
    ("output", "target", "said"),
    [
        (torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1), 255), "all labels of this batch are ignor"),
        (torch.zeros(1, 2), torch.zeros(1, 1, 1).long(), r"segmentation expects logits \[batch, cl"),
        (torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, device="meta"), "the target on meta: move both"),
    ],
)
def test_what_does_not_fit(output: Any, target: Any, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        Segmentation().loss(output, target)


def test_arguments() -> None:
    with pytest.raises(ad.TrainingError, match="the criterion ignores 3 and the task 255: use the same"):
        Segmentation(nn.CrossEntropyLoss(ignore_index=3))
    assert np.isclose(Segmentation(nn.CrossEntropyLoss(ignore_index=3), ignore_index=3).ignore_index, 3)
    with pytest.raises(ad.TrainingError, match="aux_weight=-1: expected a number of 0 or more"):
        Segmentation(aux_weight=-1)


# -- batches ----------------------------------------------------------------------------------------------------


def test_masks_as_images_and_lists_of_one_size() -> None:
    labels = torch.randint(4, (2, 8, 6))
    images = torch.rand(2, 3, 8, 6)
    task = Segmentation()
    for batch in (
        (images, labels),
        (images, labels[:, None]),
        (tuple(images), tuple(labels)),
        (images, [tv_tensors.Mask(each) for each in labels]),
        {"pixel_values": images, "labels": labels},
    ):
        x, y = task.inputs(batch)
        assert torch.equal(x["pixel_values"] if isinstance(x, dict) else x, images)
        assert torch.equal(y, labels)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (([torch.rand(3, 8, 6), torch.rand(3, 8, 8)], [torch.zeros(8, 6), torch.zeros(8, 8)]), r"images of mixed size"),
        ((torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 128)), r"labels of \[64, 128\] pixels .* by one factor"),
        (([torch.rand(3, 8, 6)] * 2, [torch.zeros(8, 6), torch.zeros(8, 8)]), r"labels of mixed sizes, \[8, 6\], \[8,"),
        ((torch.rand(2, 3, 8, 6), torch.zeros(2, 6, 8).long()), r"labels of \[6, 8\] pixels for images of \[8, 6\]: e"),
        (torch.rand(2, 3, 8, 6), "inputs without labels"),
    ],
)  # fmt: skip
def test_batches_that_are_refused(batch: Any, said: str) -> None:
    with pytest.raises(ad.DataError, match=said):
        Segmentation().inputs(batch)


# -- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DeepLabV3", Segmentation),
        ("FCN", Segmentation),
        ("LR-ASPP", Segmentation),
        ("SegFormer", Segmentation),
        ("UperNet", Segmentation),
        ("Mask2Former", MaskQueries),
        ("UNet", Segmentation),
        ("own", Classification),
    ],
)
def test_what_a_model_says_of_its_task(name: str, expected: type) -> None:
    assert type(as_task(None, detectors.build(name))) is expected


@pytest.mark.parametrize("name", ["FCN", "SegFormer", "UperNet", "UNet", "Mask2Former"])
def test_segmentation_networks_train_and_are_evaluated(name: str) -> None:
    """In eval mode all outputs are compared by hand, pixel by pixel."""
    network = ad.adapt(detectors.build(name), example=detectors.inputs(name))
    images = detectors.inputs(name)
    images = images["pixel_values"] if isinstance(images, dict) else images
    labels = torch.randint(4, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    labels[:, :8] = 255
    batch: Any = (images, labels)
    if name in detectors.OF_TRANSFORMERS:
        batch = {"pixel_values": images, "labels": labels}
    history = ad.train(network, [batch] * 2, epochs=1, lr=1e-4, passes="SB", delay=1)
    assert history.epochs[-1].base_loss is not None
    ends = network.skips[0], network.skips[-1]
    found = ad.evaluate(network, [batch], ends)
    assert found.quality.name == "mIoU"
    for skip in ends:
        with torch.no_grad():
            output = network(pixel_values=images, skip=skip) if isinstance(batch, dict) else network(images, skip=skip)
        classes = semantic(name, output).argmax(1)
        counted = (labels != 255).numpy()
        expected = jaccard_score(labels.numpy()[counted], classes.numpy()[counted], average="macro", zero_division=0)
        assert found[skip] == pytest.approx(100 * expected, abs=0.05)
    objective = ad.SelfDistillation(network.train(), as_task(None, network.model))
    losses = objective(*objective.task.inputs(batch))
    losses.total.backward()
    assert losses.base_net.item() > 0
    network.eval()
    assert ad.analyze(network, [batch]).losses[network.skips[0]] > 0


def semantic(name: str, output: Any) -> torch.Tensor:
    """Scores of the classes at each pixel of the labels."""
    if name == "Mask2Former":
        masks = nn.functional.interpolate(output.masks_queries_logits, (64, 64), mode="bilinear", align_corners=False)
        kinds = output.class_queries_logits.softmax(-1)[..., :-1]
        return (kinds[..., None, None] * masks.sigmoid()[:, :, None]).sum(1)
    logits = output["out"] if name == "FCN" else output.logits if hasattr(output, "logits") else output
    return nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)


# -- by queries -------------------------------------------------------------------------------------------------


def queries() -> MaskQueries:
    task = Segmentation(ignore_index=9).of(detectors.mask2former())
    assert isinstance(task, MaskQueries)
    assert task.ignore_index == 9
    return task


def test_masks_and_maps_are_two_forms_of_one_target() -> None:
    labels = torch.tensor([[[0, 0, 2], [9, 9, 2]], [[1, 1, 1], [1, 1, 9]]])
    task = queries()
    images = torch.rand(2, 3, 2, 3)
    x, y = task.inputs({"pixel_values": images, "labels": labels})
    assert torch.equal(y, labels)
    assert [each.tolist() for each in x["class_labels"]] == [[0, 2], [1]]
    assert x["mask_labels"][0].tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 1]]]
    again, maps = task.inputs(x)
    assert torch.equal(maps, labels)
    assert again.keys() == x.keys()
    assert task.unlabelled(x).keys() == {"pixel_values"}
    assert torch.equal(task.inputs((images, labels))[0]["pixel_values"], images)


def test_the_semantic_map_of_two_queries_on_paper() -> None:
    """Query one: class 0 for certain, left; query two: class 1 with 3/4 and nothing with 1/4, everywhere."""
    kinds = torch.tensor([[[40.0, 0.0, 0.0], [0.0, log(3.0), -40.0]]])
    kinds[0, 1] = torch.tensor([-40.0, log(3.0), 0.0])
    masks = torch.tensor([[[[40.0, -40.0]], [[40.0, 40.0]]]])
    output = {"class_queries_logits": kinds, "masks_queries_logits": masks, "loss": torch.tensor(2.0)}
    task = queries()
    target = torch.tensor([[[0, 1]]])
    probabilities, compared = task.compared(task.output(output), target)
    torch.testing.assert_close(probabilities[0, :, 0].T, torch.tensor([[4 / 7, 3 / 7], [0.0, 1.0]]))
    assert torch.equal(compared, target)
    assert task.loss(task.output(output), target).item() == 2
    metric = task.metric(task.output(output))
    task.measure(metric, task.output(output), target)
    assert task.value(metric) == 100
    task.check(task.output(output), target)
    assert task.distil(output, output).item() == 0
    other = output | {"class_queries_logits": kinds.flip(1)}
    assert task.distil(other, output).item() > 0
    with pytest.raises(ad.TrainingError, match="labels from 0 to 2, but the network has 2 classes"):
        task.check(task.output(output), torch.tensor([[[0, 2]]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_labels": [torch.tensor([0])]}, "expected 'mask_labels' and 'class_labels', lists with tensors"),
        ({"class_labels": [torch.tensor([0, 1]), torch.tensor([1])]}, "image 0 of the batch has 1 masks and 2 class l"),
        ({"mask_labels": [torch.ones(1, 2, 3), torch.ones(1, 2, 4)]}, "masks of mixed sizes"),
    ],
)
def test_masks_that_are_refused(change: dict[str, Any], said: str) -> None:
    batch = {"pixel_values": torch.rand(2, 3, 2, 3), "mask_labels": [torch.ones(1, 2, 3)] * 2}
    with pytest.raises(ad.DataError, match=said):
        queries().inputs(batch | {"class_labels": [torch.tensor([0]), torch.tensor([1])]} | change)


def test_a_criterion_or_a_metric_of_ones_own_for_queries() -> None:
    model = detectors.mask2former()
    with pytest.raises(ad.TrainingError, match="received a criterion, but a Mask2FormerForUniversalSegmentation compu"):
        Segmentation(nn.CrossEntropyLoss(ignore_index=255)).of(model)
    own = (
        Segmentation().with_metric(lambda p, t: (p.argmax(1) == t).float().mean(), ad.tasks.Quality("right")).of(model)
    )
    assert own.quality.name == "right"
    with pytest.raises(ad.TrainingError, match="returned a Tensor: expected class_queries_logits and masks_queries_lo"):
        own.output(torch.zeros(1))
    with pytest.raises(ad.TrainingError, match="returned no loss: expected a batch with labels"):
        own.loss({"class_queries_logits": torch.zeros(1, 1, 2), "masks_queries_logits": torch.zeros(1, 1, 2, 2)}, None)
