"""The budgets in which the page can be made: stated once, the same for both sides of every comparison."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A budget.

    Attributes:
        size: of images, in pixels.
        widths: channels of the stages of the ResNets; the other networks follow them.
        images: of an epoch, drawn anew for each from the training part (45,000).
        epochs: of a training; every run has this budget unless its experiment is about the budget.
        seeds: of the weights, the order of the images and their augmentation.
        test: images of the test part.
        calibrated_on: training images, from which BatchNorm statistics are measured.
        looks: epochs after which adaptive networks are measured, too, on a quarter of these.
        budgets: of `longer`, as parts of the training above; the main result has the last one.
    """

    name: str
    size: int
    widths: tuple[int, int, int]
    images: int
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    test: int
    calibrated_on: int
    looks: tuple[int, ...]
    budgets: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.images:,} images of {self.size} px, {self.epochs} epochs, batches of {self.batch_size}, seeds "
            f"{', '.join(map(str, self.seeds))}; accuracy on {self.test:,} test images"
        )


SETTINGS = {
    "quick": Setting("quick", 16, (16, 32, 64), 500, 2, 50, (0, 1), 500, 500, (1, 2), (0.5, 1.0)),
    "night": Setting("night", 16, (16, 32, 64), 5000, 20, 64, (0, 1, 2), 10_000, 5000, (1, 5, 20), (1.0, 4.0)),
    "gpu": Setting(
        "gpu", 32, (32, 64, 128), 45_000, 100, 128, (0, 1, 2, 3, 4), 10_000, 5000, (1, 5, 20, 100), (0.25, 1.0)
    ),
}
