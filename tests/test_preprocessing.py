"""`preprocessing.py`: one value for runs, the Hub and exported files; images are prepared in `deploy/preparing.py`."""

from dataclasses import replace

import pytest

import adaptive_depth as ad
from adaptive_depth.data import DataConfig

COLOUR = ad.Preprocessing(48, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "cubic"}, "interpolation='cubic': expected one of nearest, bilinear, bicubic"),
        ({"channels": 4}, r"channels=4: expected 1 \(grey\) or 3 \(colour\)"),
        ({"std": (0.5,)}, r"std=\(0.5,\): expected 3 numbers, one per channel"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\): expected 3 numbers, one per channel"),
        ({"image_size": 0}, "image_size=0: expected a number of pixels above 0"),
        (
            {"image_size": 10**9},
            "image_size=1000000000: expected a number of pixels above 0, such as 224, and at most",
        ),
        ({"std": (0.5, -0.5, 0.5)}, r"std=\(0.5, -0.5, 0.5\): expected 3 numbers, one per channel, above 0"),
        (
            {"crop_pct": 1e-9},
            "image_size=48 and crop_pct=1e-09, a crop of images of 4.8e.10 pixels: expected at most",
        ),
        ({"crop_pct": 0.0}, "crop_pct=0.0: expected a fraction above 0 and at most 1"),
        ({"crop_pct": 1.5}, "crop_pct=1.5: expected a fraction above 0 and at most 1"),
    ],
)
def test_a_value_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ad.DataError, match=f"^preprocessing has {message}"):
        replace(COLOUR, **change)


def test_it_survives_json_and_is_found_in_a_data_configuration() -> None:
    assert ad.Preprocessing.of(COLOUR.to_json()) == COLOUR
    config = DataConfig("/home/me/x", None, 32, 1, (0.5,), (0.5,), "bicubic", 1.0, ("a", "b"))
    assert ad.Preprocessing.of(config) == ad.Preprocessing(32, 1, (0.5,), (0.5,), "bicubic", 1.0, ("a", "b"))


@pytest.mark.parametrize(
    "change", [{"mean": ["x"]}, {"crop_pct": 1e-9}, {"image_size": 10**9}, {"std": [-1.0]}, {"mean": [float("nan")]}]
)
def test_what_a_run_says_of_its_images_is_checked_when_it_is_read(change: dict[str, object]) -> None:
    plain = DataConfig("x", None, 32, 1, (0.5,), (0.5,), "bicubic", 1.0, ("a", "b")).to_json()
    assert DataConfig.from_json(plain).image_size == 32
    with pytest.raises(ad.DataError):
        DataConfig.from_json(plain | change)
