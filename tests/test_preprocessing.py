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
        ({"std": (0.5,)}, r"std=\(0.5,\): expected 3 numbers, one a channel"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\): expected 3 numbers, one a channel"),
        ({"image_size": 0}, "image_size=0: expected a number of pixels above 0"),
        ({"crop_pct": 0.0}, "crop_pct=0.0: expected a part, above 0 and at most 1"),
        ({"crop_pct": 1.5}, "crop_pct=1.5: expected a part, above 0 and at most 1"),
    ],
)
def test_a_value_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ad.DataError, match=f"^preprocessing has {message}"):
        replace(COLOUR, **change)


def test_it_survives_json_and_is_found_in_a_data_configuration() -> None:
    assert ad.Preprocessing.of(COLOUR.to_json()) == COLOUR
    config = DataConfig("/home/me/x", None, 32, 1, (0.5,), (0.5,), "bicubic", 1.0, ("a", "b"))
    assert ad.Preprocessing.of(config) == ad.Preprocessing(32, 1, (0.5,), (0.5,), "bicubic", 1.0, ("a", "b"))
