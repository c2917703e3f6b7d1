"""Boxes: losses and mAP by hand or by pycocotools, both kinds of detectors, and what nothing is learned from."""

import contextlib
import importlib.util
import io
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision import tv_tensors
from torchvision.models.detection import FCOS

import adaptive_depth as ad
from adaptive_depth.tasks import Classification, Detection, Watched, as_task
from adaptive_depth.tasks.detectors import Detector, detector_of, losses_in_eval
from adaptive_depth.tasks.features import feature_distance

TESTS = Path(__file__).parents[1]
squares = runpy.run_path(str(TESTS / "squares.py"))
_spec = importlib.util.spec_from_file_location("detectors", TESTS / "detectors.py")
assert _spec is not None
assert _spec.loader is not None
detectors = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(detectors)

IMAGES = [torch.rand(3, 32, 40), torch.rand(3, 24, 32)]


def target(boxes: Any = ((2, 2, 12, 10),), labels: Any = (1,), **more: Any) -> dict[str, Any]:
    return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels), **more}


def of_fcos() -> Detection:
    """A task that knows its detector: classes 0 to 3."""
    return Detection().of(squares["fcos"]())


# -- losses -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_the_detectors_losses() -> None:
    output = {"classification": torch.tensor(0.5), "bbox_regression": torch.tensor(0.25)}
    assert Detection().loss(output, None).item() == 0.75
    assert Detection(weights={"bbox_regression": 4.0}).loss(output, None).item() == 1.5
    assert Detection(weights={"bbox_regression": 0.0}).loss(output, None).item() == 0.5
    assert Detection().parts(output, None) == output
    with pytest.raises(ad.TrainingError, match="weights has 'loss_mask': expected some of classification, bbox_re"):
        Detection(weights={"loss_mask": 1.0}).loss(output, None)


