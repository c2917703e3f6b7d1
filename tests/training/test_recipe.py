"""The recipes against the paper's table, and what a recipe refuses."""

import math

import pytest
import torch
import yaml
from torch import nn

import adaptive_depth as ad
from adaptive_depth.training.preparing import learning_rates, optimiser
from adaptive_depth.training.recipe import Recipe

# Written down from the paper's table; what is not in it is left out. Epochs: (epoch, learning rate after it).
COSINE = {e: 0.5 * (1 + math.cos(math.pi * e / 600)) * 0.5 for e in (5, 300, 599)}
TABLE = {
    "resnet50": {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 256, "epochs": 150, "weight_decay": 1e-4,
        "rates": {0: 0.1, 59: 0.1, 60: 0.01, 99: 0.01, 100: 1e-3, 140: 1e-4, 149: 1e-4},
    },
    "resnet101": {"epochs": 150, "batch_size": 256, "rates": {0: 0.1, 60: 0.01, 100: 1e-3, 140: 1e-4}},
    "resnet50_v2": {
        "optimizer": "sgd", "batch_size": 1024, "epochs": 600, "weight_decay": 2e-5, "augment": "trivial",
        "random_erasing": 0.1, "mixup": 0.2, "cutmix": 1.0, "image_size": 176, "eval_resize": 232, "repeats": 4,
        "warmup_epochs": 5, "rates": COSINE, "averaged": True, "amp": True,
    },
    "mobilenet_v2": {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 256, "epochs": 300, "weight_decay": 1e-5,
        "rates": {0: 0.1, 149: 0.1, 150: 0.01, 225: 1e-3, 284: 1e-3, 285: 1e-4},
    },
    "swin_t": {
        "optimizer": "adamw", "batch_size": 1024, "epochs": 300, "weight_decay": 0.05, "label_smoothing": 0.1,
        "mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.25, "augment": "trivial", "clip_grad": 5.0, "repeats": 4,
        "interpolation": "bicubic", "warmup_epochs": 20, "averaged": True, "amp": True,
        "rates": {e: 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * e / 300)) for e in (20, 150, 299)},
    },
    "vit_b_16": {
        "optimizer": "adamw", "batch_size": 1024, "epochs": 300, "weight_decay": 0.2, "label_smoothing": 0.11,
        "mixup": 0.2, "cutmix": 1.0, "augment": "rand", "clip_grad": 1.0, "warmup_epochs": 30, "averaged": True,
        "amp": True, "rates": {e: 7.5e-4 * 0.5 * (1 + math.cos(math.pi * e / 300)) for e in (30, 150, 299)},
    },
    "vit_b_32": {"optimizer": "adamw", "epochs": 300, "weight_decay": 0.2},
    "fashion_mnist": {"data": "torch/fashion_mnist"},
    "cifar10": {"data": "torch/cifar10"},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_table(name: str) -> None:
    recipe, expected = ad.load_recipe(name), dict(TABLE[name])
    rates = expected.pop("rates", {})
    if expected.pop("averaged", False):
        assert recipe.ema is not None
        assert recipe.repeats > 1
    if expected.pop("amp", False):
        assert recipe.precision == "fp16"
    assert {field: getattr(recipe, field) for field in expected} == expected
    steps = 7  # in an epoch
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], recipe.lr)
    schedule = learning_rates(optimizer, recipe, lambda epochs: round(epochs * steps))
    for epoch, rate in rates.items():
        schedule.step_update(epoch * steps)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-6), epoch
    if recipe.warmup_epochs:
        schedule.step_update(0)
        assert optimizer.param_groups[0]["lr"] < 0.2 * recipe.lr


@pytest.mark.parametrize("name", TABLE)
def test_what_a_recipe_keeps_for_later_passes_fits_its_buffer(name: str) -> None:
    """In one process, images in 8 bits and mixed labels of 1,000 classes in float32."""
    recipe = ad.load_recipe(name)
    assert recipe.passes == "SBSBR"
    image = 3 * (recipe.image_size or 224) ** 2 + 4 * 1000 * bool(recipe.mixup or recipe.cutmix)
    batches = recipe.schedule_of(1000, 1000).kept
    assert batches * recipe.batch_size * image / 1e6 < recipe.buffer_mb


