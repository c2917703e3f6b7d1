"""data.py: which images, in which split, prepared how; and one clear error for what cannot be read."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import adaptive_depth as ad
from adaptive_depth.data import (
    DataConfig,
    Digits,
    check_fit,
    class_names,
    configure,
    create_loader,
    notes_of,
    open_data,
)
from adaptive_depth.data.sets.indexed import decode
from adaptive_depth.deploy.preparing import read_image
from adaptive_depth.preprocessing import in_mode

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python


@pytest.fixture
def folder(tmp_path):
    """Three classes of colour: 6 images each to train on, 3 to validate; class `c` has none to validate."""
    colours = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    for part, count in (("train", 6), ("val", 3)):
        for name, colour in colours.items():
            if (part, name) == ("val", "a"):
                continue
            place = tmp_path / "set" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 30), colour).save(place / f"{number}.png")
    return tmp_path / "set"


def tiny(channels=3, classes=10):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def write_mnist(root: Path, count: int = 12) -> None:
    """Files of torchvision's MNIST kind: a magic number, the sizes, and bytes."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = np.full((count, 28, 28), 51, np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes())
        labels = bytes(number % 10 for number in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)


# -- digits -----------------------------------------------------------------------------------------------------


def test_digits_have_a_fixed_stratified_split_without_common_images():
    train, test = Digits("train"), Digits("validation")
    assert (len(train), len(test)) == (1297, 500)
    assert np.array_equal(test.images, Digits("validation").images)
    shares = np.bincount(test.labels) / 500 - np.bincount(train.labels) / 1297
    assert np.abs(shares).max() < 0.002
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in test.images) == 0


def test_digits_are_upscaled_and_normalised():
    config = configure("digits", tiny(channels=1))
    x, y = next(iter(create_loader(config, "validation", batch_size=7)))
    assert x.shape == (7, 1, 32, 32)
    assert y.dtype == torch.int64
    black = (0 - config.mean[0]) / config.std[0]
    white = (1 - config.mean[0]) / config.std[0]
    assert x.min() == pytest.approx(black, abs=1e-5)
    assert white - 0.2 < x.max() <= white + 1e-5


def test_grey_images_become_colour_for_a_colour_network():
    config = configure("digits", tiny(channels=3))
    x, _ = open_data(config, "validation")[0]
    assert x.shape == (3, 32, 32)
    grey = x * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
    assert grey[0].allclose(grey[2], atol=1e-5)


# -- the configuration ------------------------------------------------------------------------------------------


def test_configuration_survives_json():
    config = configure("digits", tiny())
    assert DataConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("wrong", [{"name": "digits"}, {"colour": 1}, ["digits"]])
def test_wrong_configuration_names_the_fields(wrong):
    with pytest.raises(ad.DataError, match=r"^data config .*expected an object with name, root, image_size"):
        DataConfig.from_json(wrong)


def test_defaults_come_from_timms_configuration_of_the_model(folder):
    model = timm.create_model("resnet18", num_classes=3)
    config = configure(str(folder), model)
    assert (config.image_size, config.channels) == (224, 3)
    assert config.mean == tuple(model.pretrained_cfg["mean"])
    assert config.crop_pct == model.pretrained_cfg["crop_pct"]
    adapted = configure(str(folder), ad.adapt(model), image_size=64)
    assert (adapted.image_size, adapted.crop_pct) == (64, config.crop_pct)


def test_a_grey_model_gets_one_mean(folder):
    config = configure(str(folder), timm.create_model("resnet18", in_chans=1))
    assert config.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert open_data(config, "train")[0][0].shape[0] == 1


# -- folders and timm's names -----------------------------------------------------------------------------------


def test_image_folder_labels_agree_between_the_parts(folder):
    """The validation part lacks class a: its b must still be label 1, not 0."""
    config = configure(str(folder), tiny(), image_size=16)
    assert config.classes == ("a", "b", "c")
    assert sorted({label for _, label in open_data(config, "validation")}) == [1, 2]
    x, label = open_data(config, "validation")[0]
    pixels = x * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
    assert pixels.mean(dim=(1, 2)).round().tolist() == [0.0, 1.0, 0.0]  # b is green
    assert label == 1


@pytest.mark.parametrize("name", ["validation", "valid", "test"])
def test_validation_part_has_several_names(folder, name):
    (folder / "val").rename(folder / name)
    config = configure(str(folder), tiny())
    assert len(open_data(config, "validation")) == 6


def test_named_sets_of_torchvision(tmp_path):
    write_mnist(tmp_path)
    config = configure("torch/fashion_mnist", tiny(channels=3), root=tmp_path, image_size=28)
    assert len(config.classes) == 10
    x, _ = next(iter(create_loader(config, "train", batch_size=5)))
    assert x.shape == (5, 3, 28, 28)
    assert len(create_loader(config, "validation", batch_size=5)) == 3