def test_of_transformers_the_loss_is_the_models_own_and_layers_are_no_parts() -> None:
    told = {"loss_ce": torch.tensor(1.0), "loss_bbox": torch.tensor(2.0), "loss_ce_0": torch.tensor(3.0)}
    more = {
        "loss_vfl_aux_0": torch.tensor(4.0),
        "loss_giou_dn_1": torch.tensor(5.0),
        "loss_vfl_enc_0": torch.tensor(6.0),
    }
    given = {"loss": torch.tensor(7.0), "loss_dict": told | more, "logits": torch.zeros(1, 2, 4)}
    task = Detection()
    output = task.output({**given, "pred_boxes": torch.zeros(1, 2, 4), "last_hidden_state": torch.zeros(1, 2, 8)})
    assert output.keys() == {"loss", "loss_dict", "logits", "pred_boxes"}
    assert task.loss(output, None).item() == 7
    assert list(task.parts(output, None)) == ["loss_ce", "loss_bbox"]
    with pytest.raises(
        ad.TrainingError, match=r"weights=.* apply to torchvision's losses: a model of transformers has i"
    ):
        Detection(weights={"loss_ce": 2.0}).loss(output, None)
    with pytest.raises(ad.TrainingError, match="returned no loss: expected a batch with 'labels'"):
        task.loss({name: value for name, value in output.items() if name != "loss"}, None)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            [{"boxes": torch.zeros(0, 4)}],
            "returned a list of 1, which holds no losses: a detector of torchvision returns",
        ),
        (torch.zeros(2, 3), "returned a Tensor, which holds no losses: expected a detector of torchvision or transf"),
        ({"out": torch.zeros(1, 2, 4, 4)}, "returned a dict with 'out', which holds no losses"),
    ],
)
def test_what_holds_no_losses(output: Any, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        Detection().loss(output, None)


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn", "mask_rcnn", "ssd"])
def test_a_detector_of_torchvision_learns_its_own_losses_in_eval_mode_too(name: str) -> None:
    """With norms and sizes of images as in eval mode, and the random regions of the same seed."""
    model = squares[name]()
    model.transform.min_size = (32, 40)  # one is drawn in training; the last one counts in eval mode
    task = Detection().of(model)
    (images, targets), y = task.inputs(squares["pairs"]())
    assert targets is y
    modes = {path: part.training for path, part in model.eval().named_modules()}
    torch.manual_seed(3)
    with task.with_losses(model), torch.no_grad():
        found = task.loss(task.output(model(images, targets)), y)
    assert modes == {path: part.training for path, part in model.named_modules()}
    model.train()
    for part in (model.backbone, model.transform):
        part.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        expected = sum(model(images, targets).values())
    assert found.item() == pytest.approx(float(expected), rel=1e-6)


def test_losses_in_eval_are_put_back_after_an_error() -> None:
    model = squares["faster_rcnn"]().eval()

    def fails() -> None:
        with losses_in_eval(model):
            assert model.rpn.training
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not any(part.training for part in model.modules())


def test_a_detector_of_transformers_trains_and_tells_what_the_model_does() -> None:
    model = detectors.detr().eval()
    task = Detection().of(model)
    x, y = task.inputs(hugging_face())
    output = task.output(model(**x))
    assert task.loss(output, y).item() == pytest.approx(model(**x).loss.item(), rel=1e-6)
    assert {"loss_ce", "loss_bbox", "loss_giou"} <= task.parts(output, y).keys()


# -- features ---------------------------------------------------------------------------------------------------


def test_features_on_paper() -> None:
    """Levels of (1, 3), variance 1, and (0, 20), variance 100: differences of 1 and of 10 count the same."""
    teacher = torch.tensor([[[1.0, 3.0]]], requires_grad=True)
    student = torch.tensor([[[2.0, 3.0]]], requires_grad=True)
    coarse = {"teacher": torch.tensor([[[0.0, 20.0]]]), "student": torch.tensor([[[0.0, 10.0]]])}
    mask = torch.zeros(1, 1, 2, dtype=torch.bool)
    seen = (
        {"backbone": [(student, mask), (coarse["student"], mask)]},
        {"backbone": [(teacher, mask), (coarse["teacher"], mask)]},
    )
    loss = feature_distance(*seen)
    assert loss.item() == pytest.approx((1 / 2 / 1 + 100 / 2 / 100) / 2)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.tolist() == [[[pytest.approx(0.5), 0.0]]]  # of (x - 1)² / 2 / 2 at 2
    same = feature_distance(seen[1], seen[1])
    assert same.item() == 0


def test_what_sub_networks_learn() -> None:
    output = {"classification": torch.tensor(0.5, requires_grad=True)}
    student = torch.tensor([[[2.0, 3.0]]], requires_grad=True)
    teacher = torch.tensor([[[1.0, 3.0]]])  # a distance of 1/2
    both = Watched(output, {"neck": student}), Watched(None, {"neck": teacher})
    assert Detection().distil(*both).item() == 0.5
    assert Detection().distil(output, None).item() == 0.5
    features = Detection(learn="features", feature_weight=3.0, features="neck")
    assert features.distil(*both).item() == pytest.approx(1.5)
    assert Detection(learn="both", feature_weight=3.0, features="neck").distil(*both).item() == pytest.approx(2.0)
    with pytest.raises(ad.TrainingError, match="compares features, but received only outputs: train with Passes or"):
        features.distil(output, output)
    frozen = Watched(output, {"neck": student.detach()})
    with pytest.raises(ad.TrainingError, match="compares what neck returns, but all of its parameters are frozen"):
        features.distil(frozen, both[1])


def test_features_of_other_shapes() -> None:
    with pytest.raises(
        ad.TrainingError, match=r"neck returned \[\[1, 2, 3\]\] in the sub-network and \[\[1, 2, 4\]\] in th"
    ):
        feature_distance({"neck": torch.zeros(1, 2, 3)}, {"neck": torch.zeros(1, 2, 4)})
    with pytest.raises(ad.TrainingError, match=r"neck returned \[\] in the sub-network and \[\] in the super-net"):
        feature_distance({"neck": None}, {"neck": None})


def test_a_task_finds_the_features_of_its_model() -> None:
    assert Detection(learn="both").of(squares["fcos"]()).watch == ("backbone",)
    assert Detection(learn="both").of(detectors.detr()).watch == ("model.backbone",)
    assert Detection(learn="both").of(detectors.yolos()).watch == ("vit",)
    assert Detection(learn="both", features="backbone.body").of(squares["fcos"]()).watch == ("backbone.body",)
    assert Detection().of(squares["fcos"]()).watch == ()
    inside = nn.ModuleDict({"detector": squares["fcos"]()})
    assert Detection(learn="both").of(inside).watch == ("detector.backbone",)
    with pytest.raises(ad.TrainingError, match="but that of a Linear is unknown: name the module, Detec"):
        Detection(learn="both").of(nn.Linear(2, 2))
    with pytest.raises(ad.TrainingError, match="features='neck' is not a module of the FCOS: expected a path"):
        Detection(learn="both", features="neck").of(squares["fcos"]())


# -- mAP --------------------------------------------------------------------------------------------------------


def measured(task: Detection, predictions: list[dict[str, Tensor]], targets: list[dict[str, Any]]) -> float:
    metric = task.metric(predictions)
    task.measure(metric, task.output(predictions), targets)
    return task.value(metric)


def predicted(boxes: Any, scores: Any, labels: Any) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.long),
    }


