"""image_sets/digits_in_photos.py: always the same images, and no digit or part of a photograph in both splits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from adaptive_depth.data import CHARACTERS, class_names, configure, create_loader
from adaptive_depth.image_sets import Digits, DigitsInPhotos, digits_in_photos, locate, open_set


@pytest.fixture
def undrawn():
    """What was drawn is remembered: here it is forgotten, before and after."""
    digits_in_photos._draw.cache_clear()
    yield
    digits_in_photos._draw.cache_clear()


def test_sizes_classes_and_that_images_are_the_same_each_time(undrawn):
    train, test = (open_set("digits_in_photos", None, split, download=False) for split in ("train", "validation"))
    assert isinstance(train, DigitsInPhotos)
    assert (len(train), len(test)) == (10_000, 2_000)
    assert class_names("digits_in_photos") == tuple("0123456789")
    assert np.bincount(test.labels).min() > 150
    image, label = test[0]
    assert (image.size, image.mode, label) == ((32, 32), "L", test.labels[0])
    drawn = test.images.copy()
    digits_in_photos._draw.cache_clear()
    assert np.array_equal(DigitsInPhotos("validation").images, drawn)


def test_what_is_drawn_cannot_be_changed_for_others():
    with pytest.raises(ValueError, match="read-only"):
        DigitsInPhotos("validation").images[0, 0, 0] = 1


def test_photographs_are_shared_out_by_columns(monkeypatch):
    """Photographs whose grey value is their column: no value of the one split is in the other."""
    photos = load_sample_images()
    columns = np.linspace(0, 255, 640).astype(np.uint8)
    photos.images = [np.broadcast_to(columns[None, :, None], (427, 640, 3))] * 2
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: photos)
    patches = {
        split: digits_in_photos._photo_patches(split, 500, torch.Generator().manual_seed(0))
        for split in ("train", "validation")
    }
    for split, (left, right) in digits_in_photos._PHOTO_COLUMNS.items():
        values = patches[split] * 255
        assert left * 255 - 1 <= values.min() < left * 255 + 10, split
        assert right * 255 - 10 < values.max() <= right * 255 + 1, split


def test_digits_are_those_of_the_same_split(monkeypatch):
    asked = []

    def remembered(split):
        asked.append(split)
        return Digits(split)

    monkeypatch.setattr(digits_in_photos, "Digits", remembered)
    for split in ("train", "validation"):
        _, labels = digits_in_photos._draw.__wrapped__(split)
        assert set(labels) == set(range(10))
    assert asked == ["train", "validation"]


def test_a_digit_that_is_not_warped_is_the_digit_scaled(monkeypatch):
    for name, value in {"_DIGIT_SIDE": (0.8, 0.8), "_SHIFT": 0, "_ROTATION": 0, "_SHEAR": 0, "_STRETCH": 0}.items():
        monkeypatch.setattr(digits_in_photos, name, value)
    white = digits_in_photos._warped(torch.ones(1, 8, 8), torch.Generator().manual_seed(0))[0]
    # With its border of one pixel the digit has 10 pixels on 0.8 * 32; 8 of them, 20.5 pixels of the image, are white.
    assert 20 <= white[16].sum() <= 21
    assert 20 <= white[:, 16].sum() <= 21
    assert white[:3].max() == 0
    assert torch.allclose(white, white.flip(0), atol=1e-5)
    assert torch.allclose(white, white.T, atol=1e-5)


def test_a_shift_moves_the_digit_within_its_limit(monkeypatch):
    for name, value in {"_DIGIT_SIDE": (0.5, 0.5), "_ROTATION": 0, "_SHEAR": 0, "_STRETCH": 0, "_SHIFT": 0.125}.items():
        monkeypatch.setattr(digits_in_photos, name, value)
    white = digits_in_photos._warped(torch.ones(300, 8, 8), torch.Generator().manual_seed(0))
    places = torch.arange(32.0) - 15.5
    centres = (white.sum(dim=1) * places).sum(dim=1) / white.sum(dim=(1, 2))
    assert 3.5 < centres.abs().max() <= 4.05
    assert centres.min() < -3.5 < 3.5 < centres.max()


def test_prepared_as_characters_at_their_own_size_and_known_without_a_root():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    config = configure("digits_in_photos", model)
    assert (config.image_size, config.channels, config.root) == (32, 1, None)
    assert locate("digits_in_photos", None) == ("digits_in_photos", None)
    assert "digits_in_photos" in CHARACTERS
    x, _ = next(iter(create_loader(config, "validation", batch_size=3)))
    assert x.shape == (3, 1, 32, 32)
    pixels = (x[0, 0] * config.std[0] + config.mean[0]) * 255
    assert np.abs(pixels.numpy() - DigitsInPhotos("validation").images[0]).max() < 0.01
