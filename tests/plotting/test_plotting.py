import random
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation

from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import MeasurementError
from adaptive_depth.plotting import plot_tradeoffs, plot_training
from adaptive_depth.quality import Quality
from adaptive_depth.training.history import Epoch, History


def sixteen():
    """A table like ResNet-50's, with every sub-network on or near the front."""
    rows = []
    for number, letters in enumerate(product("FT", repeat=4)):
        saved = sum(macs for macs, flag in zip((0.22, 0.44, 0.66, 0.22), letters, strict=True) if flag == "T")
        lost = sum(points for points, flag in zip((0.2, 0.44, 0.7, 0.3), letters, strict=True) if flag == "T")
        macs = 4.09 - saved
        latency = 12 * macs + (number * 7 % 5 - 2) / 4
        rows.append(
            Row("".join(letters), 77.6 - lost + (number * 3 % 4 - 1.5) / 8, int(macs * 1e9), 25_000_000, latency)
        )
    return TradeOffs(tuple(rows), batch_size=8)


def offsets(figure, label):
    """Where the points are that look like the one with this label in the legend."""
    collections = figure.axes[0].collections
    look = next(points for points in collections if points.get_label() == label)
    alike = [points for points in collections if (points.get_edgecolor() == look.get_edgecolor()).all()]
    return [tuple(place) for points in alike for place in points.get_offsets().tolist()]


def labels(figure):
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def test_every_sub_network_is_a_point_and_the_front_is_a_step_line():
    table = sixteen()
    figure = plot_tradeoffs(table)
    front = [(row.latency_ms, row.accuracy) for row in table.front()]
    assert offsets(figure, "Pareto front") == front
    every = {(row.latency_ms, row.accuracy) for row in table.rows}
    assert {*front, *offsets(figure, "dominated")} == every
    (line,) = figure.axes[0].lines
    assert list(zip(*line.get_data(), strict=True)) == front
    assert line.get_drawstyle() == "steps-post"


@pytest.mark.parametrize(
    ("cost", "label", "first"),
    [
        (None, "latency (ms, batch of 8)", None),
        ("macs", "multiply-adds (GMACs a sample)", 2.55),
        ("parameters", "parameters (millions)", 25.0),
    ],
)
def test_axes_tell_quantity_and_unit(cost, label, first):
    figure = plot_tradeoffs(sixteen(), cost=cost)
    axes = figure.axes[0]
    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == "top-1 accuracy (%)"
    assert "16 sub-networks" in axes.get_title()
    if first:
        assert offsets(figure, "Pareto front")[0][0] == pytest.approx(first)


def test_another_quality_is_named_and_its_front_is_of_the_lowest():
    rows = (Row("FF", 0.25, 400, 9), Row("FT", 0.75, 300, 9), Row("TT", 0.5, 200, 9, alone=0.625))
    table = TradeOffs(rows, quality=Quality("RMSE", "m", higher_is_better=False))
    figure = plot_tradeoffs(table)
    axes = figure.axes[0]
    assert axes.get_ylabel() == "RMSE (m, lower is better)"
    assert axes.get_title() == "RMSE against multiply-adds of 3 sub-networks"
    assert offsets(figure, "Pareto front") == [(0.2, 0.5), (0.4, 0.25)]
    assert offsets(figure, "dominated") == [(0.3, 0.75)]
    (line,) = axes.lines
    assert list(zip(*line.get_data(), strict=True)) == [(0.2, 0.5), (0.4, 0.25)]
    plot_tradeoffs(replace(table, quality=Quality(r"$\nonsense$"))).canvas.draw()


def test_labels_do_not_overlap_each_other_or_points():
    pairs = [number // 2 + number % 2 / 20 for number in range(16)]  # each too near its neighbour for two labels
    skips = [row.skip for row in sixteen().rows]
    figure = plot_tradeoffs(TradeOffs(tuple(Row(s, 70 + p, 9, 9, 30 + p) for s, p in zip(skips, pairs, strict=True))))
    axes = figure.axes[0]
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in labels(figure)]
    assert len(boxes) >= 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    points = axes.transData.transform([place for points in axes.collections for place in points.get_offsets()])
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(axes.bbox.padded(8).contains(box.x0, box.y0) for box in boxes)