def test_map_on_paper() -> None:
    """A box found with an overlap of 0.62 counts at 0.5, 0.55 and 0.6 of ten overlaps."""
    targets = [target([(0, 0, 10, 10)], [1])]
    predictions = [predicted([(0, 0, 10, 6.2)], [0.9], [1])]
    assert measured(Detection(), predictions, targets) == pytest.approx(30, abs=1e-3)
    assert measured(Detection(iou=0.5), predictions, targets) == pytest.approx(100)
    assert measured(Detection(iou=0.75), predictions, targets) == 0
    # One of two found, and the other place wrong: precision 1 up to a recall of 1/2, at 51 of 101 places.
    two = [target([(0, 0, 10, 10)], [1]), target([(0, 0, 10, 10)], [1])]
    found = [predicted([(0, 0, 10, 10)], [0.9], [1]), predicted([(20, 20, 30, 30)], [0.8], [1])]
    assert measured(Detection(), found, two) == pytest.approx(100 * 51 / 101)
    assert str(Detection().quality) == "mAP@[.5:.95] (%)"
    assert str(Detection(iou=0.5).quality) == "mAP@50 (%)"


def scene(images: int = 6) -> tuple[list[dict[str, Tensor]], list[dict[str, Any]]]:
    """Targets of two classes, a crowd among them, and predictions near them, wrong, missing and in no place."""
    generator = torch.Generator().manual_seed(0)

    def drawn(number: int) -> Tensor:
        corners = 60 * torch.rand(number, 2, generator=generator)
        return torch.cat([corners, corners + 8 + 30 * torch.rand(number, 2, generator=generator)], 1)

    predictions, targets = [], []
    for image in range(images):
        boxes, labels = drawn(image % 4), torch.randint(1, 3, (image % 4,), generator=generator)
        crowd = torch.zeros_like(labels)
        crowd[:1] = int(image == 3)
        targets.append({"boxes": boxes, "labels": labels, "iscrowd": crowd})
        near = boxes + 1.5 * torch.randn(len(boxes), 4, generator=generator)
        guessed = torch.cat([near, drawn(2)])
        classes = torch.cat([labels, torch.randint(1, 3, (2,), generator=generator)])
        predictions.append(
            {"boxes": guessed, "scores": torch.rand(len(guessed), generator=generator), "labels": classes}
        )
    return predictions, targets


def by_pycocotools(predictions: list[dict[str, Tensor]], targets: list[dict[str, Any]], iou: float | None) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def wide(box: Tensor) -> list[float]:
        x1, y1, x2, y2 = box.tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    truth: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    found = []
    for image, (prediction, true) in enumerate(zip(predictions, targets, strict=True)):
        truth["images"].append({"id": image})
        for box, label, crowd in zip(true["boxes"], true["labels"], true["iscrowd"], strict=True):
            x, y, width, height = wide(box)
            known = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": int(label)}
            known |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": int(crowd)}
            truth["annotations"].append(known)
        for box, score, label in zip(prediction["boxes"], prediction["scores"], prediction["labels"], strict=True):
            known = {"image_id": image, "category_id": int(label), "bbox": wide(box), "score": float(score)}
            found.append(known)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * float(judge.stats[0 if iou is None else 1])


