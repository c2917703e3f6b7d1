"""Draws the README's picture: accuracy against multiply-adds on photographs, from results/photographs/.

Accuracies are those that `photographs.py --table` prints for the network from random weights; nothing is trained.
"""

from pathlib import Path
from statistics import mean

import photographs
import torch
from measure import RESULTS, spread

import adaptive_depth as ad

CASE, SEEDS = "scratch", (0, 1, 2)
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "photographs.png"
LOOKS = {  # rows of the table: label, colour, marker
    "passes": ("one adaptive network, 16 depths", "#1f5fa8", "o"),
    "each alone, twice the epochs": ("a network each, alone, twice the epochs", "#7a7a7a", "s"),
    "each alone, statistics measured": ("a network each, alone", "#b3541e", "D"),
}


def accuracies() -> dict[str, dict[str, list[float]]]:
    """Of the 713 held-out photographs together: by row of the table and by sub-network, one number a seed."""
    rows = photographs.rows(CASE, SEEDS, photographs.Place(RESULTS / "photographs"))
    return {row.title: row.by_skip("together") for row in rows if row.title in LOOKS}


def multiply_adds() -> dict[str, float]:
    """Of an image, in millions, by sub-network."""
    case = photographs.CASES[CASE]
    network = ad.adapt(ad.create_model(case.model, num_classes=10, **case.arguments)).eval()
    profile = ad.profile(network, torch.zeros(1, 3, case.size, case.size), latency=False, energy=False)
    return {skip: cost.macs / 1e6 for skip, cost in profile.costs.items()}


def draw(path: Path) -> None:
    """Means over the seeds, with their standard deviation where a depth was also trained alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found, macs = accuracies(), multiply_adds()
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = found["each alone, statistics measured"]
    for title, (label, color, marker) in LOOKS.items():
        depths = found[title]
        places = [macs[skip] for skip in depths], [mean(values) for values in depths.values()]
        axes.scatter(*places, s=24, label=label, color=color, marker=marker, zorder=3)
        for skip in depths.keys() & ends.keys():
            place = macs[skip], mean(depths[skip]), spread(depths[skip])
            axes.errorbar(*place, color=color, alpha=0.45, capsize=3, linewidth=1)
    for skip in ends:
        axes.annotate(skip, (macs[skip], mean(ends[skip])), xytext=(-7, -3), textcoords="offset points", ha="right")
    axes.set_xlabel("multiply-adds of an image (millions)")
    axes.set_ylabel("top-1 accuracy (%), mean of 3 seeds")
    axes.set_title("ResNet-18 of a quarter of the width, 3,068 photographs, 10 epochs", fontsize=11)
    axes.margins(0.08, 0.18)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center right", fontsize=8, frameon=False, bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    draw(PICTURE)
    print(PICTURE)