def test_a_label_stands_nearest_to_its_own_point():
    chance = random.Random(0)
    rows = (
        Row(row.skip, 70 + 3 * chance.random() - row.skip.count("T") / 2, 9, 9, 20 - 3 * row.skip.count("T"))
        for row in sixteen().rows
    )
    rows = tuple(replace(row, latency_ms=row.latency_ms + 2 * chance.random()) for row in rows)
    figure = plot_tradeoffs(TradeOffs(rows), size=(3.2, 2.2))
    figure.canvas.draw()
    axes = figure.axes[0]
    points = axes.transData.transform([place for points in axes.collections for place in points.get_offsets()])
    assert len(labels(figure)) >= 3
    for text in labels(figure):
        box = text.get_window_extent()
        apart = {tuple(point): float(np.hypot(*(np.clip(point, box.min, box.max) - point))) for point in points}
        own = axes.transData.transform(text.xy)
        assert apart[tuple(own)] == min(apart.values()), text.get_text()


def test_super_net_and_base_net_are_labelled_even_off_the_front():
    table = TradeOffs((Row("FF", 70, 400, 9), Row("FT", 72, 300, 9), Row("TF", 60, 200, 9), Row("TT", 55, 250, 9)))
    assert {text.get_text() for text in labels(plot_tradeoffs(table))} == {"FF", "FT", "TF", "TT"}


def test_networks_trained_alone_stand_at_the_cost_of_their_depth():
    rows = (Row("F", 70, 4_000_000, 9, 5.0, 30.0, 7.0, alone=69.0), Row("T", 68, 2_000_000, 9, 3.0, 20.0, 4.0))
    for cost, place, label in (
        ("macs", 4.0, "multiply-adds (MMACs a sample)"),
        ("memory_mb", 30.0, "memory (MB, batch of 1)"),
        ("energy_mj", 7.0, "energy (mJ, batch of 1)"),
    ):
        figure = plot_tradeoffs(TradeOffs(rows), cost=cost, size=(4, 3))
        assert offsets(figure, "same depth trained alone") == [(place, 69.0)]
        assert figure.axes[0].get_xlabel() == label
        assert tuple(figure.get_size_inches()) == (4, 3)


def test_every_point_can_be_found_in_an_svg_file(tmp_path):
    table = TradeOffs(tuple(replace(row, alone=75.0) for row in sixteen().rows))
    plot_tradeoffs(table).savefig(tmp_path / "table.svg")
    svg = (tmp_path / "table.svg").read_text()
    assert all(f'id="{kind}-{row.skip}"' in svg for row in table.rows for kind in ("point", "alone"))


def test_other_networks_have_markers_and_names_in_the_legend():
    plot_tradeoffs(sixteen(), compare={r"$\nonsense$": (1e9, 70.0)}, cost="macs").canvas.draw()  # no formula
    compare = {"ResNet-50 alone": (4.09e9, 76.7), "ResNet-34 alone": (3.66e9, 75.0)}
    figure = plot_tradeoffs(sixteen(), compare=compare, cost="macs")
    assert offsets(figure, "ResNet-50 alone") == [(4.09, 76.7), (3.66, 75.0)]
    legend = figure.axes[0].get_legend()
    assert legend
    assert {"ResNet-50 alone", "ResNet-34 alone", "Pareto front"} <= {text.get_text() for text in legend.get_texts()}


def test_a_png_is_written_whole_and_alone(tmp_path):
    path = tmp_path / "plots" / "table.png"
    plot_tradeoffs(sixteen(), path)
    assert imread(path).shape[:2] == (720, 1080)
    assert [file.name for file in path.parent.iterdir()] == ["table.png"]
    assert path.stat().st_mode & 0o077 == (tmp_path / "plots").stat().st_mode & 0o066  # like any file of the user


def test_a_picture_that_fails_leaves_the_former_one(tmp_path, monkeypatch):
    path = tmp_path / "table.png"
    path.write_bytes(b"former")

    def half(figure, file, **_):
        with open(file, "wb") as stream:  # noqa: PTH123
            stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plot_tradeoffs(sixteen(), path)
    assert path.read_bytes() == b"former"
    assert [file.name for file in tmp_path.iterdir()] == ["table.png"]


def test_only_png_is_written(tmp_path):
    with pytest.raises(MeasurementError, match=r"chart\.pdf': expected a name that ends in \.png"):
        plot_tradeoffs(sixteen(), tmp_path / "chart.pdf")


def test_an_unknown_cost_is_refused():
    with pytest.raises(
        MeasurementError, match="cost='watts': expected one of latency_ms, token_ms, first_token_ms, macs"
    ):
        plot_tradeoffs(sixteen(), cost="watts")


