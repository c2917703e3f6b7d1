"""The charts of an analysis: what they draw, and that it can be read."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.image import imread

from adaptive_depth.analysis.values import Analysis, BlockAnalysis, StageAnalysis
from adaptive_depth.errors import MeasurementError
from adaptive_depth.plotting.analysis import plot_maps, plot_transformations


def analysis(cut=((1, 2), (2, 1)), names=("layer1", "layer2")):
    """Blocks with ratios 0.1, 0.2, ...; the first of each stage changes the shape."""
    blocks, stages = [], []
    for number, (mandatory, skippable) in enumerate(cut, 1):
        for place in range(mandatory + skippable):
            ratio = None if place == 0 and mandatory > 1 else 0.1 * (len(blocks) + 1)
            blocks.append(BlockAnalysis(f"s{number}.{place}", number, place >= mandatory, ratio))
        stages.append(StageAnalysis(number, names[number - 1], -0.1, -0.1, 0.1, 0.1, 0.1))
    return Analysis(tuple(blocks), tuple(stages), (), {"F" * len(cut): 1.0, "T" * len(cut): 1.1}, 123)


def bars(axes):
    return {container.get_label(): list(container) for container in axes.containers}


def test_every_block_is_a_bar_in_its_order() -> None:
    axes = plot_transformations(analysis()).axes[0]
    found = bars(axes)
    assert [bar.get_height() for bar in found["mandatory"]] == pytest.approx([0.1, 0.5])
    assert [bar.get_height() for bar in found["skippable"]] == pytest.approx([0.2, 0.3, 0.6])
    centre = [bar.get_x() + bar.get_width() / 2 for bar in [*found["mandatory"], *found["skippable"]]]
    assert centre == pytest.approx([0, 4 + 0.8, 1, 2, 5 + 0.8])  # stages stand apart
    hatched = {bar.get_hatch() for bar in found["skippable"]}
    assert not hatched & {bar.get_hatch() for bar in found["mandatory"]}
    assert to_hex(found["mandatory"][0].get_facecolor()) != to_hex(found["skippable"][0].get_facecolor())
    (cross,) = axes.collections
    assert (cross.get_label(), cross.get_offsets().tolist()) == ("changes the shape", [[pytest.approx(3.8), 0]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3", "1", "2", "3"]
    assert [text.get_text() for text in axes.texts] == ["layer1", "layer2"]
    assert "123 images" in axes.get_title()


def test_the_other_network_is_drawn_beside_it() -> None:
    found = analysis()
    assert "trained without the method" not in _legend(plot_transformations(found))
    blocks = tuple(replace(block, alone=block.ratio and 2 * block.ratio) for block in found.blocks)
    figure = plot_transformations(replace(found, blocks=blocks))
    diamonds, _ = figure.axes[0].collections
    assert diamonds.get_offsets()[:, 1].tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0, 1.2])
    assert {"trained without the method", "mandatory", "skippable", "changes the shape"} == _legend(figure)


def _legend(figure):
    return {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize(
    ("cut", "names"),
    [
        (((1, 1),) * 4, ("a rather long name of a stage",) * 4),
        (((2, 1),) * 4, tuple(f"blocks {i}-{i + 2}" for i in range(0, 12, 3))),
        (((2, 1), (2, 2), (12, 11), (2, 1)), tuple(f"layer{i}" for i in range(1, 5))),
        (((1, 1),) * 12, tuple(f"stage{i}" for i in range(1, 13))),
        (((1, 1),), ("one",)),
        (((40, 20),), ("one",)),
    ],
)
def test_names_and_numbers_do_not_overlap(cut, names) -> None:
    figure = plot_transformations(analysis(cut, names))
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [*axes.texts, *axes.get_xticklabels(), axes.yaxis.label, axes.title, figure.legends[0]]
    boxes = [text.get_window_extent() for text in texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1) for box in boxes)


def test_a_png_is_written(tmp_path) -> None:
    plot_transformations(analysis(), tmp_path / "new" / "a.png")
    assert imread(tmp_path / "new" / "a.png").shape[:2] == (660, 1080)
    plot_maps(torch.rand(2, 1, 8, 8), {"F": np.zeros((2, 8, 8))}, tmp_path / "b.png")
    assert imread(tmp_path / "b.png").shape[2] == 4
    for draw in (lambda: plot_transformations(analysis(), tmp_path / "a.pdf"), lambda: plot_maps(None, {}, "b.svg")):
        with pytest.raises(MeasurementError, match=r"expected a name that ends in \.png"):
            draw()


def test_maps_lie_over_their_images() -> None:
    images, heat = torch.randn(2, 3, 4, 6), np.random.default_rng(0).random((2, 4, 6))
    figure = plot_maps(images, {"FF": heat, "TF": heat / 2, "TT": 1 - heat})
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in grid[0]] == ["image", "super-net FF", "TF", "base-net TT"]
    assert [axes.get_title() for axes in grid[1]] == [""] * 4
    for row, image, expected in zip(grid, images, heat, strict=True):
        shown = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(row[0].images[0].get_array(), shown.permute(1, 2, 0), atol=1e-5)
        np.testing.assert_allclose(row[1].images[0].get_array(), shown.mean(0), atol=1e-5)
        np.testing.assert_allclose(row[1].images[1].get_array(), expected)
        np.testing.assert_allclose(row[3].images[1].get_array(), 1 - expected)
        assert row[1].images[1].get_clim() == (0, 1)


def test_grey_images_and_images_of_one_value_are_shown() -> None:
    image = torch.tensor([[-2.0, 0.0], [1.0, 2.0]]).reshape(1, 1, 2, 2)
    (shown,) = plot_maps(image, {"F": np.zeros((1, 2, 2))}).axes[0].images
    assert shown.get_array()[..., 0].tolist() == [[0.0, 0.5], [0.75, 1.0]]
    (flat,) = plot_maps(torch.full((1, 3, 2, 2), 7.0), {"F": np.zeros((1, 2, 2))}).axes[0].images
    assert not np.asarray(flat.get_array()).any()


def test_maps_of_other_images_are_refused() -> None:
    with pytest.raises(
        MeasurementError, match=r"maps of TT are \[1, 4, 4\] for images \[2, 3, 4, 4\]: expected one per"
    ):
        plot_maps(torch.rand(2, 3, 4, 4), {"FF": np.zeros((2, 4, 4)), "TT": np.zeros((1, 4, 4))})
    with pytest.raises(MeasurementError, match="maps is empty: expected what class_activation_maps returns"):
        plot_maps(torch.rand(2, 3, 4, 4), {})
