"""Training images: augmented, mixed, shared out, the damaged ones left out and told."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import adaptive_depth as ad
from adaptive_depth.data import configure
from adaptive_depth.training.images import TrainingBatches, training_transform
from adaptive_depth.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def tiny(channels=3, classes=2):
    return timm.create_model("resnet18", channels=(4, 4, 4, 4), in_chans=channels, num_classes=classes)


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 255, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number:02}.png")
    return tmp_path


def batches(folder, **fields):
    recipe = Recipe().changed({"batch_size": 8, "image_size": 16, **fields})
    return TrainingBatches(configure(str(folder), tiny(), image_size=24), recipe)


def test_the_order_follows_from_seed_and_epoch(folder):
    def order(seed, epoch):
        made = batches(folder, seed=seed)
        made.set_epoch(epoch)
        labels = [y.tolist() for _, y in made]
        drawn = [made.indices(number) for number in range(len(made))]
        assert [[int(index >= 20) for index in each] for each in drawn] == labels
        return drawn

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert sorted(chain(*order(0, 1))) == list(range(40))


@pytest.mark.parametrize("kind", ["crop", "trivial", "rand", "none", "characters"])
def test_each_kind_of_augmentation(folder, kind):
    made = batches(folder, augment=kind, random_erasing=0.5 if kind == "crop" else 0.0)
    made.set_epoch(1)
    x, y = next(iter(made))
    assert x.shape == (8, 3, 16, 16)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert y.shape == (8,)
    data = made.source.loader.dataset.data
    assert data[0][0].dtype == (torch.float32 if kind == "crop" else torch.uint8)  # erasing needs numbers
    seen = {data[0][0].numpy().tobytes() for _ in range(12)}
    assert (len(seen) == 1) == (kind == "none")


def test_characters_are_shifted_over_black_and_not_mirrored():
    """A shift after normalisation would pad with grey."""
    config = configure("digits", tiny(channels=1, classes=10))
    transform = training_transform(config, Recipe())
    black = torch.tensor((0 - config.mean[0]) / config.std[0])
    assert all(transform(Image.new("L", (8, 8))).allclose(black) for _ in range(10))
    half = Image.fromarray(np.concatenate([np.full((8, 4), 255), np.zeros((8, 4))], 1).astype(np.uint8))
    pictures = [transform(half)[0] for _ in range(20)]
    assert all(picture[:, :12].mean() > picture[:, 20:].mean() for picture in pictures)
    assert len({picture.numpy().tobytes() for picture in pictures}) > 5


def test_mixed_labels_are_shares_of_classes(folder):
    for fields in ({"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}):
        made = batches(folder, **fields)
        for _, y in made:
            assert y.shape == (8, 2)
            assert torch.allclose(y.sum(1), torch.ones(8))
    network = ad.adapt(tiny()).train()
    history = ad.train(network, batches(folder, mixup=0.8), epochs=1, batch_size=8, label_smoothing=0.1)
    assert history.epochs[0].loss > 0


def test_repeated_augmentation_draws_an_image_several_times(folder):
    made = batches(folder, repeats=4)
    made.set_epoch(1)
    drawn = [made.indices(number) for number, _ in enumerate(made)]
    assert len([*chain(*drawn)]) == 40  # an epoch is as long as without
    assert set(Counter(chain(*drawn)).values()) == {4}


def test_a_batch_is_finished_at_once_and_bit_for_bit_like_each_image(folder):
    """What torchvision's own transforms make of the same images."""
    made = batches(folder, augment="none", batch_size=40)
    made.set_epoch(1)
    [(x, _)] = made
    config = configure(str(folder), tiny(), image_size=24)
    numbers = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
    usual = transforms.Compose([transforms.Resize((16, 16), InterpolationMode.BICUBIC), *numbers])
    files = sorted((folder / "train").rglob("*.png"))
    expected = torch.stack([usual(Image.open(files[index]).convert("RGB")) for index in made.indices(0)])
    assert torch.equal(x, expected)


def test_parts_of_a_step(folder):
    assert {len(x) for x, _ in batches(folder, accumulate=4)} == {2}
    assert len(batches(folder, batch_size=16)) == 2  # the last eight images are left out


def test_damaged_images_are_left_out_counted_and_told(folder):
    path = folder / "train" / "a" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    made = batches(folder, skip_damaged=0.05)
    sizes = [len(x) for x, _ in made]
    assert sorted(sizes) == [7, 8, 8, 8, 8]
    [(name, reason)] = made.damaged.items()
    assert name == "image 3"
    assert "03.png cannot be read" in reason
    list(made)
    assert len(made.damaged) == 1  # the same one, not counted again


def test_too_many_damaged_images_stop(folder):
    for number in range(3):
        (folder / "train" / "b" / f"{number:02}.png").write_text("no image")
    with pytest.raises(
        ad.DataError, match=r"of 40 training images cannot be read, more than .*skip_damaged=0.05 allows .image 2"
    ):
        list(batches(folder, skip_damaged=0.05))
    assert sum(len(x) for x, _ in batches(folder, skip_damaged=0.1)) == 37


def test_images_that_processes_load(folder):
    (folder / "train" / "a" / "03.png").write_text("no image")
    recipe = Recipe().changed({"batch_size": 8, "image_size": 16, "skip_damaged": 0.05})
    made = TrainingBatches(configure(str(folder), tiny(), image_size=24), recipe, workers=2)
    assert sum(len(x) for x, _ in made) == 39
    assert len(made.damaged) == 1


def test_a_loss_that_is_not_finite_names_the_samples(folder):
    made, network = batches(folder), ad.adapt(tiny()).train()
    made.set_epoch(1)
    list(made)
    first = made.indices(0)

    def spoilt():
        for x, y in TrainingBatches.__iter__(made):
            yield x * float("nan"), y

    made.__class__ = type("Spoilt", (TrainingBatches,), {"__iter__": lambda _: spoilt()})
    with pytest.raises(
        ad.TrainingError,
        match=rf"epoch 1, step 1, learning rate 0.1, pass S, batch 1 of 5, samples \[{first[0]}, {first[1]}, ",
    ):
        ad.train(network, made, epochs=1, batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ad.recipe_names())
def test_each_recipe_trains_two_steps(name, folder):
    """As it stands, but for images of 32 pixels, steps of 4 of them, float32 and no average of weights."""
    recipe = ad.load_recipe(name)
    small = {"batch_size": 4, "epochs": 1, "image_size": 32, "warmup_epochs": 0, "milestones": [1], "repeats": 1}
    grey = recipe.model_kwargs.get("in_chans") == 1
    arguments = {**recipe.model_kwargs, "num_classes": 2}
    if recipe.model.startswith("torchvision/vit"):
        arguments["image_size"] = 32
    network = ad.adapt(ad.create_model(recipe.model, **arguments)).train()
    config = configure(str(folder), tiny(channels=1 if grey else 3), image_size=32)
    made = TrainingBatches(config, recipe.changed(small))
    before = [parameter.clone() for parameter in network.parameters()]
    two = [batch for batch, _ in zip(made, range(2), strict=False)]
    history = ad.train(network, two, recipe.changed({**small, "precision": "fp32", "ema": None}))
    assert history.epochs[0].loss > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