@pytest.mark.parametrize("iou", [None, 0.5])
def test_map_agrees_with_pycocotools(iou: float | None) -> None:
    predictions, targets = scene()
    found = measured(Detection(iou=iou), predictions, targets)
    assert 5 < found < 95
    assert found == pytest.approx(by_pycocotools(predictions, targets, iou), abs=1e-4)


def test_map_over_batches_is_that_of_all_images() -> None:
    predictions, targets = scene()
    task, batches = Detection(), (slice(0, 2), slice(2, 6))
    metric = task.metric(predictions)
    for part in batches:
        task.measure(metric, predictions[part], targets[part])
    assert task.value(metric) == pytest.approx(measured(task, predictions, targets))


def test_an_evaluation_without_a_box_has_no_map() -> None:
    empty = [target([], [])]
    empty[0]["boxes"] = torch.zeros(0, 4)
    with pytest.raises(ad.MeasurementError, match=r"no image of this evaluation has a box, so there is no mAP@"):
        measured(Detection(), [predicted([(0, 0, 4, 4)], [0.5], [1])], empty)


def test_masks_are_judged_where_asked() -> None:
    """A mask of 6 of 10 rows, with a chance above one half: an overlap of 0.6; the box fits."""
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :6, :10] = 0.9
    mask[..., 6:10, :10] = 0.4
    predictions = [predicted([(0, 0, 10, 10)], [0.9], [1]) | {"masks": mask}]
    true = torch.zeros(1, 20, 20, dtype=torch.uint8)
    true[:, :10, :10] = 1
    targets = [target([(0, 0, 10, 10)], [1], masks=true)]
    task = Detection(masks=True, iou=0.55)
    assert measured(task, predictions, targets) == pytest.approx(100)
    assert measured(Detection(masks=True, iou=0.65), predictions, targets) == 0
    assert measured(Detection(iou=0.65), predictions, targets) == pytest.approx(100)
    assert str(task.quality) == "mask mAP@55 (%)"
    with pytest.raises(ad.TrainingError, match="judges masks, but a target has none: expected 'masks'"):
        measured(task, predictions, [target([(0, 0, 10, 10)], [1])])


@pytest.mark.parametrize("name", ["detr", "rt_detr"])
def test_predictions_of_transformers_are_those_of_the_image_processor(name: str) -> None:
    """DETR: the best class of each query, by a softmax without the last one. RT-DETR: all classes, by sigmoids."""
    model = getattr(detectors, name)()
    task = Detection(iou=0.5).of(model)
    logits = torch.full((1, 2, detectors.CLASSES + (name == "detr")), -4.0)
    logits[0, 0, 2], logits[0, 1, 0] = 4.0, 2.0
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25], [0.25, 0.25, 0.5, 0.5]]])
    output = task.output({"logits": logits, "pred_boxes": boxes})
    labels = [{"boxes": boxes[0, :1], "class_labels": torch.tensor([2]), "orig_size": torch.tensor([100, 200])}]
    predictions, targets = task.compared(output, labels)
    assert targets[0]["boxes"].tolist() == [[50, 37.5, 150, 62.5]]
    assert targets[0]["labels"].tolist() == [2]
    best = predictions[0]["scores"].argsort(descending=True)[:2]
    assert predictions[0]["labels"][best].tolist() == [2, 0]
    assert predictions[0]["boxes"][best].tolist() == [[50, 37.5, 150, 62.5], [0, 0, 100, 50]]
    expected = torch.sigmoid(torch.tensor(4.0)) if name == "rt_detr" else logits[0, 0].softmax(0)[2]
    assert predictions[0]["scores"].max().item() == pytest.approx(float(expected))
    assert measured_of(task, output, labels) == pytest.approx(100)
    without = [{name: value for name, value in labels[0].items() if name != "orig_size"}]
    assert measured_of(task, output, without) == pytest.approx(100)  # overlaps are the same in any unit


def measured_of(task: Detection, output: Any, labels: Any) -> float:
    metric = task.metric(output)
    task.measure(metric, output, labels)
    return task.value(metric)