def test_a_file_of_version_0_1_means_what_it_meant(tmp_path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("epochs: 3\nalpha: 0.3\nlow_memory: true\n")
    recipe = ad.load_recipe(old)
    assert (recipe.passes, recipe.keep_scale, recipe.alpha, recipe.low_memory) == ("algorithm 1", False, 0.3, True)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert ad.load_recipe(again) == recipe
    new = tmp_path / "new.yaml"
    new.write_text(Recipe().to_yaml())
    assert ad.load_recipe(new) == Recipe()
    assert Recipe().passes == "SBSBR"


def test_every_recipe_is_in_the_table() -> None:
    assert set(ad.recipe_names()) == set(TABLE)


@pytest.mark.parametrize("name", [name for name in TABLE if "torch" not in str(TABLE[name].get("data"))])
def test_norms_biases_and_position_tables_do_not_decay(name: str) -> None:
    recipe = ad.load_recipe(name)
    with torch.device("meta"):
        network = ad.adapt(ad.create_model(recipe.model, num_classes=3))
    groups = optimiser(network, recipe).param_groups
    of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for path, parameter in network.named_parameters():
        exempt = parameter.ndim == 1 or "relative_position_bias_table" in path
        assert of[id(parameter)] == (0 if exempt else recipe.weight_decay), path
    assert {group["lr"] for group in groups} == {recipe.lr}
    if recipe.optimizer == "sgd":
        assert {group["momentum"] for group in groups} == {recipe.momentum}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": 3}, "a recipe has no field 'epoch': did you mean epochs"),
        ({"zzz": 3}, "a recipe has no field 'zzz': expected one of model, model_kwargs, data, epochs"),
        ({"lr": "fast"}, "lr='fast': expected a valid number"),
        ({"lr": -1}, r"lr=-1: expected a number above 0"),
        ({"lr": float("nan")}, "lr=nan: expected a finite number"),
        ({"epochs": 1.5}, "epochs=1.5: expected a valid integer"),
        ({"augment": "crops"}, "augment='crops': expected 'crop', 'flip', 'trivial', 'rand', 'characters' or 'none'"),
        ({"milestones": [1, "a"]}, "milestones=.*expected a valid integer"),
        ({"ema": 2}, "ema=2: expected a decay between 0 and 1"),
        ({"alpha": -0.1}, "alpha=-0.1: expected a number from 0 to 1"),
        ({"schedule": "multistep"}, "without milestones: set the epochs"),
        ({"batch_size": 10, "accumulate": 3}, "batch_size=10 cannot be divided into accumulate=3 equal parts"),
    ],
)
def test_what_a_recipe_refuses(changes: dict, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        Recipe().changed(changes)


def test_a_file_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    recipe = Recipe().changed({"lr": 0.3, "milestones": [1, 2], "schedule": "multistep", "model_kwargs": {"a": [1]}})
    path.write_text(recipe.to_yaml())
    assert ad.load_recipe(path) == recipe
    assert yaml.safe_load(recipe.to_yaml())["milestones"] == [1, 2]
    path.write_text("lr: 1e-3\nepohcs: 3\n")
    with pytest.raises(
        ad.TrainingError, match=r"recipe .*mine.yaml: a recipe has no field 'epohcs': did you mean epochs"
    ):
        ad.load_recipe(path)
    path.write_text("lr: 1e-3")  # which YAML takes for a text
    assert ad.load_recipe(path).lr == 0.001
    for content, said in (
        ("- 1", "holds a list"),
        ("a: [", "cannot be read"),
        ("!!python/object:os.x {}", "cannot be"),
    ):
        path.write_text(content)
        with pytest.raises(ad.TrainingError, match=said):
            ad.load_recipe(path)
    with pytest.raises(ad.TrainingError, match=r"nowhere.yaml does not exist: expected a recipe"):
        ad.load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(ad.TrainingError, match="there is no recipe 'resnet5': did you mean resnet50"):
        ad.load_recipe("resnet5")


def test_one_name_stands_for_a_list_of_one():
    assert ad.Recipe(freeze="layer1").freeze == ("layer1",)
    assert ad.Recipe(validate="FFFF").validate == ("FFFF",)
    with pytest.raises(ad.TrainingError, match=r"freeze=True: expected a list, such as \[conv1, layer1\]"):
        ad.Recipe(freeze=True)
