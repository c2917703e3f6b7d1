"""Folders of images and masks: the layouts, the numbers in masks, what is damaged, and how both are prepared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import adaptive_depth as ad
from adaptive_depth.data import DataConfig, arguments_for, check_fit, class_names, configure, create_loader, open_data
from adaptive_depth.data.sets import open_set
from adaptive_depth.training.images import TrainingBatches
from adaptive_depth.training.recipe import Recipe

WIDTH, HEIGHT = 16, 12


def pair(images: Path, masks: Path, name: str, *, most: int = 2) -> None:
    """An image whose red is 60 times the number in its mask: columns of 0, 1, 2, ..., the last one of no class."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    numbers = np.tile(np.arange(WIDTH) * (most + 1) // WIDTH, (HEIGHT, 1)).astype(np.uint8)
    Image.fromarray(np.stack([60 * numbers, 0 * numbers, 0 * numbers], 2)).save(images / f"{name}.png")
    numbers[:, -1] = 255
    Image.fromarray(numbers).save(masks / f"{name}.png")


@pytest.fixture
def folder(tmp_path):
    """Three classes; 4 images to train on, 2 to validate."""
    for split, count in (("train", 4), ("val", 2)):
        for n in range(count):
            pair(tmp_path / "set" / "images" / split, tmp_path / "set" / "masks" / split, f"{n}")
    return tmp_path / "set"