def test_another_metric_follows_the_task_to_its_model() -> None:
    own = MeanAveragePrecision(iou_thresholds=[0.6])
    task = Detection().with_metric(own, ad.tasks.Quality("AP60", "%"))
    predictions, targets = [predicted([(0, 0, 10, 6.2)], [0.9], [1])], [target([(0, 0, 10, 10)], [1])]
    assert measured(task, predictions, targets) == pytest.approx(100)

    def boxes(predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
        return sum(len(each["boxes"]) for each in predictions) / sum(len(each["boxes"]) for each in targets)

    counted = Detection().with_metric(boxes, ad.tasks.Quality("boxes a target"))
    metric = counted.metric(predictions)
    for _ in range(2):
        counted.measure(metric, predictions * 2, [*targets, target([(0, 0, 5, 5), (1, 1, 9, 9)], [1, 1])])
    assert counted.value(metric) == pytest.approx(2 / 3)
    bound = task.of(detectors.detr())  # whose predictions only a bound task can make
    logits, boxes_of = torch.zeros(1, 1, 5), torch.tensor([[[0.5, 0.5, 0.5, 0.5]]])
    logits[..., 1] = 5
    labels = [{"boxes": boxes_of[0], "class_labels": torch.tensor([1])}]
    assert measured_of(bound, bound.output({"logits": logits, "pred_boxes": boxes_of}), labels) == pytest.approx(100)
    assert bound.quality.name == "AP60"


# -- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (squares["faster_rcnn"], Detector("FasterRCNN", "torchvision", 1, 4, "backbone")),
        (squares["mask_rcnn"], Detector("MaskRCNN", "torchvision", 1, 4, "backbone")),
        (squares["ssd"], Detector("SSD", "torchvision", 1, 4, "backbone")),
        (squares["retinanet"], Detector("RetinaNet", "torchvision", 0, 4, "backbone")),
        (squares["fcos"], Detector("FCOS", "torchvision", 0, 4, "backbone")),
    ],
)
def test_what_is_known_of_torchvisions_detectors(model: Any, expected: Detector) -> None:
    made = model()
    assert detector_of(made) == expected
    assert isinstance(as_task(None, made), Detection)


@pytest.mark.parametrize("name", ["DETR", "RT-DETR", "D-FINE", "YOLOS"])
def test_what_is_known_of_the_detectors_of_transformers(name: str) -> None:
    model = detectors.build(name)
    found = detector_of(model)
    assert found is not None
    assert (found.name, found.library, found.lowest) == (type(model).__name__, "transformers", 0)
    assert found.classes == detectors.CLASSES
    task = as_task(None, model)
    assert isinstance(task, Detection)
    assert task.detector == found


def test_other_models_have_other_tasks() -> None:
    class Own(FCOS):
        pass

    assert detector_of(nn.Linear(2, 2)) is None
    assert type(as_task(None, nn.Linear(2, 2))) is Classification
    thin = squares["fcos"]()
    thin.__class__ = Own
    assert isinstance(as_task(None, thin), Detection)


# -- batches ----------------------------------------------------------------------------------------------------