def test_an_image_that_cannot_be_read_is_named(folder):
    path = sorted((folder / "val").rglob("*.png"))[0]
    path.write_bytes(b"no image")
    config = configure(str(folder), tiny(), image_size=16)
    with pytest.raises(ad.DataError, match=f"image .*{path.name} cannot be read .*remove or replace it"):
        list(create_loader(config, "validation", batch_size=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_torchvision_that_cannot_be_read_is_named(tmp_path, workers):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    (tmp_path / "val" / "b" / "0.png").write_bytes(b"no image")
    config = configure("torch/image_folder", tiny(), root=tmp_path, image_size=8)
    assert config.classes == ("a", "b")
    with pytest.raises(
        ad.DataError, match=r"^image 1 of torch/image_folder cannot be read [^\n]*remove or replace it$"
    ):
        list(create_loader(config, "validation", workers=workers))


def test_shares_hold_each_image_once(folder):
    config = configure(str(folder), tiny(), image_size=8)
    whole = [label for _, label in open_data(config, "train")]
    for index in range(4):
        part = create_loader(config, "train", batch_size=2, share=(index, 4))
        assert torch.cat([y for _, y in part]).tolist() == whole[index::4]
        assert len(part.dataset) == len(whole[index::4])
    with pytest.raises(ad.DataError, match=r"share=\(4, 4\): expected \(index, count\)"):
        create_loader(config, "train", share=(4, 4))


def test_sizes_of_a_recipe(folder):
    config = configure(str(folder), tiny(), image_size=24, resize=32, interpolation="bilinear")
    assert (config.image_size, config.crop_pct, config.interpolation) == (24, 0.75, "bilinear")
    with pytest.raises(ad.DataError, match="resize=16: expected at least the image size, 24 pixels"):
        configure(str(folder), tiny(), image_size=24, resize=16)


# -- what the user may get wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "root", "said"),
    [
        ("digit", None, "neither a folder nor a known name; did you mean digits"),
        ("no/such/folder", None, "neither a folder nor a known name"),
        ("torch/cifar10", None, "needs a root"),
        ("torch/cifar10", "{}/nowhere", "is not a folder"),
        ("torch/cifar10", "{}", "cannot be read from .*not found"),
        ("torch/cifar11", "{}", "did you mean torch/cifar10"),
        ("{}", None, "has no train part: expected train/ or training/"),
    ],
)
def test_data_that_cannot_be_read(tmp_path, name, root, said):
    with pytest.raises(ad.DataError, match=said):
        class_names(name.format(tmp_path), root=root and root.format(tmp_path))


def test_folder_without_a_validation_part_does_not_fall_back_on_the_training_images(folder):
    (folder / "val").rename(folder / "elsewhere")
    with pytest.raises(ad.DataError, match="has no validation part"):
        open_data(configure(str(folder), tiny()), "validation")


def test_empty_folder(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(ad.DataError, match="has a folder 'a' without images: expected images of that class"):
        class_names(str(tmp_path))
    (tmp_path / "train" / "a").rmdir()
    with pytest.raises(ad.DataError, match="holds no images: expected one folder per class"):
        class_names(str(tmp_path))


def test_images_outside_of_the_folders_of_classes_are_named(folder):
    shutil.copy(next((folder / "train" / "a").iterdir()), folder / "train" / "loose.png")
    with pytest.raises(
        ad.DataError, match=r"train' holds images itself \(loose.png\): expected them in one folder per"
    ):
        class_names(str(folder))


def test_what_is_not_looked_at_or_missing_is_said(folder):
    shutil.copytree(folder / "val", folder / "test")
    shutil.rmtree(folder / "val" / "b")
    config = configure(str(folder), tiny())
    missing = [each for each in config.classes if not (folder / "val" / each).exists()]
    assert "b" in missing
    assert notes_of(create_loader(config, "validation")).splitlines() == [
        "taken from val/; those in test/ are not used",
        f"none of the classes {', '.join(missing)}" if len(missing) > 1 else f"none of the class {missing[0]}",
    ]
    assert len(create_loader(config, "test").dataset) == len(list((folder / "test").rglob("*.png")))
    shutil.rmtree(folder / "val")
    assert notes_of(create_loader(config, "validation")).splitlines()[0] == f"taken from {folder / 'test'}/"


def test_images_of_16_bits_are_scaled(tmp_path):
    """Pillow alone would make everything white that is brighter than 1/256."""
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        assert list(np.asarray(in_mode(opened, "RGB"))[0, :, 0]) == [0, 100, 255]
    assert list(np.asarray(read_image(tmp_path / "deep.png"))[0, :, 1]) == [0, 100, 255]
    assert list(np.asarray(decode(open(tmp_path / "deep.png", "rb")))[0, :, 2]) == [0, 100, 255]  # noqa: PTH123, SIM115


def test_validation_classes_that_were_not_trained_on(folder):
    (folder / "val" / "b").rename(folder / "val" / "zebra")
    with pytest.raises(ad.DataError, match="not trained on: zebra"):
        open_data(configure(str(folder), tiny()), "validation")


def test_wrong_split_batch_size_and_channels():
    config = configure("digits", tiny(channels=1))
    with pytest.raises(ad.DataError, match="split 'dev': expected one of train, validation"):
        open_data(config, "dev")
    with pytest.raises(ad.DataError, match="batch_size=0"):
        create_loader(config, "train", batch_size=0)
    with pytest.raises(ad.DataError, match="takes 4 channels: expected 1"):
        configure("digits", tiny(channels=4))
    with pytest.raises(ad.DataError, match="image_size=0"):
        configure("digits", tiny(), image_size=0)


def test_fit_of_network_and_data():
    network = tiny(channels=1, classes=7)
    with pytest.raises(ad.DataError, match=r"7 outputs, but the data 'digits' has 10 classes: .*num_classes=10"):
        check_fit(network, configure("digits", network))
    with pytest.raises(ad.DataError, match=r"does not take images of shape \[3, 32, 32\]"):
        check_fit(network, configure("digits", tiny(channels=3)))
    fitting = tiny(channels=1).train()
    check_fit(fitting, configure("digits", fitting))
    assert fitting.training
