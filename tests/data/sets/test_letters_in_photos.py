"""data/sets/letters_in_photos.py: always the same images, and no font or part of a photograph in both splits."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import ImageFont
from sklearn.datasets import load_sample_images
from torch import nn

from adaptive_depth.data import CHARACTERS, class_names, configure, create_loader
from adaptive_depth.data.sets import LettersInPhotos, letters_in_photos, locate, open_set


@pytest.fixture
def undrawn():
    """What was drawn is remembered: here it is forgotten, before and after."""
    letters_in_photos._draw.cache_clear()
    yield
    letters_in_photos._draw.cache_clear()


def test_sizes_classes_and_that_images_are_the_same_each_time(undrawn):
    train, test = (open_set("letters_in_photos", None, split, download=False) for split in ("train", "validation"))
    assert isinstance(train, LettersInPhotos)
    assert (len(train), len(test)) == (20_000, 8_000)
    assert class_names("letters_in_photos") == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert np.bincount(test.labels).min() > 200
    image, label = test[0]
    assert (image.size, image.mode, label) == ((32, 32), "L", test.labels[0])
    drawn = test.images.copy()
    letters_in_photos._draw.cache_clear()
    assert np.array_equal(LettersInPhotos("validation").images, drawn)


def test_what_is_drawn_cannot_be_changed_for_others():
    with pytest.raises(ValueError, match="read-only"):
        LettersInPhotos("validation").images[0, 0, 0] = 1


def test_photographs_are_shared_out_by_columns(monkeypatch):
    """Photographs whose grey value is their column: no value of the one split is in the other."""
    photos = load_sample_images()
    columns = np.linspace(0, 255, 640).astype(np.uint8)
    photos.images = [np.broadcast_to(columns[None, :, None], (427, 640, 3))] * 2
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: photos)
    patches = {
        split: letters_in_photos._photo_patches(split, 500, torch.Generator().manual_seed(0))
        for split in ("train", "validation")
    }
    for split, (left, right) in letters_in_photos._PHOTO_COLUMNS.items():
        values = patches[split] * 255
        assert left * 255 - 1 <= values.min() < left * 255 + 10, split
        assert right * 255 - 10 < values.max() <= right * 255 + 1, split


def test_every_letter_of_every_font_of_the_split_and_none_of_the_others(monkeypatch):
    opened, truetype = [], ImageFont.truetype

    def remembered(path, size):
        opened.append(path.stem)
        return truetype(path, size)

    monkeypatch.setattr(letters_in_photos.ImageFont, "truetype", remembered)
    fonts = {}
    for split in ("train", "validation"):
        opened.clear()
        glyphs, labels = letters_in_photos._glyphs(split)
        fonts[split] = set(opened)
        assert glyphs.shape == (52 * len(opened), 22, 22)
        assert np.bincount(labels).tolist() == [2 * len(opened)] * 26  # capital and small
    assert (len(fonts["train"]), len(fonts["validation"])) == (16, 5)
    assert not fonts["train"] & fonts["validation"]


def test_a_letter_fills_its_square_and_is_not_cut():
    """An I is a bar as high as the square, an O touches its top and bottom, and a W both sides."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 44)
    bar, ring, wide = (letters_in_photos._fitted(letter, font) for letter in "IOW")
    assert bar[:, 10].min() > 200
    assert bar[:, :6].max() == bar[:, -6:].max() == 0
    assert all(edge.max() > 60 for edge in (ring[0], ring[-1], wide[:, 0], wide[:, -1]))
    assert ring[11, 11] == 0
    assert np.abs(ring.astype(int) - ring[:, ::-1]).mean() < 12


def test_a_letter_that_is_not_warped_is_the_letter_scaled(monkeypatch):
    for name, value in {"_LETTER_SIDE": (0.8, 0.8), "_SHIFT": 0, "_ROTATION": 0, "_SHEAR": 0, "_STRETCH": 0}.items():
        monkeypatch.setattr(letters_in_photos, name, value)
    white = letters_in_photos._warped(torch.ones(1, 8, 8), torch.Generator().manual_seed(0))[0]
    # With its border of one pixel a letter of 8 pixels has 10 on 0.8 * 32; 8 of them, 20.5 pixels of it, are white.
    assert 20 <= white[16].sum() <= 21
    assert 20 <= white[:, 16].sum() <= 21
    assert white[:3].max() == 0
    assert torch.allclose(white, white.flip(0), atol=1e-5)
    assert torch.allclose(white, white.T, atol=1e-5)


def test_a_shift_moves_the_letter_within_its_limit(monkeypatch):
    for name, value in {
        "_LETTER_SIDE": (0.5, 0.5),
        "_ROTATION": 0,
        "_SHEAR": 0,
        "_STRETCH": 0,
        "_SHIFT": 0.125,
    }.items():
        monkeypatch.setattr(letters_in_photos, name, value)
    white = letters_in_photos._warped(torch.ones(300, 8, 8), torch.Generator().manual_seed(0))
    places = torch.arange(32.0) - 15.5
    centres = (white.sum(dim=1) * places).sum(dim=1) / white.sum(dim=(1, 2))
    assert 3.5 < centres.abs().max() <= 4.05
    assert centres.min() < -3.5 < 3.5 < centres.max()


def test_prepared_as_characters_at_their_own_size_and_known_without_a_root():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 26))
    config = configure("letters_in_photos", model)
    assert (config.image_size, config.channels, config.root) == (32, 1, None)
    assert locate("letters_in_photos", None) == ("letters_in_photos", None)
    assert "letters_in_photos" in CHARACTERS
    x, _ = next(iter(create_loader(config, "validation", batch_size=3)))
    assert x.shape == (3, 1, 32, 32)
    pixels = (x[0, 0] * config.std[0] + config.mean[0]) * 255
    assert np.abs(pixels.numpy() - LettersInPhotos("validation").images[0]).max() < 0.01
