"""A stream of images through a session that is made by hand, and what is counted of it."""

import json

import numpy as np
import pytest
from PIL import Image

from adaptive_depth import Row, TradeOffs
from adaptive_depth.deploy.predictions import Reader
from adaptive_depth.deploy.sources import Picture
from adaptive_depth.deploy.streaming import Fixed, Pass, Tally, stream
from adaptive_depth.errors import ArtifactError, DataError
from adaptive_depth.governor.governor import Governor
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality

PREPROCESSING = Preprocessing(2, 1, (0.0,), (1.0,))
TABLE = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))


def pictures(*levels):
    return [Picture(f"{level}.png", Image.new("L", (2, 2), level)) for level in levels]


class Device:
    """Takes its latencies one after the other; returns the logits 0 and the image's level; None fails."""

    def __init__(self, *latencies):
        self.latencies, self.now, self.skips = list(latencies), 0.0, []

    def __call__(self, x, skip):
        assert x.shape == (1, 1, 2, 2)
        self.skips.append(skip)
        latency = self.latencies.pop(0)
        if latency is None:
            raise ArtifactError(f"broken at pass {len(self.skips)}")
        self.now += latency / 1000
        return np.array([[0.0, x[0, 0, 0, 0]]], np.float32)

    def clock(self):
        return self.now


def test_each_image_is_prepared_run_timed_and_named():
    device = Device(5.0, 7.0)
    labels = ("night", "day")
    first, second = stream(
        device, pictures(0, 255), PREPROCESSING, Fixed("FT"), read=Reader(labels), clock=device.clock
    )
    assert (first.image, first.skip, first.latency_ms) == ("0.png", "FT", pytest.approx(5.0))
    assert [each.values for each in first.predictions] == [{"class": "night", "score": 0.5}]
    assert (second.latency_ms, str(second.predictions[0])) == (pytest.approx(7.0), "day 73.1 %")
    assert second.predictions[0].values["score"] == pytest.approx(np.e / (1 + np.e))  # softmax of 0 and 1
    assert device.skips == ["FT", "FT"]


def test_classes_without_names_have_numbers():
    device = Device(5.0, 5.0)
    named = list(stream(device, pictures(255, 255), PREPROCESSING, Fixed("F"), read=Reader(("one", "two", "three"))))
    assert [passed.predictions[0].values["class"] for passed in named] == ["class 1", "class 1"]


def test_a_governor_picks_from_what_passes_took():
    device = Device(20.0, 45.0, 18.0)
    governor = Governor(TABLE, target_ms=30, clock=device.clock)
    passes = list(stream(device, pictures(1, 2, 3), PREPROCESSING, governor, clock=device.clock))
    assert [passed.skip for passed in passes] == ["F", "F", "T"]
    assert [seen.latency_ms for decision in governor.log for seen in decision.seen] == pytest.approx([20.0, 45.0])


def test_a_backend_that_fails_goes_on():
    device = Device(20.0, None, 21.0)
    governor = Governor(TABLE, target_ms=30, clock=device.clock)
    good, bad, again = stream(device, pictures(1, 2, 3), PREPROCESSING, governor, clock=device.clock)
    assert good.error is None
    assert (bad.image, bad.latency_ms, bad.predictions) == ("2.png", None, ())
    assert str(bad.error) == "broken at pass 2"
    assert again.latency_ms == pytest.approx(21.0)
    assert [len(decision.seen) for decision in governor.log] == [0, 1, 0]  # the failed pass says nothing of the device


def test_ten_failures_in_a_row_end_it_and_nine_do_not():
    device = Device(*[None] * 9, 5.0, *[None] * 10)
    passes, many = [], stream(device, pictures(*range(30)), PREPROCESSING, Fixed("F"))
    with pytest.raises(ArtifactError, match=r"10 passes in a row failed, the last one with: broken at pass 20"):
        passes.extend(many)
    assert device.latencies == []


def test_an_input_that_is_refused_ends_it():
    def refusing(x, skip):
        raise DataError("of another shape")

    with pytest.raises(DataError, match="of another shape"):
        next(stream(refusing, pictures(1), PREPROCESSING, Fixed("F")))


def test_counted_by_hand():
    tally = Tally(10.0, {"F": 80.0, "T": 60.0})
    error = ArtifactError("broken")
    for skip, latency in (("F", 8.0), ("F", 12.0), ("T", None), ("T", 10.0), ("F", 6.0)):
        tally.add(Pass("a.png", skip, 2.0, latency, error=None if latency else error))
    summary = tally.summary()
    assert summary.to_json() == {
        "images": 4,
        "failures": 1,
        "target_ms": 10.0,
        "misses": 1,  # 12; 10 is in time
        "met_percent": 75.0,
        "latency_mean_ms": 9.0,
        "latency_p95_ms": pytest.approx(11.7),  # 0.95 * 3 = 2.85: between 10 and 12
        "prepared_mean_ms": 2.0,
        "depths": {"F": 3, "T": 1},
        "switches": 2,
        "quality": {"name": "top-1", "unit": "%", "higher_is_better": True},
        "expected": 75.0,
        "read_mean_ms": 0.0,
        "shed": None,
        "waited_mean_ms": None,
        "waited_p95_ms": None,
    }
    assert json.loads(json.dumps(summary.to_json()))["depths"] == {"F": 3, "T": 1}


def test_another_quality_is_summed_up_in_its_own_unit():
    tally = Tally(None, {"F": 0.25, "T": 0.5}, Quality("RMSE", "m", higher_is_better=False))
    assert tally.expected_text is None
    for skip in ("F", "T"):
        tally.add(Pass("a.png", skip, 2.0, 5.0))
    assert tally.expected_text == "0.375 m"
    assert tally.summary().to_json()["quality"] == {"name": "RMSE", "unit": "m", "higher_is_better": False}


def test_outputs_that_are_no_classes_are_not_named():
    device = Device(5.0)
    (passed,) = stream(device, pictures(255), PREPROCESSING, Fixed("F"), read=Reader(None), clock=device.clock)
    assert passed.latency_ms == pytest.approx(5.0)
    assert [*passed.predictions[0].values] == ["shape", "range", "mean"]


def test_failures_in_a_row_begin_anew_after_a_pass():
    tally = Tally(None, {})
    counted = []
    for latency in (None, None, 5.0, None):
        tally.add(Pass("a.png", "F", 2.0, latency))
        counted.append(tally.failures_in_a_row)
    assert counted == [1, 2, 0, 1]


def test_nothing_counted_and_nothing_known():
    empty = Tally(10.0, {"F": 80.0}).summary()
    assert (empty.images, empty.misses, empty.met_percent, empty.latency_p95_ms, empty.expected) == (
        0,
        0,
        None,
        None,
        None,
    )
    tally = Tally(None, {"F": 80.0})
    for skip in ("F", "T"):
        tally.add(Pass("a.png", skip, 2.0, 5.0))
    summary = tally.summary()
    assert (summary.target_ms, summary.misses, summary.met_percent) == (None, None, None)
    assert summary.expected is None  # of T nothing is known
