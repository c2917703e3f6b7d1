"""Boxes in COCO's, VOC's and YOLO's form: the same picture read from each, and all that may be wrong with one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import adaptive_depth as ad
from adaptive_depth.data import DataConfig, arguments_for, class_names, configure, create_loader, notes_of, open_data
from adaptive_depth.data.sets import open_set
from adaptive_depth.training.images import TrainingBatches
from adaptive_depth.training.recipe import Recipe

# Of an image of 40 x 20 pixels: a cat on the left, a dog at the bottom right.
CAT, DOG = (4.0, 2.0, 14.0, 12.0), (20.0, 10.0, 40.0, 20.0)
NAMES = ("cat", "dog")
FORMS = ("coco", "voc", "yolo")
Marks = dict[str, list[tuple[str, tuple[float, ...]]]]


def image(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[2:12, 4:14] = (255, 0, 0)
    Image.fromarray(pixels).save(path)


def write_coco(folder: Path, split: str, marks: Marks) -> None:
    entries = []
    for number, (name, boxes) in enumerate(marks.items(), 1):
        image(folder / f"{split}2017" / f"{name}.png")
        entries += [
            {"id": 100 * number + n, "image_id": number,
             "category_id": 5 + 2 * NAMES.index(kind) if kind in NAMES else 99,
             "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": 0}
            for n, (kind, box) in enumerate(boxes)
        ]  # fmt: skip
    content = {
        "images": [{"id": n, "file_name": f"{name}.png", "width": 40, "height": 20} for n, name in enumerate(marks, 1)],
        "annotations": entries,
        "categories": [{"id": 7, "name": "dog"}, {"id": 5, "name": "cat"}],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def xml(boxes: list[tuple[str, tuple[float, ...]]], size: tuple[int, int] = (40, 20)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box in boxes
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{objects}"
        "</annotation>"
    )


def write_voc(folder: Path, split: str, marks: Marks) -> None:
    for place in ("Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for name, boxes in marks.items():
        image(folder / "JPEGImages" / f"{split}{name}.png")
        (folder / "Annotations" / f"{split}{name}.xml").write_text(xml(boxes))
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{split}{name}\n" for name in marks))


def write_yolo(folder: Path, split: str, marks: Marks) -> None:
    (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    for name, boxes in marks.items():
        image(folder / "images" / split / f"{name}.png")
        lines = [
            f"{NAMES.index(kind) if kind in NAMES else 9} {(a + c) / 80} {(b + d) / 40} {(c - a) / 40} {(d - b) / 20}\n"
            for kind, (a, b, c, d) in boxes
        ]
        if lines:
            (folder / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


WRITE = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
USUAL: Marks = {"0": [("cat", CAT), ("dog", DOG)], "1": [("dog", DOG)], "2": []}


def written(folder: Path, form: str, train: Marks = USUAL, val: Marks = USUAL) -> str:
    """The name of a set with these boxes."""
    folder.mkdir(exist_ok=True)
    for split, marks in (("train", train), ("val", val)):
        WRITE[form](folder, split, marks)
    return f"{form}/{folder}"


def faster_rcnn(classes: int = 3, **more):
    return FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), classes, **more)


@pytest.fixture(scope="module")
def detector():
    return faster_rcnn(min_size=32, max_size=32)


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_each_form_says_the_same(tmp_path, form):
    name = written(tmp_path / "set", form)
    assert class_names(name) == NAMES
    data = open_set(name, None, "train", False)
    assert len(data) == 3
    picture, target = data[0]
    assert picture.size == (40, 20)
    assert target["boxes"].tolist() == [list(CAT), list(DOG)]
    assert target["labels"].tolist() == [0, 1]
    assert target["iscrowd"].tolist() == [0, 0]
    assert {data[n][1]["image_id"] for n in range(3)} == ({1, 2, 3} if form == "coco" else {0, 1, 2})
    _, empty = data[2]
    assert (empty["boxes"].shape, empty["labels"].shape) == ((0, 4), (0,))
    assert str(data.notes).startswith("1 images have no boxes: ")


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_counted_from_1_where_a_detector_keeps_0_for_what_is_nothing(tmp_path, form, detector):
    name = written(tmp_path / "set", form)
    config = configure(name, detector)
    assert config.classes == ("__background__", *NAMES)
    assert config.preprocessing.classes == NAMES  # what a file says of its outputs
    assert open_data(config, "validation")[0][1]["labels"].tolist() == [1, 2]
    retinanet = RetinaNet(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 2, min_size=32, max_size=32)
    config = configure(name, retinanet)
    assert config.classes == NAMES
    assert open_data(config, "validation")[0][1]["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_class_that_was_not_trained_on(tmp_path, form, detector):
    config = configure(written(tmp_path / "set", form), detector)
    other = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}[form]
    if form == "voc":
        other(tmp_path / "set", "val", {"0": [("cow", CAT)]})
        with pytest.raises(ad.DataError, match=r"the validation part .* has classes that were not trained on: cow"):
            open_data(config, "validation")
    else:  # a number that no class has: the box is left out, and noted
        other(tmp_path / "set", "val", {"0": [("cow", CAT), ("dog", DOG)]})
        data = open_data(config, "validation")
        assert data[0][1]["labels"].tolist() == [2]
        (why,) = data.notes.left_out.values()
        assert why.startswith(
            "its class 'of id 99' is not one of cat, dog" if form == "coco" else "its class '9' is not one of 0, 1"
        )


def test_yolo_without_names_counts_the_classes_of_both_parts(tmp_path):
    name = written(tmp_path / "set", "yolo", train={"0": [("cat", CAT)]}, val={"0": [("dog", DOG)]})
    (tmp_path / "set" / "data.yaml").unlink()
    assert class_names(name) == ("0", "1")
    (tmp_path / "set" / "classes.txt").write_text("cat\ndog\nbird\n")
    assert class_names(name) == ("cat", "dog", "bird")


def test_yolo_in_folders_of_parts_and_polygons(tmp_path):
    written(tmp_path / "set", "yolo")
    for split, new in (("train", "train2017"), ("val", "valid")):
        (tmp_path / "other" / new).mkdir(parents=True)
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).rename(tmp_path / "other" / new / kind)
    (tmp_path / "other" / "data.yaml").write_text(
        "train: ../train2017/images\nval: ../valid/images\nnames: {0: cat, 1: dog}"
    )
    label = tmp_path / "other" / "train2017" / "labels" / "0.txt"
    label.write_text("0 0.1 0.1 0.35 0.1 0.2 0.6\n")  # x from 0.1 to 0.35, y from 0.1 to 0.6
    data = open_set(f"yolo/{tmp_path / 'other'}", None, "train", False)
    assert data.classes == NAMES
    assert data[0][1]["boxes"].tolist() == [pytest.approx([4, 2, 14, 12], abs=1e-5)]


def test_coco_as_other_tools_lay_it_out_and_its_crowds(tmp_path, detector):
    folder = tmp_path / "set"
    name = written(folder, "coco")
    for split, new in (("train", "train"), ("val", "valid")):
        (folder / f"{split}2017").rename(folder / new)
        (folder / "annotations" / f"instances_{split}2017.json").rename(folder / new / "_annotations.coco.json")
    file = folder / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    config = configure(name, detector)
    assert open_data(config, "validation")[0][1]["iscrowd"].tolist() == [1, 0]
    assert open_data(config, "train")[0][1]["labels"].tolist() == [2]  # a crowd is not learned


def test_masks_of_coco(tmp_path):
    pytest.importorskip("pycocotools")
    name = written(tmp_path / "set", "coco", val={"0": [("cat", CAT), ("dog", DOG)]})
    file = tmp_path / "set" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[4, 2, 14, 2, 14, 12, 4, 12]]
    content["annotations"][1]["segmentation"] = {"size": [20, 40], "counts": [20 * 20, 20 * 20]}  # the right half
    file.write_text(json.dumps(content))
    data = open_set(name, None, "validation", False)
    data.learn_masks()
    masks = data[0][1]["masks"]
    assert masks.shape == (2, 20, 40)
    assert masks[0].sum() == 100
    assert masks[0, 2:12, 4:14].all()
    assert masks[1, :, 20:].all()
    assert masks[1].sum() == 400
    assert data[0][1]["boxes"].tolist()[0] == list(CAT)
    content["annotations"][0]["segmentation"] = {"size": [40, 20], "counts": [800]}
    file.write_text(json.dumps(content))
    data = open_set(name, None, "validation", False)
    data.learn_masks()
    with pytest.raises(
        ad.DataError, match=r"the outline of its box number 0 is damaged .it has the size .40, 20., but the image"
    ):
        _ = data[0]
    train = open_set(name, None, "train", False)
    with pytest.raises(ad.DataError, match=r"has boxes without outlines on 2 of 3 images, such as .*0\.png"):
        train.learn_masks()


# -- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("box", "why"),
    [
        ((5, 5, 5, 9), "it has no area"),
        ((9, 5, 5, 9), "it has no area"),
        ((41, 5, 60, 9), "it lies outside the"),
        ((5, -9, 9, -1), "it lies outside the"),
    ],
)
def test_a_box_that_marks_nothing_is_left_out_and_noted(tmp_path, form, box, why):
    data = open_set(written(tmp_path / "set", form, {"0": [("dog", DOG), ("cat", box)]}), None, "train", False)
    assert data[0][1]["boxes"].tolist() == [list(DOG)]
    ((where, told),) = data.notes.left_out.items()
    assert told.startswith(why)
    assert where.startswith({"coco": "instances_train2017.json, annotation 101", "voc": "train0.xml, object 2",
                             "yolo": "0.txt, line 2"}[form])  # fmt: skip
    assert str(data.notes).startswith(f"1 of 2 boxes left out: {where}: {why}")


@pytest.mark.parametrize("form", FORMS)
def test_a_box_that_reaches_beyond_its_image_is_cut_there(tmp_path, form):
    data = open_set(written(tmp_path / "set", form, {"0": [("cat", (-10, 2, 14, 25))]}), None, "train", False)
    assert data[0][1]["boxes"].tolist() == [pytest.approx([0, 2, 14, 20], abs=1e-5)]
    assert len(data.notes.cut) == 1
    assert "1 of 1 boxes extend beyond their images and are clipped: " in str(data.notes)


@pytest.mark.parametrize("form", FORMS)
def test_too_many_boxes_that_mark_nothing_stop_a_training(tmp_path, form, detector):
    config = configure(written(tmp_path / "set", form, {"0": [("dog", DOG), ("cat", (5, 5, 5, 9))], "1": []}), detector)
    message = r"1 of 2 boxes left out: .* no area .* more than skip_damaged=0.01 allows: fix the annotations"
    with pytest.raises(ad.DataError, match=message):
        TrainingBatches(config, Recipe(batch_size=2))
    batches = TrainingBatches(config, Recipe(batch_size=2, skip_damaged=0.5))
    assert "1 of 2 boxes left out" in str(batches.notes)


@pytest.mark.parametrize("form", FORMS)
def test_no_boxes_at_all(tmp_path, form):
    name = written(tmp_path / "set", form, {"0": [], "1": []})
    with pytest.raises(ad.DataError, match=r"holds no boxes on 2 images .*: expected at least one"):
        open_set(name, None, "train", False)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_image_is_left_out_of_training_and_told_and_stops_a_validation(tmp_path, form, detector):
    marks: Marks = {str(n): [("cat", CAT)] for n in range(4)}
    config = configure(written(tmp_path / "set", form, marks, marks), detector)
    for split in ("train", "val"):
        damaged = next(path for path in sorted((tmp_path / "set").rglob("*3.png")) if split in str(path))
        damaged.write_bytes(damaged.read_bytes()[:60])
    batches = TrainingBatches(config, Recipe(batch_size=2, skip_damaged=0.25))
    seen = [len(images) for images, _ in batches]
    assert sum(seen) == 3
    ((number, why),) = batches.damaged.items()
    assert number == "image 3"
    assert "3.png cannot be read" in why
    with pytest.raises(ad.DataError, match=r"3\.png cannot be read"):
        list(create_loader(config, "validation", batch_size=2))


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_an_image_of_another_size_than_its_annotation_says(tmp_path, form, detector):
    config = configure(written(tmp_path / "set", form), detector)
    image(next(path for path in sorted((tmp_path / "set").rglob("*0.png")) if "val" in str(path)), (20, 40))
    with pytest.raises(ad.DataError, match=r"has 20 x 40 pixels, but its annotation says 40 x 20, so its boxes belong"):
        _ = open_data(config, "validation")[0]


ENTITIES = '<!DOCTYPE lol [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation><object><name>&b;</name></object>'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("<annotation><object>", "is damaged"),
        (ENTITIES + "</annotation>", "is damaged .it declares a document type, which no annotation needs"),
        (xml([("", CAT)]), "is damaged .*has no name"),
        (xml([("cat", ("x", 1, 2, 3))]), "is damaged .could not convert string to float"),
        ("x" * (1 << 20) + "xx", "is damaged .*more than 1,048,576 bytes"),
        (None, "is missing: write one, or remove the image from the list"),
    ],
)
def test_damaged_annotations_of_voc(tmp_path, content, why):
    data = open_set(written(tmp_path / "set", "voc"), None, "train", False)
    assert len(data) == 3
    path = tmp_path / "set" / "Annotations" / "train1.xml"
    path.unlink() if content is None else path.write_text(content)
    data = open_set(f"voc/{tmp_path / 'set'}", None, "train", False)
    with pytest.raises(ad.DataError, match=rf"^image .*train1\.png: its annotation .*train1\.xml {why}"):
        _ = data[1]
    assert data[0][1]["labels"].tolist() == [0, 1]


def test_voc_without_a_size_and_with_boxes_that_lack_a_side(tmp_path):
    written(tmp_path / "set", "voc", {"0": [("cat", CAT), ("dog", (35, 10, 60, 20))]})
    path = tmp_path / "set" / "Annotations" / "train0.xml"
    path.write_text(path.read_text().replace("<width>40<", "<width>0<").replace("<xmin>4.0</xmin>", ""))
    data = open_set(f"voc/{tmp_path / 'set'}", None, "train", False)
    assert data[0][1]["boxes"].tolist() == [[35, 10, 40, 20]]
    assert "its sides are 2.0, 14.0, 12.0, expected four finite numbers" in str(data.notes)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0.5 0.5 0.2", "has 4 numbers"),
        ("cat 0.5 0.5 0.2 0.2", "begins with 'cat' instead of a class number"),
        ("0 20 10 5 5", "has the number 20"),
        ("0 0.5 0.5 x 0.2", "could not convert"),
        ("0 0.5 0.5 nan 0.2", "has 5 numbers"),
    ],
)
def test_damaged_annotations_of_yolo(tmp_path, line, why):
    written(tmp_path / "set", "yolo")
    (tmp_path / "set" / "labels" / "train" / "1.txt").write_text(line)
    data = open_set(f"yolo/{tmp_path / 'set'}", None, "train", False)
    with pytest.raises(
        ad.DataError, match=rf"its annotation .*1\.txt is damaged .*{why}.*: expected lines such as '0 0.5"
    ):
        _ = data[1]


COCO = {"images": [{"id": 1, "file_name": "0.png", "width": 40, "height": 20}], "annotations": [],
        "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (json.dumps([]), "holds no lists of images, annotations, categories"),
        (json.dumps(COCO | {"images": [{"id": 1}]}), r"images\[0\] is {'id': 1}: expected entries such as"),
        (json.dumps(COCO | {"categories": [{"id": "1"}]}), r"categories\[0\] is .*: expected entries such as"),
        (json.dumps(COCO | {"categories": COCO["categories"] * 2}), "has categories with the same name or id"),
        (json.dumps(COCO | {"images": [{**COCO["images"][0], "file_name": "9.png"}]}), "'9.png' of .* is in none of"),
    ],
)
def test_damaged_files_of_coco(tmp_path, content, why):
    written(tmp_path / "set", "coco")
    (tmp_path / "set" / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(ad.DataError, match=why):
        open_set(f"coco/{tmp_path / 'set'}", None, "train", False)


def test_damaged_entries_of_coco_are_noted(tmp_path):
    written(tmp_path / "set", "coco")
    file = tmp_path / "set" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] += [
        7,
        {"id": 8, "image_id": 1, "category_id": 5},
        {"image_id": 55, "category_id": 5, "bbox": CAT},
    ]
    content["annotations"] += [{"id": 9, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, "x"]}]
    file.write_text(json.dumps(content))
    data = open_set(f"coco/{tmp_path / 'set'}", None, "train", False)
    assert data[0][1]["labels"].tolist() == [0, 1]
    assert {where.split(",")[1].split(" (")[0]: why.split(",")[0] for where, why in data.notes.left_out.items()} == {
        " annotation number 3": "there is no image None",
        " annotation 8": "its sides are missing",
        " annotation number 5": "there is no image 55",
        " annotation 9": "its sides are 1.0",
    }


@pytest.mark.parametrize("form", FORMS)
def test_folders_that_are_missing(tmp_path, form):
    (tmp_path / "set").mkdir()
    with pytest.raises(ad.DataError, match=r"has no .*: expected "):
        class_names(f"{form}/{tmp_path / 'set'}")
    with pytest.raises(ad.DataError, match=r"no (folder|JPEGImages)"):
        class_names(f"{form}/{tmp_path / 'nowhere'}")


# -- preparing --------------------------------------------------------------------------------------------------


def test_boxes_stay_where_the_image_is(tmp_path, detector):
    """A letterbox of 32 x 32: the image of 40 x 20 becomes 32 x 16 at the top, and boxes 0.8 times as large."""
    config = configure(written(tmp_path / "set", "voc"), detector)
    assert (config.image_size, config.resize, config.fill) == (32, "letterbox", (0.485, 0.456, 0.406))
    x, target = open_data(config, "validation")[0]
    assert x.shape == (3, 32, 32)
    assert torch.equal(x[:, 16:], torch.tensor([124, 116, 104]).div(255)[:, None, None].expand(3, 16, 32))
    assert target["boxes"].tolist()[0] == pytest.approx([0.8 * side for side in CAT], abs=1e-5)
    red = x[0, :16] > 0.5
    rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
    left, top, right, bottom = target["boxes"][0].tolist()
    assert abs(int(columns.min()) - left) < 1.01
    assert abs(int(columns.max()) + 1 - right) < 1.01
    assert abs(int(rows.min()) - top) < 1.01
    assert abs(int(rows.max()) + 1 - bottom) < 1.01
    assert type(target["boxes"]) is torch.Tensor  # and no subclass that follows it around


def test_a_detector_has_nothing_left_to_resize(tmp_path):
    name = written(tmp_path / "set", "voc")
    arguments = arguments_for("torchvision/fasterrcnn_resnet50_fpn", NAMES, (24, 48), {})
    assert arguments == {"num_classes": 3, "min_size": 24, "max_size": 48}
    model = faster_rcnn(min_size=24, max_size=48).eval()
    config = configure(name, model, image_size=(24, 48))
    x, target = open_data(config, "validation")[0]
    resized, _ = model.transform.resize(x, None)
    assert torch.equal(resized, x)
    assert x.shape == (3, 24, 48)
    assert target["boxes"].tolist()[0] == pytest.approx([1.2 * side for side in CAT], abs=1e-5)


def test_a_mirrored_image_has_mirrored_boxes(tmp_path, detector):
    config = configure(written(tmp_path / "set", "voc", {"0": [("cat", CAT)], "1": [("cat", CAT)]}), detector)
    batches = TrainingBatches(config, Recipe(batch_size=2, augment="flip"))
    found = set()
    for epoch in range(6):
        batches.set_epoch(epoch)
        for _, targets in batches:
            found |= {tuple(round(side, 3) for side in target["boxes"][0].tolist()) for target in targets}
    usual = [0.8 * side for side in CAT]
    mirrored = [32 - usual[2], usual[1], 32 - usual[0], usual[3]]
    assert {tuple(round(side, 3) for side in box) for box in (usual, mirrored)} == found


def test_random_crops_keep_boxes_inside(tmp_path, detector):
    config = configure(written(tmp_path / "set", "voc"), detector)
    batches = TrainingBatches(config, Recipe(batch_size=2, augment="crop", crop_scale=0.2))
    sizes = set()
    for epoch in range(20):
        batches.set_epoch(epoch)
        for images, targets in batches:
            for x, target in zip(images, targets, strict=True):
                boxes = target["boxes"]
                assert x.shape == (3, 32, 32)
                assert len(target["labels"]) == len(boxes) == len(target["iscrowd"])
                assert (boxes[:, 2:] > boxes[:, :2]).all()
                assert boxes.numel() == 0 or (boxes.min() >= 0 and boxes.max() <= 32)
                sizes |= {tuple(box) for box in (boxes[:, 2:] - boxes[:, :2]).round().int().tolist()}
    assert len(sizes) > 4


def test_an_epoch_follows_from_seed_and_number(tmp_path, detector):
    marks: Marks = {str(n): [("cat", CAT)] * (n + 1) for n in range(6)}
    config = configure(written(tmp_path / "set", "coco", marks), detector)

    def epoch(number: int) -> list[tuple[int, float]]:
        batches = TrainingBatches(config, Recipe(batch_size=2, seed=3, augment="crop"))
        batches.set_epoch(number)
        torch.manual_seed(number)
        return [
            (y["image_id"], float(x.sum())) for images, targets in batches for x, y in zip(images, targets, strict=True)
        ]

    first = epoch(1)
    assert first == epoch(1)
    assert [number for number, _ in first] != [number for number, _ in epoch(2)]
    assert sorted(number for number, _ in first) == [1, 2, 3, 4, 5, 6]


def test_workers_bring_the_same_batches(tmp_path, detector):
    config = configure(written(tmp_path / "set", "yolo"), detector)
    alone, beside = (list(create_loader(config, "validation", batch_size=2, workers=n)) for n in (0, 1))
    for (images, targets), (others, their) in zip(alone, beside, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
        assert [y["boxes"].tolist() for y in targets] == [y["boxes"].tolist() for y in their]
    assert notes_of(create_loader(config, "validation", leave_out_damaged=True, share=(0, 2))).startswith(
        "1 images have"
    )


@pytest.mark.parametrize("change", [{"mixup": 0.2}, {"cutmix": 1.0}, {"random_erasing": 0.5}, {"augment": "rand"}])
def test_what_changes_images_and_not_their_boxes_is_refused(tmp_path, change, detector):
    config = configure(written(tmp_path / "set", "yolo"), detector)
    (name,) = change
    with pytest.raises(ad.DataError, match=rf"{name}=.* (leave it out|expected one of crop, flip, none)"):
        TrainingBatches(config, Recipe(batch_size=2, **change))


# -- what models want -------------------------------------------------------------------------------------------


def test_a_configuration_with_boxes_survives_json(tmp_path, detector):
    config = configure(written(tmp_path / "set", "coco"), detector, image_size=(24, 32))
    plain = json.loads(json.dumps(config.to_json()))
    assert (plain["image_size"], plain["resize"]) == ([24, 32], "letterbox")
    assert DataConfig.from_json(plain) == config
    assert Path(config.name.removeprefix("coco/")).is_absolute()


def test_a_model_of_one_size_is_asked_for_another(tmp_path):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    name = written(tmp_path / "set", "coco")
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    config = configure(name, model)
    assert (config.image_size, config.resize, config.classes[0]) == ((320, 320), "stretch", "__background__")
    assert configure(name, model, image_size=320).image_size == 320
    with pytest.raises(
        ad.DataError, match="image_size=200: the model itself resizes images to 320 x 320, leave it out"
    ):
        configure(name, model, image_size=200)


def test_boxes_need_a_detector(tmp_path):
    name = written(tmp_path / "set", "coco")
    with pytest.raises(ad.DataError, match="a Conv2d is not a detector with a known format of boxes: expected one"):
        configure(name, torch.nn.Conv2d(3, 4, 1))


def test_detectors_of_transformers_say_what_they_want(tmp_path):
    transformers = pytest.importorskip("transformers")
    name = written(tmp_path / "set", "coco")
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[32, 48]
    )
    wanted = configure(name, transformers.YolosForObjectDetection(config))
    assert (wanted.image_size, wanted.resize, wanted.classes) == ((32, 48), "stretch", NAMES)
    assert wanted.mean == pytest.approx((0.485, 0.456, 0.406))
    told = arguments_for("transformers/YolosForObjectDetection", NAMES, None, {"config": {"hidden_size": 16}})
    assert told["config"]["id2label"] == {0: "cat", 1: "dog"}
    assert told["config"]["hidden_size"] == 16
    own = arguments_for("transformers/YolosForObjectDetection", NAMES, None, {"config": {"num_labels": 7}})
    assert own == {"config": {"num_labels": 7}}