def hugging_face(**more: Any) -> dict[str, Any]:
    labels = [
        {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]])},
        {"class_labels": torch.tensor([], dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.rand(2, 3, 64, 64, generator=generator), "labels": labels, **more}


def test_lists_and_stacked_images() -> None:
    task, targets = of_fcos(), (target(), target([(0, 0, 4, 4), (5, 5, 9, 9)], [0, 3], image_id=7))
    (images, given), y = task.inputs((tuple(IMAGES), targets))
    assert all(a is b for a, b in zip(images, IMAGES, strict=True))
    assert given is y
    assert y[1]["image_id"] == 7
    assert y[1]["labels"].tolist() == [0, 3]
    stacked = torch.rand(2, 3, 32, 32)
    (images, _), _ = task.inputs((stacked, list(targets)))
    assert [image.tolist() for image in images] == stacked.tolist()
    assert task.unlabelled((images, y)) == (images,)


def test_whatever_names_its_kind_of_numbers() -> None:
    """Boxes of whole numbers, labels of any whole kind, tensors of torchvision's transforms, boxes by their width."""
    task = of_fcos()
    wide = tv_tensors.BoundingBoxes([[2, 3, 10, 8]], format="XYWH", canvas_size=(32, 40))  # type: ignore[call-arg]
    given = {"boxes": wide, "labels": torch.tensor([2], dtype=torch.int32), "polygons": [[1, 2]]}
    (images, _), [y] = task.inputs(([tv_tensors.Image(IMAGES[0])], [given]))
    assert y["boxes"].tolist() == [[2, 3, 12, 11]]
    assert type(y["boxes"]) is Tensor
    assert type(images[0]) is Tensor
    assert y["boxes"].is_floating_point()
    assert y["labels"].dtype == torch.int64
    assert "polygons" not in y


@pytest.mark.parametrize(
    "nothing",
    [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
        {"boxes": torch.tensor([]), "labels": torch.tensor([])},
        {"image_id": 3},  # what torchvision's wrapper of COCO gives
    ],
)
def test_an_image_without_boxes_is_one(nothing: dict[str, Any]) -> None:
    model = squares["faster_rcnn"]()
    task = Detection().of(model)
    (images, targets), y = task.inputs((IMAGES, [target(), nothing]))
    assert y[1]["boxes"].shape == (0, 4)
    assert y[1]["labels"].dtype == torch.int64
    assert task.loss(model.train()(images, targets), y).isfinite()


def test_a_dict_of_transformers_in_whatever_mappings() -> None:
    from transformers import BatchFeature

    task = Detection().of(detectors.detr())
    given = hugging_face(pixel_mask=torch.ones(2, 64, 64, dtype=torch.long))
    x, y = task.inputs(BatchFeature(given | {"labels": [BatchFeature(each) for each in given["labels"]]}))
    assert type(x) is dict
    assert type(y[0]) is dict
    assert x["labels"] is y
    assert x.keys() == {"pixel_values", "pixel_mask", "labels"}
    assert task.unlabelled(x).keys() == {"pixel_values", "pixel_mask"}


def test_pairs_become_what_a_detector_of_transformers_takes() -> None:
    """Images of 32 x 40 and 24 x 32 pixels on a grid of 32: both 32 x 64, and boxes are shares of that."""
    model = detectors.detr().eval()
    task = Detection(iou=0.5).of(model)
    targets = [target([(16, 8, 32, 24)], [3], image_id=5), target([], [])]
    targets[1]["boxes"] = torch.zeros(0, 4)
    x, y = task.inputs((IMAGES, targets))
    assert x["pixel_values"].shape == (2, 3, 32, 64)
    assert torch.equal(x["pixel_values"][1, :, :24, :32], IMAGES[1])
    assert not x["pixel_values"][1, :, 24:].any()
    assert x["pixel_mask"].sum().item() == 32 * 40 + 24 * 32
    assert y[0]["boxes"].tolist() == [[24 / 64, 16 / 32, 16 / 64, 16 / 32]]
    assert (y[0]["class_labels"].tolist(), y[0]["image_id"]) == ([3], 5)
    assert y[1]["boxes"].shape == (0, 4)
    _, compared = task.compared({"logits": torch.zeros(2, 1, 5), "pred_boxes": torch.full((2, 1, 4), 0.5)}, y)
    assert compared[0]["boxes"].tolist() == [[16, 8, 32, 24]]
    assert torch.isfinite(model(**x).loss)
    same = Detection().of(detectors.yolos()).inputs((IMAGES, targets))[0]  # which takes no mask
    assert "pixel_mask" not in same
    assert task.images(IMAGES).keys() == {"pixel_values", "pixel_mask"}


def test_images_alone() -> None:
    task = of_fcos()
    for batch in (IMAGES, tuple(IMAGES), (IMAGES, [target(), target()]), (IMAGES, None)):
        [images] = task.images(batch)
        assert [image.shape for image in images] == [image.shape for image in IMAGES]
    [images] = task.images(torch.rand(3, 3, 16, 16))
    assert len(images) == 3
    assert Detection().of(detectors.detr()).images(hugging_face()).keys() == {"pixel_values"}


# -- what nothing is learned from --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (target([(4, 4, 4, 9)]), r"target 1 of the batch has the box \[4.0, 4.0, 4.0, 9.0\] without area: expected co"),
        (target([(9, 9, 4, 4)]), r"without area: expected corners \[x1, y1, x2, y2\] with x1 < x2 .* 'xywh', 'xyxy'\)"),
        (target([(-8, 4, -2, 9)]), r"outside its image of 32 x 24 pixels: expected corners \[x1, y1, x2, y2\] in p"),
        (target([(40, 4, 50, 9)]), r"the box \[40.0, 4.0, 50.0, 9.0\] outside its image"),
        (target([(4, math.nan, 5, 9)]), "has boxes that are not finite numbers: leave them out, or repair them"),
        (target(labels=(4,)), r"labels from 4 to 4: expected labels of this FCOS, from 0 to 3; build .* num_classes=5"),
        (target(labels=(-1,)), "has labels from -1 to -1: expected labels of this FCOS, from 0 to 3"),
        (target(labels=(1.0,)), r"has labels of torch.float32: expected whole numbers; convert them with .long\(\)"),
        (target(labels=(1, 1)), r"has boxes \[1, 4\] and labels \[2\]: expected \[n, 4\] and \[n\]"),
        (target([((1, 1, 5, 5),), ((1, 1, 5, 5),)], [(1,), (1,)]), r"stacks the targets .*, give it collate_fn=lambda"),
        (target(masks=torch.zeros(1, 32, 32)), r"masks \[1, 32, 32\] for 1 boxes and an image of 24 x 32 pixels: exp"),
        (target(masks=torch.zeros(2, 24, 32)), r"has masks \[2, 24, 32\] for 1 boxes"),
        ({"bbox": torch.zeros(1, 4), "category_id": 1}, "has 'bbox', 'category_id', but no 'boxes' and no 'labels': e"),
        ({"boxes": torch.zeros(1, 4), "image_id": torch.tensor(9)}, "image_id 9 has 'boxes', 'image_id', but no 'labe"),
        ({"boxes": [[1, 1, 4, 4]], "labels": [1]}, "has boxes as a list and labels as a list: expected tensors"),
    ],
)  # fmt: skip
def test_targets_of_torchvision_that_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ad.DataError, match=said):
        of_fcos().inputs((IMAGES, [target(), wrong]))


