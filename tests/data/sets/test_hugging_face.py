"""data/sets/hugging_face.py: real data sets on the disk, opened, trained on, damaged."""

import io
import json
import subprocess
import sys
from itertools import chain, pairwise

import datasets
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from torch import nn

import adaptive_depth as ad
from adaptive_depth.cli import main
from adaptive_depth.data import class_names, configure, create_loader, open_data
from adaptive_depth.data.sets import locate
from adaptive_depth.errors import FetchError
from adaptive_depth.training.images import TrainingBatches

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def png(number, label):
    """A picture whose red tells its number, and whose green its label."""
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (10 * number, 100 * label, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def rows(count, image="image", label="label", classes=CLASSES, **more):
    kinds = {image: datasets.Image(), label: datasets.ClassLabel(names=list(classes))}
    kinds |= {name: datasets.Value("int64") for name in more}
    content = {
        image: [png(number, number % len(classes)) for number in range(count)],
        label: [number % len(classes) for number in range(count)],
        **more,
    }
    return datasets.Dataset.from_dict(content, datasets.Features(kinds))


def write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for name, split in splits.items():
        half = len(split) // 2
        for number, part in enumerate((range(half), range(half, len(split)))):
            split.select(part).to_parquet(folder / f"{name}-{number:05}-of-00002.parquet")
    return f"hfds/{folder}"


@pytest.fixture
def parquet(tmp_path):
    return write(tmp_path / "set", train=rows(24), validation=rows(7))


def tiny(classes=3):
    return timm.create_model("resnet18", channels=(4, 4, 4, 4), num_classes=classes)


def numbers(data):
    """What `png` put into the pixels, and the label: an identity of each image."""
    red = [round(float(x[0].mean() * 255) / 10) for x, _ in data]
    green = [round(float(x[1].mean() * 255) / 100) for x, _ in data]
    labels = [int(y) for _, y in data]
    assert green == labels
    return red


def plain(name, **more):
    """Pixels as they are, so that `numbers` can read them."""
    config = configure(name, nn.Conv2d(3, 1, 1), image_size=10, **more)
    return type(config)(**{**vars(config), "mean": (0.0,) * 3, "std": (1.0,) * 3})


# -- what can be opened -----------------------------------------------------------------------------------------


def test_parquet_files(parquet):
    assert class_names(parquet) == tuple(CLASSES)
    config = plain(parquet)
    assert numbers(open_data(config, "train")) == [*range(24)]
    assert numbers(open_data(config, "validation")) == [*range(7)]
    loader = create_loader(config, "validation", batch_size=4, workers=2)
    assert [len(x) for x, _ in loader] == [4, 3]


def test_other_names_of_columns_and_splits(tmp_path):
    name = write(tmp_path / "set", train=rows(4, "img", "fine", id=[*range(4)]), test=rows(2, "img", "fine", id=[5, 6]))
    assert numbers(open_data(plain(name), "validation")) == [0, 1]


def test_the_usual_names_win_over_others(tmp_path):
    both = rows(4).add_column("coarse", [0] * 4).cast_column("coarse", datasets.ClassLabel(names=["a", "b"]))
    assert class_names(write(tmp_path / "set", train=both)) == tuple(CLASSES)


def test_what_save_to_disk_wrote_and_folders_of_images(tmp_path):
    datasets.DatasetDict(train=rows(5), test=rows(3)).save_to_disk(tmp_path / "saved")
    assert numbers(open_data(plain(f"hfds/{tmp_path / 'saved'}"), "validation")) == [0, 1, 2]
    for part, label, name in (("train", 0, "cat"), ("train", 1, "dog"), ("val", 0, "cat"), ("val", 1, "dog")):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        (tmp_path / "images" / part / name / "0.png").write_bytes(png(0, label)["bytes"])
    config = plain(f"hfds/{tmp_path / 'images'}")
    assert config.classes == ("cat", "dog")
    assert numbers(open_data(config, "validation")) == [0, 0]


def test_a_path_is_remembered_whole_and_a_name_as_it_is(parquet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configure("hfds/set", tiny(), image_size=8).name == parquet
    assert locate("hfds/somebody/something", "here") == ("hfds/somebody/something", str(tmp_path / "here"))


def test_a_name_of_the_hub_is_loaded_into_the_root(monkeypatch, tmp_path):
    asked = []

    def load(name, cache_dir):
        asked.append((name, cache_dir))
        return datasets.DatasetDict(train=rows(4))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert class_names("hfds/somebody/something") == tuple(CLASSES)
    assert class_names("HFDS/mnist", root=tmp_path) == tuple(CLASSES)
    assert asked == [("somebody/something", None), ("mnist", str(tmp_path))]


def test_labels_are_numbers_of_the_classes_trained_on(parquet, tmp_path):
    other = write(tmp_path / "other", validation=rows(4, classes=["dog", "cat"]))
    config = plain(parquet)
    moved = open_data(type(config)(**{**vars(config), "name": other}), "validation")
    assert [label for _, label in moved] == [1, 0, 1, 0]
    strange = write(tmp_path / "strange", validation=rows(4, classes=["dog", "zebra"]))
    with pytest.raises(ad.DataError, match="not trained on: zebra"):
        open_data(type(config)(**{**vars(config), "name": strange}), "validation")


def test_shares_hold_each_image_once(parquet):
    parts = [create_loader(plain(parquet), "train", batch_size=5, share=(index, 5)) for index in range(5)]
    found = [
        numbers([(x, y) for images, labels in part for x, y in zip(images, labels, strict=True)]) for part in parts
    ]
    assert found == [[*range(index, 24, 5)] for index in range(5)]
    assert [len(part.dataset) for part in parts] == [5, 5, 5, 5, 4]


def test_progress_bars_are_put_back_and_not_shown_to_a_file(parquet, capfd):
    datasets.enable_progress_bars()
    class_names(parquet)
    assert not datasets.utils.are_progress_bars_disabled()
    assert capfd.readouterr().err == ""


# -- training ---------------------------------------------------------------------------------------------------


def test_training_and_its_order(parquet):
    recipe = ad.Recipe(batch_size=8, image_size=16, augment="none", epochs=2, calibrate=0)

    def order(seed, epoch):
        made = TrainingBatches(configure(parquet, tiny(), image_size=16), recipe.changed({"seed": seed}))
        made.set_epoch(epoch)
        list(made)
        return [*chain(*(made.indices(number) for number in range(len(made))))]

    assert sorted(order(0, 1)) == [*range(24)]
    assert order(0, 1) == order(0, 1) != order(0, 2)
    network = ad.adapt(tiny()).train()
    history = ad.train(network, TrainingBatches(configure(parquet, tiny(), image_size=16), recipe), recipe)
    assert [epoch.epoch for epoch in history.epochs] == [1, 2]


def test_the_command(parquet, tmp_path, capsys):
    arguments = ["--model-kwargs=channels=[4,4,4,4]", "--epochs=1", "--image-size=16", "--batch-size=8", "--lr=0.01"]
    run = tmp_path / "run"
    assert (
        main(["train", "resnet18", f"--data={parquet}", *arguments, f"--output={run}", "--device=cpu", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["images"] == 7
    assert json.loads((run / "data.json").read_text())["classes"] == CLASSES
    assert main(["evaluate", str(run), "--device=cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 7


def spoilt(count, *places):
    """Rows whose images at some places are no images: no bytes of one, half of one, none at all."""
    images = [png(number, number % 3) for number in range(count)]
    kinds = [{"bytes": b"no image", "path": "ugly.png"}, {**images[1], "bytes": images[1]["bytes"][:50]}, None]
    for place, kind in zip(places, kinds, strict=False):
        images[place] = kind
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    return datasets.Dataset.from_dict({"image": images, "label": [n % 3 for n in range(count)]}, features)


def test_damaged_images_are_left_out_counted_and_told(tmp_path):
    name = write(tmp_path / "set", train=spoilt(24, 3, 7, 11), validation=spoilt(4, 2))
    recipe = ad.Recipe(batch_size=8, skip_damaged=0.2, seed=0)
    made = TrainingBatches(configure(name, tiny(), image_size=16), recipe)
    assert sum(len(x) for x, _ in made) == 21
    assert sorted(made.damaged) == ["image 11", "image 3", "image 7"]
    assert "image 3 of hfds/" in made.damaged["image 3"]
    assert "ugly.png) cannot be read (cannot identify" in made.damaged["image 3"]
    assert "there is none in this row" in made.damaged["image 11"]
    with pytest.raises(ad.DataError, match=r"3 of 24 training images cannot be read, .*skip_damaged=0.1"):
        list(TrainingBatches(configure(name, tiny(), image_size=16), recipe.changed({"skip_damaged": 0.1})))
    for workers in (0, 1):
        loader = create_loader(configure(name, tiny(), image_size=16), "validation", workers=workers)
        with pytest.raises(
            ad.DataError, match=r"^image 2 of hfds/.*ugly.png. cannot be read [^\n]*remove or replace it$"
        ):
            list(loader)


def test_an_image_without_a_label(tmp_path):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    test = datasets.Dataset.from_dict({"image": [png(0, 0)], "label": [-1]}, kinds)
    config = configure(write(tmp_path / "set", train=rows(4), test=test), tiny(), image_size=8)
    with pytest.raises(ad.DataError, match=r"image 0 of hfds/.* has the label -1: expected a number from 0 to 2"):
        open_data(config, "validation")[0]


# -- what the user may get wrong --------------------------------------------------------------------------------


WRONG = {
    "no image": r"has no Image columns: .*named 'image'; there are label \(ClassLabel\); cast_column makes one",
    "no label": r"has no ClassLabel columns: .*there are image \(Image\), id \(int64\); class_encode_column makes one",
    "two labels": r"has 2 ClassLabel columns: .*a \(ClassLabel\), b \(ClassLabel\); rename_column names one 'label'",
    "one class": "has only one class, 'cat': expected two or more",
}


@pytest.mark.parametrize("kind", WRONG)
def test_sets_that_cannot_be_trained_on(kind, tmp_path):
    made = {
        "no image": lambda: rows(4).remove_columns("image"),
        "no label": lambda: rows(4, id=[1, 2, 3, 4]).remove_columns("label"),
        "two labels": lambda: rows(4, label="a").add_column("b", [0] * 4).cast_column("b", datasets.ClassLabel(2)),
        "one class": lambda: rows(4, classes=["cat"]),
    }[kind]()
    with pytest.raises(ad.DataError, match=WRONG[kind]):
        class_names(write(tmp_path / "set", train=made))


def test_a_split_that_is_not_there(tmp_path):
    config = configure(write(tmp_path / "set", train=rows(4)), tiny(), image_size=8)
    with pytest.raises(ad.DataError, match=r"no validation split: expected one named val or .* or test, found train$"):
        create_loader(config, "validation")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hfds/{}/nowhere", "there is no folder '.*nowhere'; expected one that datasets.load_dataset reads"),
        ("hfds/nobody/nothing", "cannot be read .*: expected a name on the Hugging Face hub, or a folder of parquet"),
        ("hfds/{}", "cannot be read .*: expected a name on the Hugging Face hub, or a folder of parquet"),
        ("hfds/", "neither a folder nor a known name: .*hfds/NAME"),
    ],
)
def test_sets_that_cannot_be_found(name, said, tmp_path):
    with pytest.raises(ad.DataError, match=said):
        class_names(name.format(tmp_path))


def test_without_the_package(monkeypatch, parquet):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ad.DataError, match=r'needs .* not installed .*: pip install "adaptive-depth\[data'):
        class_names(parquet)


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_needed():
    code = "import sys, adaptive_depth.data, adaptive_depth.training.images\n"
    code += "assert not {'datasets', 'webdataset'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_seed_shuffles_a_loader(parquet):
    torch.manual_seed(0)
    seen = np.concatenate([y.numpy() for _, y in create_loader(plain(parquet), "train", batch_size=8, shuffle=True)])
    assert sorted(seen) == sorted([number % 3 for number in range(24)])
    assert seen.tolist() != [number % 3 for number in range(24)]


# -- nothing is fetched unasked -------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """May requests be sent, as the two packages see it when a set is loaded on a machine with a network?"""
    found = []

    def load(name, **_):
        found.append((datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError("no such set")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return found


def test_a_named_set_is_fetched_if_one_says_so(asked):
    with pytest.raises(
        FetchError, match=r"cannot be read \(no such set\): .* is downloaded only on request, train --download"
    ):
        class_names("hfds/some/body")
    with pytest.raises(ad.DataError, match=r"expected a name on the Hugging Face hub, or a folder of .* images$"):
        class_names("hfds/some/body", download=True)
    assert asked == [(True, True), (False, False)]
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_folder_that_names_files_elsewhere(tmp_path, asked):
    name = write(tmp_path / "set", train=rows(6), validation=rows(3))
    card = tmp_path / "set" / "README.md"
    card.write_text(
        "---\nconfigs:\n- data_files:\n  - split: train\n    path: [http://localhost:1/x.parquet]\n---\n# http:"
    )
    with pytest.raises(
        FetchError, match=r"refers to files elsewhere \(http://localhost:1/x.parquet\), which are downloaded"
    ):
        class_names(name)
    assert asked == []
    for harmless in (
        "# See http://localhost",
        "---\nlicense: mit\n---\nhttp://localhost",
        "---\n[\n---\n",
        "---\n- 1\n---",
    ):
        card.write_text(harmless)
        with pytest.raises(ad.DataError, match="no such set"):
            class_names(name)
    assert asked == [(True, True)] * 4


def test_a_card_whose_aliases_mean_more_than_fits_into_memory(tmp_path, asked):
    name = write(tmp_path / "set", train=rows(6), validation=rows(3))
    ten_times = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghijkl"))
    (tmp_path / "set" / "README.md").write_text(f"---\na: &a [x]\n{ten_times}configs: *l\n---\n")
    with pytest.raises(ad.DataError, match=r"README.md has YAML aliases at its head: expected the values themselves"):
        class_names(name)
    assert asked == []


def test_a_run_or_recipe_from_elsewhere_asks_before_it_fetches(tmp_path, asked, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: resnet18\ndata: hfds/some/body\nepochs: 1\n")
    command = ["train", f"--recipe={recipe}", f"--output={tmp_path / 'run'}", "--device=cpu"]
    assert main(command) == 2
    assert "is downloaded only on request, train --download" in capsys.readouterr().err
    assert asked == [(True, True)]
    for answer, more in (("n\n", []), ("y\n", [(False, False)])):
        asked.clear()
        terminal = io.StringIO(answer)
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert main(command) == 2
        assert "Fetch 'hfds/some/body' now? [y/N]" in capsys.readouterr().err
        assert asked == [(True, True), *more]
    assert main([*command, "--download"]) == 2
    assert asked[-1] == (False, False)
    assert not (tmp_path / "run").exists()