def test_pyplot_is_never_loaded_and_matplotlib_only_to_draw():
    program = (
        "import sys\n"
        "from adaptive_depth.plotting import plot_tradeoffs\n"
        "from adaptive_depth.choose.tradeoffs import Row, TradeOffs\n"
        "assert 'matplotlib.figure' not in sys.modules, 'at import'\n"
        "plot_tradeoffs(TradeOffs((Row('F', 70, 10, 9),)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- training -----------------------------------------------------------------------------------------------------


def epochs(validated=True):
    def validation(number):
        measured = {"FF": 60.0 + number, "TT": 58.0 + number} | ({"FT": 51.0} if number == 1 else {})
        return measured if validated and number != 2 else None

    return History(
        tuple(Epoch(n, 0.1, 2.0 / n, 60.0 + n, 0.2 / n, 55.0 + n, 9.0, validation=validation(n)) for n in (1, 2, 3))
    )


def lines(axes):
    return {line.get_gid(): [tuple(place) for place in line.get_xydata()] for line in axes.lines}


def test_accuracy_of_sub_networks_over_training_and_both_losses():
    above, below = plot_training(epochs()).axes
    assert lines(above) == {
        "validation-FF": [(1, 61), (3, 63)],  # nothing was measured after the second epoch
        "validation-FT": [(1, 51)],  # only then
        "validation-TT": [(1, 59), (3, 61)],
    }
    styles = {line.get_gid(): line.get_linestyle() for line in above.lines}
    assert styles == {"validation-FF": "-", "validation-FT": "-", "validation-TT": "--"}  # told apart without colours
    assert {text.get_text() for text in above.get_legend().get_texts()} == {
        "FF (super-net)",
        "TT (base-net)",
        "intermediate",
    }
    assert lines(below) == {"loss": [(1, 2), (2, 1), (3, 2 / 3)], "base_loss": [(1, 0.2), (2, 0.1), (3, 0.2 / 3)]}


def test_without_validation_the_training_accuracies_are_drawn(tmp_path):
    figure = plot_training(epochs(validated=False), tmp_path / "training.png", size=(4, 5))
    assert lines(figure.axes[0]) == {
        "accuracy": [(1, 61), (2, 62), (3, 63)],
        "base_accuracy": [(1, 56), (2, 57), (3, 58)],
    }
    assert figure.axes[0].get_ylabel() == "top-1 on training images (%)"
    assert imread(tmp_path / "training.png").shape[:2] == (750, 600)


def test_a_plain_network_has_no_base_net():
    history = History((Epoch(1, 0.1, 2.0, 60.0, None, None, 9.0),))
    assert [list(lines(axes)) for axes in plot_training(history).axes] == [["accuracy"], ["loss"]]


def test_validation_is_named_by_the_quality_of_the_task():
    quality = Quality("RMSE", r"$\nonsense$", higher_is_better=False)  # no formula
    figure = plot_training(epochs(), quality=quality)
    figure.canvas.draw()
    assert figure.axes[0].get_ylabel() == r"validation RMSE ($\nonsense$, lower is better)"


def test_where_neither_validation_nor_accuracy_is_known_losses_alone_are_drawn():
    history = History((Epoch(1, 0.1, 2.0, None, 0.5, None, 9.0),))
    (axes,) = plot_training(history).axes
    assert lines(axes) == {"loss": [(1, 2)], "base_loss": [(1, 0.5)]}


def test_a_training_that_did_not_begin_cannot_be_drawn():
    with pytest.raises(MeasurementError, match="a history without epochs: expected what train returns"):
        plot_training(History(()))


@pytest.mark.parametrize(
    ("cost", "label"),
    [
        (None, "time per token (ms, batch of 2, after a prompt of 100 tokens)"),
        ("first_token_ms", "time to first token (ms, batch of 2, after a prompt of 100 tokens)"),
        ("cache_kb", "cache per token (kB)"),
    ],
)
def test_costs_of_text_are_drawn(cost, label):
    rows = (
        Row("F", 12.0, 4000, 900, first_token_ms=200.0, token_ms=20.0, cache_kb=0.512),
        Row("T", 14.0, 2000, 700, first_token_ms=100.0, token_ms=10.0, cache_kb=0.256),
    )
    quality = Quality("perplexity", higher_is_better=False)
    axes = plot_tradeoffs(TradeOffs(rows, 2, quality=quality, prompt_tokens=100), cost=cost).axes[0]
    assert axes.get_xlabel() == label