def test_a_box_that_is_partly_outside_is_learned_from() -> None:
    """Annotations round; COCO has such boxes, and counts them as they are."""
    _, y = of_fcos().inputs((IMAGES, [target([(-1, -1, 12, 10)]), target([(20, 10, 33, 25)])]))
    assert y[0]["boxes"].tolist() == [[-1, -1, 12, 10]]


def test_numbers_of_images_are_asked_about_where_it_is_certain_what_they_mean() -> None:
    """Detectors of torchvision normalise what lies from 0 to 1; others may have it done before."""
    far, labels = [4 * IMAGES[0] - 2], [target()]
    own = squares["fcos"](image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0])
    for model in (own, detectors.detr()):
        Detection().of(model).inputs((far, labels))
    of_fcos().inputs(([1.2 * IMAGES[0] - 0.1], labels))  # noise, and what resizing overshoots


def test_labels_below_zero_are_no_question_of_the_number_of_classes() -> None:
    with pytest.raises(ad.DataError, match=r"from -1 to -1: .* from 0 to 3; leave out boxes without a class"):
        of_fcos().inputs(([IMAGES[0]], [target(labels=(-1,))]))


def test_the_background_is_no_class() -> None:
    """It would be learned as background, without an error; of one-stage detectors 0 is a class."""
    batch = (IMAGES, [target(labels=(0,)), target()])
    with pytest.raises(
        ad.DataError, match="label 0, which is the background class of a FasterRCNN: expected labels from 1 to 3"
    ):
        Detection().of(squares["faster_rcnn"]()).inputs(batch)
    with pytest.raises(ad.DataError, match=r"num_classes=5 \(class 0 is the background\)"):
        Detection().of(squares["ssd"]()).inputs((IMAGES, [target(labels=(4,)), target()]))
    of_fcos().inputs(batch)
    with pytest.raises(
        ad.DataError, match="from 0 to 3; build the model with num_labels=5, or subtract 1 from labels that"
    ):
        Detection().of(detectors.detr()).inputs((IMAGES, [target(labels=(4,)), target()]))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (IMAGES, r"yielded images without targets: expected \(images, targets\), a list of .* collate_fn=lambda batch"),
        (torch.zeros(2, 3, 8, 8), "images without targets"),
        ((IMAGES, None), "images without targets"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8)}, "yielded a dict with 'pixel_values': expected .images, targets"),
        ((IMAGES, [target()]), "yielded 2 images and 1 targets: expected one for each"),
        ((IMAGES, [[target()], [target()]]), "yielded targets as a list of 2 with a list in it: expected"),
        (([IMAGES[0][:1, 0]], [target()]), r"image 0 of the batch is \[1, 40\] of float32: expected \[3, height, widt"),
        (([(255 * IMAGES[0]).byte()], [target()]), r"is \[3, 32, 40\] of uint8: .*v2.ToDtype\(torch.float32, scale=Tr"),
        ((IMAGES, [target([(0.1, 0.1, 0.5, 0.5)]), target([(0, 0, 1, 1)])]), "all boxes of this batch lie between 0 a"),
        ((["a.png"], [target()]), r"expected \(images, targets\), a list of tensors"),
        ([(IMAGES[0], target())] * 2, r"yielded a list of 2 pairs of an image and its target, as in the data set"),
        ([(IMAGES[0], target())] * 3, "yielded a list of 3 pairs of an image and its target"),
        (([IMAGES[0], 255 * IMAGES[1]], [target()] * 2), r"image 1 of the batch has numbers from .*: expected 0 to 1,"),
        (([4 * IMAGES[0] - 2], [target()]), r"numbers from -[12].* a FCOS normalises images itself .* leave Norma"),
    ],
)  # fmt: skip
def test_batches_of_torchvision_that_are_refused(batch: Any, said: str) -> None:
    with pytest.raises(ad.DataError, match=said):
        of_fcos().inputs(batch)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": torch.zeros(2)}, "yielded labels as a Tensor: expected a dict with 'pixel_values'"),
        ({"labels": None}, "yielded no labels: expected a dict with 'pixel_values'"),
        ({"labels": [{"boxes": torch.zeros(0, 4)}]}, "yielded 2 images and 1 targets"),
        ({"pixel_values": None}, "yielded a dict with 'pixel_values', 'labels': expected a dict with 'pixel_values' ."),
        ({"labels": [{"boxes": torch.tensor([[8.0, 8, 40, 36]]), "class_labels": torch.tensor([1])}] * 2},
         r"has the box \[8.0, 8.0, 40.0, 36.0\]: expected \[centre x, centre y, width, height\] from 0 to 1"),
        ({"labels": [{"boxes": torch.tensor([[0.5, 0.5, 0.0, 0.2]]), "class_labels": torch.tensor([1])}] * 2},
         "leave out boxes without area"),
        ({"labels": [{"boxes": torch.zeros(1, 4) + 0.5, "labels": torch.tensor([1])}] * 2}, "but no 'class_labels': e"),
        ({"labels": [{"boxes": torch.zeros(1, 4) + 0.5, "class_labels": torch.tensor([4])}] * 2},
         "has labels from 4 to 4: expected class_labels of this DetrForObjectDetection, from 0 to 3"),
    ],
)  # fmt: skip
def test_batches_of_transformers_that_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ad.DataError, match=said):
        Detection().of(detectors.detr()).inputs(hugging_face() | wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learn": "teacher"}, "learn='teacher': expected 'labels', 'features' or 'both'"),
        ({"feature_weight": 0}, "feature_weight=0: expected a number above 0"),
        ({"iou": 50}, "iou=50: expected an overlap between 0 and 1, such as 0.5"),
        ({"weights": {"loss_mask": -1}}, "weight -1 of 'loss_mask': expected a number of 0 or more"),
        ({"features": "neck"}, "features= are compared with learn='features' or 'both', but learn is 'labels'"),
    ],
)
def test_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        Detection(**arguments)


def test_predictions_and_targets_of_different_numbers() -> None:
    with pytest.raises(ad.TrainingError, match="predictions for 1 images and 2 targets: expected one for each"):
        Detection().check([predicted([], [], [])], [target(), target()])
