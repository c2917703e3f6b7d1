"""`deploy/boxes.py`: objects of candidates by NumPy, beside torchvision's suppression and by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from adaptive_depth.deploy.boxes import find_objects, overlaps
from adaptive_depth.errors import ArtifactError
from adaptive_depth.meaning import Detections


def candidates(number: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes `[number, 4]` that overlap a lot, in an image of 100 pixels, and scores `[number, classes]`."""
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    sides = 5 + 40 * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + sides], 1), torch.rand(number, classes, generator=generator)


def by_torchvision(boxes: Tensor, scores: Tensor, threshold: float, overlap: float, most: int) -> list[Tensor]:
    """Boxes, scores and classes, where all that score enough are looked at."""
    classes = torch.arange(scores.shape[1]).repeat(len(scores))
    each, flat = boxes.repeat_interleave(scores.shape[1], 0), scores.flatten()
    enough = flat > threshold
    kept = batched_nms(each[enough], flat[enough].double(), classes[enough], overlap)[:most]
    return [part[enough][kept] for part in (each, flat, classes)]


@pytest.mark.parametrize(("threshold", "overlap", "most"), [(0.3, 0.5, 1000), (0.05, 0.3, 1000), (0.6, 0.7, 20)])
def test_suppressed_as_torchvision_does(threshold: float, overlap: float, most: int) -> None:
    images = [candidates(200, 3, seed) for seed in (0, 1)]
    outputs = {
        name: torch.stack(parts).numpy()
        for name, parts in zip(("boxes", "scores"), zip(*images, strict=True), strict=True)
    }
    how = Detections(threshold=threshold, overlap=overlap, most=most)
    for found, (boxes, scores) in zip(find_objects(outputs, how, (100, 100)), images, strict=True):
        wanted = by_torchvision(boxes, scores, threshold, overlap, most)
        assert 15 < len(found.scores) < len(boxes) * 3
        for part, other in zip(found[:3], wanted, strict=True):
            np.testing.assert_allclose(part, other.numpy(), rtol=1e-6)


def test_the_best_of_each_level_are_looked_at() -> None:
    """Two levels, of 3 and of 2 candidates, and two of each: far apart, so that nothing is suppressed."""
    boxes = np.array([[[20.0 * i, 0, 20 * i + 10, 10] for i in range(5)]])
    scores = np.array([[[0.9, 0.8], [0.2, 0.1], [0.7, 0.1], [0.3, 0.1], [0.4, 0.5]]])
    how = Detections(candidates=2, levels=(3, 2))
    [found] = find_objects({"boxes": boxes, "scores": scores}, how, (10, 100))
    assert found.scores.tolist() == [0.9, 0.8, 0.5, 0.4]  # 0.7 is the third of its level
    assert found.classes.tolist() == [0, 1, 1, 0]
    assert found.boxes[:, 0].tolist() == [0, 0, 80, 80]


def test_the_best_of_each_class_where_there_are_no_levels() -> None:
    boxes = np.array([[[20.0 * i, 0, 20 * i + 10, 10] for i in range(3)]])
    scores = np.array([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]])
    [found] = find_objects({"boxes": boxes, "scores": scores}, Detections(candidates=2), (10, 100))
    assert (found.scores.tolist(), found.classes.tolist()) == ([0.9, 0.8, 0.3, 0.2], [0, 0, 1, 1])


def test_queries_whose_last_class_is_nothing() -> None:
    """Of DETR: centre, width and height as parts of the input; one class for each query, nothing suppressed."""
    logits = np.log([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.55, 0.05, 0.4]]])
    boxes = np.array([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1], [0.25, 0.75, 0.5, 0.5], [0.5, 0.5, 0.2, 0.4]]])
    how = Detections(
        "b", "s", box_format="centres", activation="softmax", one_class=True, threshold=0.5, overlap=None, most=10
    )
    [found] = find_objects({"b": boxes, "s": logits}, how, (100, 200))
    np.testing.assert_allclose(found.scores, [0.8, 0.6, 0.55])
    assert found.classes.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.boxes, [[0, 50, 100, 100], [80, 30, 120, 70], [80, 30, 120, 70]], atol=1e-9)
    assert found.of == 2


def test_queries_of_several_classes() -> None:
    scores = np.log([[[3.0, 1.5], [1 / 3, 9.0]]])  # sigmoids 0.75, 0.6, 0.25, 0.9
    boxes = np.tile([0.5, 0.5, 1.0, 1.0], (1, 2, 1))
    how = Detections(box_format="centres", activation="sigmoid", threshold=0.5, overlap=None, most=2)
    [found] = find_objects({"boxes": boxes, "scores": scores}, how, (10, 10))
    np.testing.assert_allclose(found.scores, [0.9, 0.75])
    assert found.classes.tolist() == [1, 0]


def test_a_box_for_each_class() -> None:
    boxes = np.array([[[[0.0, 0, 10, 10], [50, 0, 60, 10]], [[1, 0, 11, 10], [90, 0, 99, 10]]]])
    scores = np.array([[[0.9, 0.8], [0.7, 0.0]]])
    [found] = find_objects({"boxes": boxes, "scores": scores}, Detections(), (10, 100))
    assert (found.boxes.tolist(), found.classes.tolist()) == ([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 1])


def test_what_a_file_suppressed_by_itself() -> None:
    outputs = {
        "boxes": np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.5, 0.0]], np.float32),
        "labels": np.array([[3, 1, -1]]),
    }
    [found] = find_objects(outputs, Detections(labels="labels", first=1), (10, 10))
    assert (len(found.boxes), found.classes.tolist(), found.of) == (2, [2, 0], None)


@pytest.mark.parametrize("scores", [np.zeros((1, 3, 2)), np.full((1, 3, 2), np.nan)], ids=["none", "nan"])
def test_nothing_is_found(scores: np.ndarray) -> None:
    [found] = find_objects({"boxes": np.ones((1, 3, 4)), "scores": scores}, Detections(candidates=1), (10, 10))
    assert [part.shape for part in found[:3]] == [(0, 4), (0,), (0,)]


def test_overlaps_are_those_of_torchvision_and_of_no_area_0() -> None:
    boxes, _ = candidates(50, 1)
    np.testing.assert_allclose(overlaps(boxes[0].numpy(), boxes.numpy()), box_iou(boxes[:1], boxes)[0].numpy())
    point = np.array([5.0, 5, 5, 5])
    assert overlaps(point, np.array([point, [0, 0, 10, 10]])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("outputs", "how", "message"),
    [
        ({"boxes": np.zeros((1, 2, 4))}, Detections(), "the outputs are boxes: expected 'scores', too"),
        (
            {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 2, 5))},
            Detections(),
            r"boxes \[1, 3, 4\] and scores \[1, 2, 5\]: expected boxes \[batch, candidates, 4\]",
        ),
        (
            {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3, 1)), "labels": np.zeros((1, 3))},
            Detections(labels="labels"),
            r"scores \[1, 3, 1\] and labels \[1, 3\]: expected \[batch, objects, 4\]",
        ),
    ],
)
def test_outputs_that_are_not_as_the_file_says(outputs: dict[str, np.ndarray], how: Detections, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        find_objects(outputs, how, (10, 10))