class Pixels(nn.Module):
    """One convolution: logits of each pixel."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 1)

    def forward(self, x):
        return {"out": self.convolution(x)}


# -- reading ----------------------------------------------------------------------------------------------------


def test_classes_are_numbers_or_what_a_file_names(folder):
    name = f"masks/{folder}"
    assert class_names(name) == ("0", "1", "2")
    image, mask = open_set(name, None, "validation", False)[0]
    assert image.size == (WIDTH, HEIGHT)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.unique().tolist() == [0, 1, 2, 255]
    (folder / "classes.txt").write_text("road\ncar\ntree\nsky\n")
    assert class_names(name) == ("road", "car", "tree", "sky")
    (folder / "classes.txt").write_text("road\ncar\nroad\n")
    with pytest.raises(ad.DataError, match=r"classes\.txt has a name twice"):
        class_names(name)


@pytest.mark.parametrize(
    ("images", "masks"),
    [("train/images", "train/masks"), ("images/training", "annotations/training"), ("train/img", "train/labels")],
)
def test_layouts(tmp_path, images, masks):
    for n in range(2):
        pair(tmp_path / images, tmp_path / masks, f"{n}")
    data = open_set(f"masks/{tmp_path}", None, "train", False)
    assert len(data) == 2
    assert data[1][1].unique().tolist() == [0, 1, 2, 255]


def test_another_number_is_ignored(folder):
    """Class 2 is to be ignored: its pixels, and those of 255, become 2."""
    name = f"masks/{folder}"
    assert class_names(name, ignored=2) == ("0", "1")
    config = configure(name, Pixels(2), image_size=(HEIGHT, WIDTH), ignored=2)
    assert config.ignored == 2
    _, mask = open_data(config, "validation")[0]
    assert mask.unique().tolist() == [0, 1, 2]
    assert (mask == 2).float().mean() == pytest.approx(5 / 16)


def test_palettes_are_read_as_numbers(folder):
    path = folder / "masks" / "val" / "0.png"
    numbers = np.asarray(Image.open(path))
    palette = Image.fromarray(numbers).convert("P")
    palette.putpalette([7, 8, 9] * 256)
    palette.save(path)
    with Image.open(path) as opened:
        assert (opened.mode, opened.getpalette()[:3]) == ("P", [7, 8, 9])
    assert open_set(f"masks/{folder}", None, "validation", False)[0][1].unique().tolist() == [0, 1, 2, 255]


# -- what is wrong ----------------------------------------------------------------------------------------------


def replaced(mask: Path, how: str) -> None:
    pixels = np.asarray(Image.open(mask)).copy()
    if how == "missing":
        mask.unlink()
    elif how == "cut off":
        mask.write_bytes(mask.read_bytes()[:40])
    elif how == "another size":
        Image.fromarray(pixels[:-1]).save(mask)
    elif how == "beyond":
        pixels[0, :2] = (7, 9)
        Image.fromarray(pixels).save(mask)
    else:
        Image.fromarray(pixels).convert("RGB").save(mask)


WRONG = [
    ("missing", r"mask .*1\.png cannot be read \(.*No such file.*\): remove its image, or replace the mask"),
    ("cut off", r"mask .*1\.png cannot be read"),
    (
        "another size",
        r"mask .*1\.png has 16 x 11 pixels, but its image .*1\.png 16 x 12: remove both, or redo the mask",
    ),
    (
        "beyond",
        r"mask .*1\.png has the numbers 7, 9: expected 0 to 2 for the classes, and 255 for pixels of none; name its "
        r'class in classes\.txt or, if it stands for no class, .* \(--task "segmentation\(ignore_index=9\)"\)',
    ),
    ("colours", r"mask .*1\.png is a picture of mode RGB: expected one number per pixel"),
]


@pytest.mark.parametrize(("how", "message"), WRONG, ids=[how for how, _ in WRONG])
def test_a_damaged_mask_is_left_out_of_training_and_told_and_stops_a_validation(folder, how, message):
    (folder / "classes.txt").write_text("road\ncar\ntree\n")
    config = configure(f"masks/{folder}", Pixels(), image_size=(HEIGHT, WIDTH))
    for split in ("train", "val"):
        replaced(folder / "masks" / split / "1.png", how)
    batches = TrainingBatches(config, Recipe(batch_size=4, skip_damaged=0.25))
    ((images, masks),) = list(batches)
    assert (images.shape, masks.shape) == ((3, 3, HEIGHT, WIDTH), (3, HEIGHT, WIDTH))
    with pytest.raises(ad.DataError, match=message):
        raise ad.DataError(batches.damaged["image 1"])
    with pytest.raises(ad.DataError, match=message):
        list(create_loader(config, "validation"))
    with pytest.raises(ad.DataError, match=r"1 of 4 training images cannot be read, more than skip_"):
        list(TrainingBatches(config, Recipe(batch_size=4)))


def test_a_damaged_image_is_named(folder):
    path = folder / "images" / "val" / "1.png"
    path.write_bytes(b"no image")
    with pytest.raises(ad.DataError, match=r"image .*1\.png cannot be read"):
        _ = open_set(f"masks/{folder}", None, "validation", False)[1]


def test_folders_that_are_missing_or_do_not_go_together(tmp_path, folder):
    with pytest.raises(ad.DataError, match=r"there is no folder .*nowhere.*expected images/train/ and masks/train/"):
        class_names(f"masks/{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ad.DataError, match="has no train part: expected images/train/ and masks/train/"):
        class_names(f"masks/{tmp_path / 'empty'}")
    for path in (folder / "masks" / "train").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    with pytest.raises(ad.DataError, match=r"no image of .* has a mask of its name in .*, such as 0\.png"):
        class_names(f"masks/{folder}")


def test_masks_of_0_and_255_have_one_class_only(folder):
    for path in (folder / "masks" / "train").iterdir():
        pixels = np.asarray(Image.open(path))
        Image.fromarray(np.where(pixels > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(
        ad.DataError, match=r"have 1 class besides 255 .*: expected two or more.* 0 and 1 instead of 0 and 255"
    ):
        class_names(f"masks/{folder}")


def test_other_classes_than_those_trained_on(folder):
    config = configure(f"masks/{folder}", Pixels(), image_size=12)
    (folder / "classes.txt").write_text("road\ncar\ntree\n")
    with pytest.raises(ad.DataError, match="has classes that were not trained on: car, road, tree"):
        open_data(config, "validation")


# -- preparing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["flip", "crop", None])
def test_masks_stay_where_their_images_are(folder, augment):
    config = configure(f"masks/{folder}", Pixels(), image_size=(24, 32), interpolation="nearest")
    batches = TrainingBatches(config, Recipe(batch_size=4, augment=augment))
    seen = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        for images, masks in batches:
            assert (images.shape, masks.shape, masks.dtype) == ((4, 3, 24, 32), (4, 24, 32), torch.int64)
            red = images[:, 0] * config.std[0] + config.mean[0]
            known = masks != 255
            assert (red[known] * 255 / 60).round().long().tolist() == masks[known].tolist()
            seen += [tuple(mask[0].tolist()) for mask in masks]
    assert len(set(seen)) == 2 if augment == "flip" else len(set(seen)) > 2


def test_evaluation_takes_all_of_an_image_and_no_chance(folder):
    config = configure(f"masks/{folder}", Pixels(), image_size=(24, 32))
    assert (config.resize, config.interpolation, config.crop_pct) == ("stretch", "bilinear", 1.0)
    (x, mask), (again, _) = (open_data(config, "validation")[0] for _ in range(2))
    assert torch.equal(x, again)
    expected = np.asarray(Image.open(folder / "masks" / "val" / "0.png").resize((32, 24), Image.Resampling.NEAREST))
    assert np.array_equal(mask, expected)
    image = Image.open(folder / "images" / "val" / "0.png")
    assert torch.allclose(config.preprocessing.transform()(image), x, atol=1e-6)


def test_an_epoch_follows_from_seed_and_number(folder):
    config = configure(f"masks/{folder}", Pixels(), image_size=(24, 32))

    def epoch(number: int, seed: int) -> list[tuple[list[int], float]]:
        batches = TrainingBatches(config, Recipe(batch_size=2, seed=seed))
        assert batches.indices is not None
        batches.set_epoch(number)
        torch.manual_seed(1)
        return [(batches.indices(n), float(images.sum())) for n, (images, _) in enumerate(batches)]

    first = epoch(1, 0)
    assert first == epoch(1, 0)
    assert [which for which, _ in first] != [which for which, _ in epoch(2, 0)]
    assert [which for which, _ in first] != [which for which, _ in epoch(1, 5)]


def test_a_configuration_with_masks_survives_json(folder):
    config = configure(f"masks/{folder}", Pixels(), image_size=(24, 32), ignored=7)
    assert DataConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    one_class = configure("digits", nn.Conv2d(1, 2, 1)).to_json()
    assert not {"resize", "fill", "ignored", "outlined"} & set(one_class)  # as older versions read it


def test_a_model_of_other_classes_is_refused(folder):
    config = configure(f"masks/{folder}", Pixels(), image_size=(24, 32))
    check_fit(Pixels(), config)
    with pytest.raises(
        ad.DataError, match=r"the network has 5 outputs, but the data .* has 3 classes: build the model with"
    ):
        check_fit(Pixels(5), config)


def test_what_models_want_of_images_with_masks(folder):
    name = f"masks/{folder}"
    assert configure(name, Pixels()).image_size == 512
    assert arguments_for("torchvision/fcn_resnet50", ("0", "1", "2"), 96, {}) == {"num_classes": 3}
    with pytest.raises(ad.DataError, match="resize=600: images with boxes or masks are not cropped, leave it out"):
        configure(name, Pixels(), resize=600)
    with pytest.raises(ad.DataError, match=r"image_size=\(24, 32\): images with one class each are cropped to a sq"):
        configure("digits", nn.Conv2d(1, 2, 1), image_size=(24, 32))


def test_segformer_says_what_it_wants(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    wanted = configure(f"masks/{folder}", model)
    assert (wanted.image_size, wanted.resize) == (512, "stretch")
    assert wanted.mean == pytest.approx((0.485, 0.456, 0.406))
    check_fit(model, configure(f"masks/{folder}", model, image_size=64))
