"""data/sets/shards.py: real tar shards, streamed, trained on, shared out, damaged."""

import io
import json
import sys
from collections import Counter

import pytest
import timm
import torch
import webdataset
from PIL import Image
from torch import nn

import adaptive_depth as ad
from adaptive_depth.cli import main
from adaptive_depth.core.distributed import Distributed
from adaptive_depth.data import class_names, configure, create_loader, open_data
from adaptive_depth.data.sets import locate
from adaptive_depth.training.images import TrainingBatches


def png(number, label):
    """A picture whose red tells its number, and whose green its label."""
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (6 * number, 100 * label, 0)).save(file, "PNG")
    return file.getvalue()


def write(folder, *, classes=("cat", "dog", "owl"), field=None, **splits):
    """Shards with the given numbers of samples, as `WebDataset` writes them, and timm's `_info.json`."""
    folder.mkdir(exist_ok=True)
    info = {"splits": {}} | ({"classes": list(classes)} if classes else {})
    for split, lengths in splits.items():
        names = [f"{split}-{number:04}.tar" for number in range(len(lengths))]
        number = 0
        for name, length in zip(names, lengths, strict=True):
            with (folder / name).open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
                for _ in range(length):
                    label = {"json": {field: number % 3}} if field else {"cls": number % 3}
                    tar.write({"__key__": f"{number:06}", "png": png(number, number % 3), **label})
                    number += 1
        told = {"name": split, "filenames": names, "shard_lengths": list(lengths), "num_samples": sum(lengths)}
        info["splits"][split] = told | ({"alt_label": field} if field else {})
    (folder / "_info.json").write_text(json.dumps(info))
    return f"wds/{folder}"


def change_info(folder, change):
    info = json.loads((folder / "_info.json").read_text())
    change(info)
    (folder / "_info.json").write_text(json.dumps(info))


@pytest.fixture
def shards(tmp_path):
    """40 images to train on in shards of unequal length, 9 to validate."""
    return write(tmp_path / "set", train=[12, 6, 12, 10], validation=[4, 5])


def tiny(classes=3):
    return timm.create_model("resnet18", channels=(4, 4, 4, 4), num_classes=classes)


def plain(name, **more):
    """Pixels as they are, so that `numbers` can read them."""
    config = configure(name, nn.Conv2d(3, 1, 1), image_size=10, **more)
    return type(config)(**{**vars(config), "mean": (0.0,) * 3, "std": (1.0,) * 3})


def numbers(batches):
    """What `png` put into the pixels; the label must say the same."""
    found = []
    for images, labels in batches:
        found += [round(float(x[0].mean() * 255) / 6) for x in images]
        assert [round(float(x[1].mean() * 255) / 100) for x in images] == labels.tolist()
    return found


def training(name, *, workers=0, **fields):
    recipe = ad.Recipe().changed({"batch_size": 8, "augment": "none", "image_size": 10, **fields})
    return TrainingBatches(plain(name), recipe, workers=workers)


def epoch(made, number):
    made.set_epoch(number)
    batches = list(made)
    assert len(batches) == len(made)
    return batches


# -- going through once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_validation_goes_through_each_image_once(shards, workers):
    loader = create_loader(plain(shards), "validation", batch_size=4, workers=workers)
    batches = list(loader)
    assert sorted(numbers(batches)) == [*range(9)]
    assert [len(y) for _, y in batches] == [4, 4, 1]
    assert (len(loader), len(loader.dataset)) == (3, 9)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [2, 4, 11])
def test_shares_hold_each_image_once(shards, count, workers):
    parts = [
        create_loader(plain(shards), "validation", batch_size=2, share=(index, count), workers=workers)
        for index in range(count)
    ]
    assert [sorted(numbers(part)) for part in parts] == [[*range(index, 9, count)] for index in range(count)]
    assert [len(part.dataset) for part in parts] == [len(range(index, 9, count)) for index in range(count)]


