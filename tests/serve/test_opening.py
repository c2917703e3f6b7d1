"""A network becomes a model that answers: its table measured here, its settings checked."""

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest

import adaptive_depth as ad
from adaptive_depth.quality import Quality
from adaptive_depth.serve.opening import Settings, measure_by_batch, open_predictor
from adaptive_depth.serve.predicting import Asked, Predictor
from adaptive_depth.serve.wishes import Wishes

from .conftest import PREPROCESSING, TABLE

KNOWN = ad.Artifact("onnx", ({},), ("F", "T"), (None, 1, 2, 2), trade_offs=TABLE, preprocessing=PREPROCESSING)


class Backend:
    def __init__(self, artifact: ad.Artifact) -> None:
        self.artifact = artifact
        self.batches: list[int] = []

    def run(self, x: np.ndarray, skip: str) -> np.ndarray:
        self.batches.append(len(x))
        return x.reshape(len(x), -1) + {"F": 1, "T": 2}[skip]


def opened(known: ad.Artifact = KNOWN, **settings) -> tuple[Predictor, Backend]:
    backend = Backend(known)
    predictor = open_predictor("cats", ad.Session("fake", backend), known, Settings(1000.0, **settings))
    return predictor, backend


def answered(predictor: Predictor, skip: str | None = None) -> list[float]:
    async def work() -> list[float]:
        async with predictor:
            stream = io.BytesIO()
            np.save(stream, np.zeros((1, 2, 2), np.float32))
            reply = await predictor.predict(Asked(stream.getvalue(), wishes=Wishes(skip)))
            assert reply.tensors is not None
            return reply.tensors[""].tolist()

    return asyncio.run(work())


def test_latencies_are_measured_here_of_every_depth_alone_and_in_batches() -> None:
    predictor, backend = opened(max_batch=8)
    assert {*backend.batches} == {1, 4, 8}
    assert predictor.batcher.scheduler.max_batch == 8
    assert predictor.batcher.scheduler.latency_ms("F", 1) < 20  # which the table of another machine says
    assert answered(predictor, "T") == [2.0] * 4


def test_a_target_that_no_depth_can_meet_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    opened(max_batch=4, measure=False)
    assert caplog.text == ""
    settings = Settings(1.0, max_batch=4, measure=False)
    open_predictor("cats", ad.Session("fake", Backend(KNOWN)), KNOWN, settings)
    assert "cats: its fastest depth, T, takes " in caplog.text
    assert " ms, more than the target of 1 ms: no answer will be in time" in caplog.text


def test_or_they_are_those_of_the_table() -> None:
    predictor, backend = opened(max_batch=4, measure=False)
    assert not backend.batches
    assert predictor.batcher.scheduler.latency_ms("F", 4) == pytest.approx(32)


def test_a_table_without_batches_is_not_guessed_at() -> None:
    with pytest.raises(
        ad.errors.MeasurementError, match=r"no latencies for batches of 8: have them measured .*--measure"
    ):
        opened(max_batch=8, measure=False)
    bare = ad.TradeOffs(tuple(ad.Row(row.skip, row.accuracy, row.macs, row.parameters) for row in TABLE.rows))
    with pytest.raises(ad.errors.MeasurementError, match="no latencies for batches of 1"):
        opened(replace(KNOWN, trade_offs=bare), max_batch=1, measure=False)
    assert answered(opened(replace(KNOWN, trade_offs=bare))[0], "F") == [1.0] * 4


def test_measuring_tells_how_far_it_is_and_can_be_interrupted() -> None:
    told: list[tuple[int, int]] = []

    def interrupt(done: int, of: int) -> None:
        told.append((done, of))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_by_batch(lambda x, skip: x, np.zeros((1, 4)), ["F"], [1, 2], seconds=0, on_round=interrupt)
    assert told == [(1, 3), (2, 3)]


def test_a_network_without_a_batch_in_its_output_is_found_before_it_serves() -> None:
    with pytest.raises(ad.errors.ArtifactError, match=r"4 inputs produced an output of shape \[5\]: expected 4"):
        measure_by_batch(lambda x, skip: x[0], np.zeros((1, 5)), ["F"], [1, 4])


def test_a_file_of_a_fixed_batch_runs_in_that_batch() -> None:
    predictor, backend = opened(replace(KNOWN, input_shape=(4, 1, 2, 2)))
    scheduler = predictor.batcher.scheduler
    assert scheduler.max_batch == 4
    assert scheduler.latency_ms("F", 1) == scheduler.latency_ms("F", 4)
    assert answered(predictor, "F") == [1.0] * 4
    assert {*backend.batches} == {4}


def test_a_file_of_one_at_a_time() -> None:
    predictor, backend = opened(replace(KNOWN, input_shape=(1, 1, 2, 2)))
    assert predictor.batcher.scheduler.max_batch == 1
    assert answered(predictor) == [1.0] * 4
    assert {*backend.batches} == {1}


def test_one_depth_needs_no_table() -> None:
    predictor, _ = opened(replace(KNOWN, trade_offs=None), skip="T")
    assert answered(predictor) == [2.0] * 4
    about = asyncio.run(predictor.about())
    assert about.depths == {"T": None}


def test_sides_that_may_be_any_are_those_of_the_images() -> None:
    predictor, _ = opened(replace(KNOWN, input_shape=(None, 1, None, None)))
    assert asyncio.run(predictor.about()).shape == (1, 2, 2)


RMSE = replace(TABLE, quality=Quality("RMSE", "m", higher_is_better=False))


def test_what_an_answer_is_worth_is_said_where_it_does_not_follow() -> None:
    known = replace(KNOWN, trade_offs=RMSE)
    with pytest.raises(ad.errors.BudgetError, match=r"RMSE \(m, lower is better\): set it .*--worth F=100,T=90"):
        opened(known)
    predictor, _ = opened(known, worth={"F": 90.0, "T": 70.0})
    assert answered(predictor) == [1.0] * 4
    assert answered(opened(known, skip="T")[0]) == [2.0] * 4


@pytest.mark.parametrize(
    ("known", "settings", "said"),
    [
        (
            replace(KNOWN, trade_offs=None),
            {},
            "does not contain the quality of its depths.*or serve one depth: --skip F",
        ),
        (KNOWN, {"skip": "TT"}, "skip=TT is not in cats: expected one of F, T"),
        (
            replace(KNOWN, input_shape=(None, 1, None, None), preprocessing=None),
            {},
            "inputs of any size .1, any, any. and does not know how images are preprocessed",
        ),
        (KNOWN, {"shed": "random"}, "shed='random': expected one of oldest, newest, none"),
        (KNOWN, {"max_batch": 5000}, "max_batch=5000: expected a whole number from 1 to 1024"),
        (KNOWN, {"worth": {"F": 1.0}}, "expected a finite number above 0 for each of F, T"),
    ],
)
def test_what_cannot_be_served(known: ad.Artifact, settings: dict, said: str) -> None:
    with pytest.raises(ad.AdaptiveDepthError, match=said):
        opened(known, **settings)
