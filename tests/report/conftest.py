"""A table whose choices are easy to state, pages of it, and one headless Chromium for all."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.choose.tradeoffs import Row, TradeOffs, tradeoffs
from adaptive_depth.quality import Quality
from adaptive_depth.report import report_page
from adaptive_depth.training.history import Epoch, History

#            accuracy  macs         parameters  latency  low   high  memory  energy
FIGURES = {
    "FFF": (90.00, 4_000_000, 2_400_000, 10.000, 9.90, 10.10, 24.0, 900.0),
    "FFT": (89.50, 3_500_000, 2_000_000, 9.125, 9.00, 9.20, 23.0, 950.0),  # dominated in energy, not in latency
    "FTF": (90.50, 3_200_000, 2_200_000, 8.000, 7.90, 8.10, 22.5, 700.0),  # above the super-net
    "FTT": (88.00, 2_700_000, 1_900_000, 7.333333333333333, 7.30, 7.40, 21.0, 640.0),
    "TFF": (87.00, 3_000_000, 2_300_000, 7.500, 7.40, 7.60, 21.0, 660.0),  # dominated by FTT in latency
    "TFT": (85.25, 2_500_000, 1_800_000, 6.500, 6.40, 6.60, 19.0, 610.0),
    "TTF": (85.25, 2_400_000, 2_100_000, 6.000, 5.90, 6.10, 19.0, 590.0),  # as accurate as TFT
    "TTT": (80.00, 1_900_000, 1_700_000, 5.000, 4.90, 5.10, 18.0, 500.0),
}
STAGES = [
    {"name": "early", "mandatory": ["net.early.0"], "skippable": ["net.early.1"]},
    {"name": "middle", "mandatory": ["net.middle.0", "net.middle.1"], "skippable": ["net.middle.2"]},
    {"name": "late", "mandatory": ["net.late.0"], "skippable": ["net.late.1", "net.late.2"]},
]


def make_profile(names=tuple(FIGURES)):
    costs = {}
    for skip in names:
        _, macs, parameters, latency, low, high, memory, energy = FIGURES[skip]
        costs[skip] = Cost(skip, macs, parameters, latency, low, high, memory, energy, {8: 1000 / latency})
    device = {"type": "cpu", "processor": "A processor", "torch": "2.11", "threads": 1}
    conditions = {"rounds": 20, "before": {"clock_mhz": 2400.0}}
    return Profile(costs, 1, device, {}, conditions=conditions, energy="measured by a counter")


def make_table(names=tuple(FIGURES), alone=None):
    return tradeoffs({skip: FIGURES[skip][0] for skip in names}, make_profile(names), alone=alone)


def make_history():
    validation = ({"FFF": 70.0, "TTT": 60.0}, {"FFF": 90.0, "TTT": 80.0})
    return History(
        tuple(
            Epoch(number + 1, 0.1 / (number + 1), 1.5 / (number + 1), 75.0, 0.3, 66.0, 900.0, 0.1, measured)
            for number, measured in enumerate(validation)
        )
    )


def untimed():
    """Of multiply-adds only, so that one chart is drawn."""
    return TradeOffs(tuple(Row(skip, *figures[:3]) for skip, figures in FIGURES.items()))


RMSE = Quality("RMSE", "m", higher_is_better=False)


def make_errors():
    """The same order of sub-networks, judged by what 100 % lack: from 0.095 m (FTF) to 0.2 m (TTT)."""
    table = make_table()
    rows = tuple(replace(row, accuracy=round(1 - row.accuracy / 100, 6)) for row in table.rows)
    return replace(table, rows=rows, quality=RMSE)


def mirrored(table):
    """The same table of a quality that is the negative: what was higher and better is lower and better."""
    rows = tuple(replace(row, accuracy=-row.accuracy) for row in table.rows)
    return replace(
        table, rows=rows, quality=replace(table.quality, higher_is_better=not table.quality.higher_is_better)
    )


def make_page(table=None, **changes):
    return report_page(table or untimed(), **{"title": "A small network", "stages": STAGES, **changes})


@pytest.fixture(scope="session")
def table():
    return make_table()


@pytest.fixture(scope="session")
def page_text():
    return make_page(make_table(), profile=make_profile(), history=make_history())


@pytest.fixture(scope="session")
def page_file(page_text, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page_text, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def errors():
    return make_errors()


@pytest.fixture(scope="session")
def errors_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "errors.html"
    file.write_text(make_page(make_errors(), profile=make_profile()), encoding="utf-8")
    return file


@pytest.fixture
def opened(browser):
    """Open a file: with it, no error may reach the console and nothing else may be asked for."""

    @contextmanager
    def opening(file, size=(1280, 900), **context):
        width, height = size
        said, asked = [], []
        window = browser.new_context(
            viewport={"width": width, "height": height}, offline=True, reduced_motion="reduce", **context
        )
        try:
            page = window.new_page()
            page.set_default_timeout(5_000)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(file.as_uri())
            yield page
            assert said == []
            assert [address for address in asked if not address.startswith("data:")] == [file.as_uri()]
        finally:
            window.close()

    return opening