def test_a_share_that_is_none(shards):
    for share in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(
            ad.DataError, match=r"share=\(.*\): expected \(index, count\) with an index from 0 to count"
        ):
            create_loader(plain(shards), "validation", share=share)


def test_a_shuffled_loader_follows_torchs_seed(shards):
    def order(seed):
        torch.manual_seed(seed)
        return numbers(create_loader(plain(shards), "train", batch_size=8, shuffle=True))

    assert sorted(order(0)) == [*range(40)]
    assert order(0) == order(0) != order(1)


def test_items_of_open_data(shards):
    data = open_data(plain(shards), "validation")
    assert len(data) == 9
    assert [label for _, label in data] == [number % 3 for number in range(9)]


def test_paths_and_roots(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configure("wds/set", tiny(), image_size=8).name == shards
    assert configure("wds/set", tiny(), root=tmp_path, image_size=8).name == shards
    assert locate("wds/", tmp_path / "set") == (shards, None)
    assert configure(shards, tiny(), root="elsewhere", image_size=8).root is None


# -- classes ----------------------------------------------------------------------------------------------------


def test_classes_by_name_by_map_and_by_number(shards, tmp_path):
    assert class_names(shards) == ("cat", "dog", "owl")
    change_info(tmp_path / "set", lambda info: info.update(classes=None, class_map={"owl": 2, "dog": 1, "cat": 0}))
    assert class_names(shards) == ("cat", "dog", "owl")
    numbered = write(tmp_path / "numbered", classes=None, train=[2, 4, 3], validation=[3])
    assert class_names(numbered) == ("0", "1", "2")
    assert numbers(create_loader(plain(numbered), "validation")) == [0, 1, 2]


def test_labels_in_json_files(tmp_path):
    name = write(tmp_path / "set", classes=None, field="animal", train=[2, 4, 3], validation=[3])
    assert class_names(name) == ("0", "1", "2")
    assert numbers(create_loader(plain(name), "validation")) == [0, 1, 2]


def test_labels_are_numbers_of_the_classes_trained_on(shards, tmp_path):
    other = write(tmp_path / "other", classes=("dog", "owl", "cat"), validation=[3])
    config = plain(shards)
    moved = type(config)(**{**vars(config), "name": other})
    assert [label for _, label in open_data(moved, "validation")] == [1, 2, 0]
    change_info(tmp_path / "other", lambda info: info.update(classes=["dog", "zebra", "cat"]))
    with pytest.raises(ad.DataError, match="not trained on: zebra"):
        open_data(moved, "validation")


# -- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_each_image_once(shards, workers):
    made = training(shards, workers=workers)
    assert len(made) == 5
    batches = epoch(made, 1)
    assert [len(y) for _, y in batches] == [8] * 5
    assert sorted(numbers(batches)) == [*range(40)]
    assert made.indices is None
    assert made.damaged == {}


def test_the_last_batch_is_full_or_left_out(shards):
    made = training(shards, batch_size=12, workers=2)
    found = numbers(epoch(made, 1))
    assert len(found) == len(set(found)) == 36
    assert len(training(shards, batch_size=64)) == 1
    assert len(training(shards, accumulate=2)) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_follows_from_seed_and_epoch_alone(shards, workers):
    made = training(shards, workers=workers)
    first, second = numbers(epoch(made, 1)), numbers(epoch(made, 2))
    torch.manual_seed(77)
    again = training(shards, workers=workers)
    assert numbers(epoch(again, 2)) == second != first
    next(iter(again))  # an epoch that is left in the middle
    assert numbers(epoch(again, 1)) == first
    other = numbers(epoch(training(shards, workers=workers, seed=1), 1))
    assert other not in (first, second)
    assert sorted(other) == [*range(40)]
    assert {number // 12 for number in first[:8]} != {0}  # not a shard after the other


def test_processes_have_shards_of_their_own(shards, monkeypatch):
    """22 and 18 images or 24 and 16, in two batches of 8 each: none twice over the processes, none thrice in one."""

    def parts(number):
        found = []
        for index in range(2):
            monkeypatch.setattr(Distributed, "__init__", lambda self, i=index: vars(self).update(count=2, index=i))
            made = training(shards, batch_size=16)
            assert len(made) == 2
            found.append(numbers(epoch(made, number)))
        return found

    for number in range(1, 5):
        first, second = parts(number)
        assert not set(first) & set(second)
        assert len(set(first)) == len(set(second)) == 16
    monkeypatch.setattr(Distributed, "__init__", lambda self: vars(self).update(count=5, index=0))
    with pytest.raises(ad.DataError, match="5 processes cannot share 4 tar shards: write at least as many"):
        training(shards, batch_size=10)


def test_a_process_with_fewer_images_goes_through_them_again(tmp_path, monkeypatch):
    """Shards of 18 and 6 images: each of two processes trains on 12."""
    name = write(tmp_path / "set", train=[18, 6], validation=[2])
    for index, (whole, times) in enumerate(((6, 2), (12, 1))):
        monkeypatch.setattr(Distributed, "__init__", lambda self, i=index: vars(self).update(count=2, index=i))
        found = Counter(numbers(epoch(training(name, batch_size=8), 2)))
        assert (len(found), set(found.values())) in (((whole, {times})), (18 - whole, {3 - times}))


def test_training_of_a_network(shards):
    recipe = ad.Recipe(batch_size=8, image_size=16, epochs=2, mixup=0.5, lr=0.01)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = ad.adapt(tiny()).train()
        history = ad.train(network, TrainingBatches(configure(shards, tiny(), image_size=16), recipe), recipe)
        assert len(history.epochs) == 2
        weights.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    assert torch.equal(*weights)


def test_a_training_goes_on_in_the_middle_of_an_epoch(shards, tmp_path):
    recipe = ad.Recipe(batch_size=8, image_size=16, epochs=2, lr=0.01, checkpoint_every=1)

    def trained(folder, **more):
        torch.manual_seed(0)
        network = ad.adapt(tiny()).train()
        batches = TrainingBatches(configure(shards, tiny(), image_size=16), recipe)
        ad.train(network, batches, recipe, folder=folder, **more)
        return torch.cat([each.detach().flatten() for each in network.parameters()])

    steps = []

    def stop(*_):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", on_step=stop)
    assert torch.equal(trained(tmp_path / "stopped", resume=True), trained(tmp_path / "whole"))


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_labels_are_shares_of_classes(shards, workers):
    for _, y in epoch(training(shards, workers=workers, batch_size=6, mixup=0.8), 1):
        assert y.shape == (6, 3)
        assert torch.allclose(y.sum(1), torch.ones(6))


def test_a_loss_that_is_not_finite_is_told_without_samples(shards):
    class Spoilt(TrainingBatches):
        def __iter__(self):
            for x, y in super().__iter__():
                yield x * float("nan"), y

    recipe = ad.Recipe(batch_size=8, epochs=1)
    made = Spoilt(configure(shards, tiny(), image_size=16), recipe)
    with pytest.raises(ad.TrainingError, match=r"epoch 1, step 1, learning rate 0.1, pass S, batch 1 of 5\)"):
        ad.train(ad.adapt(tiny()).train(), made, recipe)


def test_repeated_augmentation_needs_images_by_number(shards):
    with pytest.raises(ad.DataError, match=r"repeats=3: .*tar shards are a stream; use repeats=1, an image folder"):
        training(shards, repeats=3)


def test_the_command(shards, tmp_path, capsys):
    arguments = ["--model-kwargs=channels=[4,4,4,4]", "--epochs=1", "--image-size=16", "--batch-size=8", "--lr=0.01"]
    run = tmp_path / "run"
    assert main(["train", "resnet18", f"--data={shards}", *arguments, f"--output={run}", "--device=cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9
    assert json.loads((run / "data.json").read_text())["name"] == shards
    assert main(["evaluate", str(run), "--device=cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9


# -- damage -----------------------------------------------------------------------------------------------------


def rewrite(path, change):
    """A shard anew, each of its samples changed."""
    samples = [*webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)]
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
        for sample in samples:
            kept = {key: value for key, value in sample.items() if not key.startswith("__")}
            change(sample["__key__"], kept)
            tar.write({"__key__": sample["__key__"], **kept})


def spoil(key, sample):
    """No image, half of one, no file of one, no label, a label that is none."""
    if key == "000013":
        sample["png"] = b"no image"
    if key == "000014":
        sample["png"] = sample["png"][:50]
    if key == "000015":
        del sample["png"]
    if key == "000016":
        del sample["cls"]
    if key == "000017":
        sample["cls"] = b"3"


REASONS = {
    "train-0001.tar/000013": "image train-0001.tar/000013 cannot be read (cannot identify image file",
    "train-0001.tar/000014": "image train-0001.tar/000014 cannot be read (",
    "train-0001.tar/000015": "holds no image: expected a file that ends with jpg, jpeg, png, webp",
    "train-0001.tar/000016": "has no label: expected a number from 0 to 2 in its .cls file",
    "train-0001.tar/000017": "has the label 3: expected a number from 0 to 2",
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of webdataset's reader in `rewrite`
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_left_out_counted_and_told(shards, tmp_path, workers):
    rewrite(tmp_path / "set" / "train-0001.tar", spoil)
    made = training(shards, workers=workers, skip_damaged=0.13)
    for number in (1, 2):
        batches = epoch(made, number)
        assert [len(y) for _, y in batches] == [8] * 5
        found = Counter(numbers(batches))
        assert set(found) == {*range(40)} - {13, 14, 15, 16, 17}
        assert sorted(found.values()) == [1] * 30 + [2] * 5  # some fill the places of the damaged ones
        assert sorted(made.damaged) == sorted(REASONS)  # none is counted twice
    for name, reason in REASONS.items():
        assert reason in made.damaged[name]
    with pytest.raises(
        ad.DataError, match=r"of 40 training images cannot be read, .*skip_damaged=0.1 allows .train-0001.tar/0"
    ):
        epoch(training(shards, workers=workers, skip_damaged=0.1), 1)


@pytest.mark.parametrize("cut", [700, 5 * 512, 3 * 512 + 20])
def test_a_truncated_shard(shards, tmp_path, cut):
    """A shard has 12 samples of (512 + 512) for the label and as much for the image."""
    path = tmp_path / "set" / "train-0002.tar"
    path.write_bytes(path.read_bytes()[:cut])
    whole = {*range(18)} | {*range(30, 40)} | ({18} if cut > 4 * 512 else set())
    made = training(shards, skip_damaged=0.3)
    assert set(numbers(epoch(made, 1))) <= whole
    seen = set(numbers(epoch(made, 2))) | set(numbers(epoch(made, 3)))
    assert seen == whole
    assert len(made.damaged) == 40 - len(whole)
    assert any("train-0002.tar ends after" in reason for reason in made.damaged.values())
    with pytest.raises(ad.DataError, match=r"of 40 training images cannot be read, more than skip_damaged=0.2"):
        epoch(training(shards, skip_damaged=0.2), 1)


@pytest.mark.parametrize("kind", ["empty", "gone", "no tar"])
def test_a_shard_that_is_none(shards, tmp_path, kind):
    made = training(shards, skip_damaged=0.3)
    path = tmp_path / "set" / "train-0003.tar"
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if kind == "empty" else b"no tar at all" * 100)
    assert set(numbers(epoch(made, 1))) == {*range(30)}
    assert sorted(made.damaged) == [f"train-0003.tar, sample {number}" for number in range(10)]
    assert "ends after 0 of the 10 samples in _info.json (" in made.damaged["train-0003.tar, sample 4"]


def test_nothing_whole_at_all(shards, tmp_path):
    for path in (tmp_path / "set").glob("train-*.tar"):
        path.write_bytes(b"")
    with pytest.raises(ad.DataError, match="none of the 40 training images of this process can be read"):
        epoch(training(shards, skip_damaged=1.0), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_stops_at_damage(shards, tmp_path, workers):
    path = tmp_path / "set" / "validation-0001.tar"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ad.DataError, match=r"^shard /[^\n]*-0001.tar ends after 0 of the 5 samples [^\n]*replace it$"):
        list(create_loader(plain(shards), "validation", workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_holds_more_than_told(shards, tmp_path, workers):
    def forget_one(info):
        info["splits"]["validation"] |= {"shard_lengths": [4, 4], "num_samples": 8}

    change_info(tmp_path / "set", forget_one)
    with pytest.raises(ad.DataError, match=r"^shard .*-0001.tar holds more than the 4 samples in _info.json"):
        list(create_loader(plain(shards), "validation", workers=workers))


# -- what the user may get wrong --------------------------------------------------------------------------------


def without(key):
    return lambda info: info["splits"]["train"].pop(key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("num_samples"), "split 'train' of .*_info.json .*num_samples: Field required; .* as in {\"splits\""),
        (without("filenames"), "filenames: Field required"),
        (lambda info: info["splits"].update(train=[1]), "Input should be an object; expected an object with filen"),
        (lambda info: info.pop("splits"), "has no splits: expected {"),
        (lambda info: info["splits"].pop("train"), "has no train split: .*or training, found validation"),
        (lambda info: info["splits"]["train"].update(num_samples=41), "the sum 40, and num_samples=41: expected one"),
        (lambda info: info["splits"]["train"]["shard_lengths"].pop(), "4 filenames, 3 shard_lengths"),
        (
            lambda info: info["splits"]["train"]["filenames"].__setitem__(1, "pipe:touch x"),
            "1 of 4 shards of split 'train' of .* do not exist: pipe:touch x; expected them in",
        ),
        (lambda info: info.update(classes=["cat"]), "has only one class, 'cat'"),
        (lambda info: info.update(classes="cat dog"), '"classes" in .*expected a list of names, each once'),
        (lambda info: info.update(classes=["cat", "cat"]), '"classes" in .*expected a list of names, each once'),
        (lambda info: info.update(classes=None, class_map={"cat": 1, "dog": 2}), "its classes .1, 2.: expected 0"),
        (lambda info: info.update(classes=None, class_map="map.txt"), '"class_map" in .*a number for each name'),
    ],
)  # fmt: skip
def test_an_info_file_that_tells_too_little(shards, tmp_path, change, said):
    change_info(tmp_path / "set", change)
    with pytest.raises(ad.DataError, match=said):
        class_names(shards)


def test_an_info_file_that_is_none(shards, tmp_path):
    file = tmp_path / "set" / "_info.json"
    for content, said in ((b"[1]", "holds a list: expected {"), (b"{", "cannot be read .*: expected {")):
        file.write_bytes(content)
        with pytest.raises(ad.DataError, match=said):
            class_names(shards)
    file.unlink()
    with pytest.raises(ad.DataError, match=r"folder '.*' has no _info.json: expected {"):
        class_names(shards)


def test_other_mistakes(shards, tmp_path, monkeypatch):
    with pytest.raises(
        ad.DataError, match=r"there is no folder '.*nowhere'; expected one with tar shards and _info.json"
    ):
        class_names(f"wds/{tmp_path / 'nowhere'}")
    silent = write(tmp_path / "silent", classes=None, field="animal", train=[3])
    change_info(tmp_path / "silent", lambda info: info["splits"]["train"].pop("alt_label"))
    with pytest.raises(ad.DataError, match=r"has no labels: expected .cls files that hold a number"):
        class_names(silent)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ad.DataError, match=r'needs .* not installed .*: pip install "adaptive-depth\[data'):
        class_names(shards)
