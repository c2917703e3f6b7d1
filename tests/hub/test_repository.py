"""The Hub's conventions: what is in a folder, the way back bit for bit, and one clear error for everything else."""

import ast
import copy
import hashlib
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptive_depth as ad
from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.data import configure, open_data
from adaptive_depth.hub import folder as folders
from adaptive_depth.hub.card import trade_off_table
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality

X = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
SMALL = X[:, :, :8, :8]
ARGUMENTS = {"num_classes": 3, "channels": [8, 8, 16, 16]}
FILES = ["README.md", "config.json", "model.safetensors"]
PREPROCESSING = {
    "image_size": 32, "channels": 3, "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0],
    "interpolation": "bilinear", "crop_pct": 0.875, "classes": ["ant", "bee", "cat"],
}  # fmt: skip
from_pretrained = ad.AdaptiveNetwork.from_pretrained


@pytest.fixture
def network(randomised) -> ad.AdaptiveNetwork:
    return randomised(ad.adapt(ad.create_model("resnet18", **ARGUMENTS))).eval()


@pytest.fixture
def shared(network, tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    assert network.save_pretrained(folder) is None
    return folder


def outputs(network: ad.AdaptiveNetwork, x: Tensor = X) -> dict[str, Tensor]:
    with torch.no_grad():
        return {skip: network(x, skip=skip) for skip in network.skips}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def edit(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | changes))


def table_of(network: ad.AdaptiveNetwork, **more: object) -> TradeOffs:
    """Deeper is better and dearer, but for the super-net, which is worse than all others."""
    rows = [Row(s, 90.0 - s.count("T"), 8_000_000 - 10**6 * s.count("T"), 9000, 2.5) for s in network.skips]
    return TradeOffs((replace(rows[0], accuracy=50.0), *rows[1:]), **more)


# -- the round trip -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_depth_comes_back_bit_for_bit(network, tmp_path: Path, dtype, calibrated: bool) -> None:
    if calibrated:
        ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    expected = outputs(network.to(dtype), X.to(dtype))
    network.train().save_pretrained(tmp_path / "a" / "b")
    assert network.training
    again = from_pretrained(str(tmp_path / "a" / "b"))
    assert type(again) is ad.AdaptiveNetwork
    assert not any(module.training for module in again.modules())
    assert (again.calibrated, again.stages, again.source) == (calibrated, network.stages, network.source)
    assert again.preprocessing is None
    assert same(outputs(again, X.to(dtype)), expected)
    assert same(again.state_dict(), network.state_dict())


def test_a_folder_holds_what_the_hub_expects(network, shared: Path) -> None:
    assert sorted(file.name for file in shared.iterdir()) == FILES
    config, weights = config_of(shared), shared / "model.safetensors"
    assert config["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert config["weights"] == "model.safetensors"
    assert config["source"] == {"name": "resnet18", "arguments": ARGUMENTS}
    assert ad.Stages.from_json(config["stages"]) == network.stages
    assert config["preprocessing"] is None
    assert load_file(weights).keys() == network.state_dict().keys()


def test_config_json_holds_what_network_json_holds(network, shared: Path, tmp_path: Path) -> None:
    run = json.loads((ad.save(network, tmp_path / "run") / "network.json").read_text())
    config = config_of(shared)
    own = {"weights": "model.safetensors"}
    assert {name: value for name, value in config.items() if name in run} == run | own
    assert set(config) - set(run) == {"sha256"}


@pytest.mark.parametrize("saved_by", ["save", "save_pretrained"])
def test_each_reader_takes_what_either_writes(network, tmp_path: Path, saved_by: str) -> None:
    network.preprocessing = Preprocessing.of(PREPROCESSING)
    try:
        ad.save(network, tmp_path) if saved_by == "save" else network.save_pretrained(tmp_path)
    finally:
        del network.preprocessing
    for again in (ad.load(tmp_path), from_pretrained(tmp_path)):
        assert same(outputs(again), outputs(network))
        assert again.preprocessing == Preprocessing.of(PREPROCESSING)


def test_tied_weights_are_kept_once(nets, tmp_path: Path) -> None:
    network = nets.chain().eval()
    network.model.blocks[3].conv.weight = network.model.blocks[2].conv.weight
    network.save_pretrained(tmp_path)
    assert "model.blocks.3.conv.weight" not in load_file(tmp_path / "model.safetensors")
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    assert same(outputs(from_pretrained(tmp_path, model=model), SMALL), outputs(network, SMALL))


def test_a_model_of_the_users_own_is_given(nets, tmp_path: Path) -> None:
    network = nets.transformer().eval()
    network.save_pretrained(tmp_path)
    said = "contains a Transformer that no name in timm, torchvision or transformers builds: pass an instance of it, "
    with pytest.raises(
        ad.CheckpointError, match=re.escape(f"{said}AdaptiveNetwork.from_pretrained('{tmp_path}', model=MyModel())")
    ):
        from_pretrained(tmp_path)
    model = nets.Transformer()
    again = from_pretrained(tmp_path, model=model)
    assert again.model is model
    assert again.proven
    assert same(outputs(again, SMALL), outputs(network, SMALL))
    other = nets.Transformer(classes=7)
    with pytest.raises(ad.CheckpointError, match=r"head.weight is \[5, 16\] .*, AdaptiveNetwork.from_pretrained\("):
        from_pretrained(tmp_path, model=other)


def test_a_run_folder_is_read_too(network, tmp_path: Path) -> None:
    ad.save(network, tmp_path)
    assert same(outputs(from_pretrained(tmp_path)), outputs(network))


def test_a_run_folder_stays_one(network, tmp_path: Path) -> None:
    ad.save(network, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        ad.CheckpointError, match=r"already contains a network written by save \(network.json\): name another"
    ):
        network.save_pretrained(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_two_networks_in_one_folder_are_refused(network, shared: Path) -> None:
    ad.save(network, shared)
    with pytest.raises(
        ad.CheckpointError, match=r"contains both config.json and network.json, .* remove the older one"
    ):
        from_pretrained(shared)


def test_a_network_is_copied_and_pickled_as_before(network, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path, preprocessing=PREPROCESSING)
    again = from_pretrained(tmp_path)
    for other in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert other.preprocessing == again.preprocessing
        assert same(outputs(other), outputs(network))
    assert same(again.state_dict(), network.state_dict())


def test_what_the_methods_need_is_imported_when_they_are_called() -> None:
    code = "import adaptive_depth, sys; print('adaptive_depth.hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("method", ["save_pretrained", "from_pretrained", "push_to_hub"])
def test_arguments_are_those_of_the_hub(method: str) -> None:
    theirs = inspect.signature(getattr(ModelHubMixin, method)).parameters
    ours = inspect.signature(getattr(ad.AdaptiveNetwork, method)).parameters
    named = [name for name in theirs if name != "model_kwargs"]  # the constructor's: there are none to give
    assert [name for name in ours if name in theirs] == named
    assert all(ours[name].kind == theirs[name].kind for name in named)
    assert all(ours[name].default == theirs[name].default for name in named)


# -- entries of config.json -----------------------------------------------------------------------------------------


def test_preprocessing_comes_back_and_is_kept(network, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "1", preprocessing=PREPROCESSING)
    assert config_of(tmp_path / "1")["preprocessing"] == PREPROCESSING
    again = from_pretrained(tmp_path / "1")
    assert again.preprocessing == Preprocessing.of(PREPROCESSING)
    assert again.preprocessing.classes == ("ant", "bee", "cat")
    again.save_pretrained(tmp_path / "2")
    assert config_of(tmp_path / "2")["preprocessing"] == PREPROCESSING


def test_preprocessing_is_that_of_the_data(tmp_path: Path) -> None:
    """The digits of scikit-learn, prepared by the run's own configuration and by what was shared of it."""
    network = ad.adapt(ad.create_model("resnet18", num_classes=10, channels=[8, 8, 8, 8], in_chans=1))
    config = configure("digits", network, root=tmp_path / "secret", image_size=40, resize=48)
    network.save_pretrained(tmp_path / "shared", preprocessing=config)
    assert "secret" not in (tmp_path / "shared" / "config.json").read_text()
    prepared = from_pretrained(tmp_path / "shared").preprocessing
    assert prepared is not None
    data = open_data(config, "validation")
    expected = data[7][0]
    assert torch.equal(prepared.transform()(Image.fromarray(data.images[7])), expected)
    assert expected.shape == (1, 40, 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 0}, "preprocessing has image_size=0: expected a number of pixels above 0, such as 224"),
        ({"image_size": True}, "preprocessing has image_size=True: expected"),
        ({"image_size": "32"}, "preprocessing has image_size='32': expected"),
        ({"channels": 2}, "preprocessing has channels=2: expected 1 (grey) or 3 (colour)"),
        ({"channels": None}, "preprocessing has channels=None: expected"),
        ({"mean": [0.5]}, "preprocessing has mean=[0.5]: expected 3 numbers, one per channel"),
        ({"mean": 0.5}, "preprocessing has mean=0.5: expected 3 numbers"),
        ({"mean": [0, float("nan"), 0]}, "preprocessing has mean=[0, nan, 0]: expected 3 numbers"),
        ({"std": [1, 0, 1]}, "preprocessing has std=[1, 0, 1]: expected 3 numbers, one per channel, above 0"),
        ({"std": [10**400, 1, 1]}, "expected 3 numbers, one per channel"),
        ({"interpolation": "best"}, "preprocessing has interpolation='best': expected one of nearest, "),
        ({"interpolation": []}, "preprocessing has interpolation=[]: expected one of nearest, "),
        ({"crop_pct": 0}, "preprocessing has crop_pct=0: expected a fraction above 0 and at most 1"),
        ({"crop_pct": 1.5}, "preprocessing has crop_pct=1.5: expected"),
        ({"classes": "abc"}, "preprocessing has classes='abc': expected names"),
        ({"classes": [1, 2]}, "preprocessing has classes=[1, 2]: expected names"),
        ({"shape": 5}, "expected a mapping with image_size, channels, mean, std, interpolation, crop_pct, classes"),
    ],
)
def test_a_preprocessing_that_is_none(network, shared: Path, tmp_path: Path, changes: dict, said: str) -> None:
    wrong = PREPROCESSING | changes
    with pytest.raises(ad.DataError, match=re.escape(said)):
        network.save_pretrained(tmp_path / "new", preprocessing=wrong)
    assert not (tmp_path / "new").exists()
    edit(shared, preprocessing=wrong)
    field = re.match("preprocessing has (.*)=", said)
    with pytest.raises(ad.CheckpointError, match=rf"config.json (is damaged: .*{field[1] if field else ''}|holds )"):
        from_pretrained(shared)


def test_further_entries(network, tmp_path: Path) -> None:
    @dataclass
    class Mine:
        trained_on: str

    for config in ({"trained_on": "digits"}, Mine("digits")):
        network.save_pretrained(tmp_path, config=config)
        assert config_of(tmp_path)["trained_on"] == "digits"
        assert same(outputs(from_pretrained(tmp_path)), outputs(network))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (
            {"config": {"stages": 5, "sha256": ""}},
            ad.CheckpointError,
            "config has sha256, stages, which config.json already",
        ),
        ({"config": {"x": torch.nn.ReLU}}, ad.CheckpointError, "cannot be written as JSON (Object of type type is not"),
        ({"config": 5}, ad.CheckpointError, "config=5 cannot be written as JSON"),
        ({"preprocessing": 5}, ad.DataError, "preprocessing 5: "),
        (
            {"tradeoffs": {"FFFF": 5}},
            ad.CheckpointError,
            "tradeoffs is a dict: expected the result of the function tr",
        ),
        (
            {"tradeoffs": TradeOffs((Row("FF", 1, 1, 1),))},
            ad.CheckpointError,
            "of another network: FF is not among its ",
        ),
        (
            {"model_card_kwargs": {"tags": 5}},
            ad.CheckpointError,
            "model_card_kwargs={'tags': 5} is not valid card metadata",
        ),
        ({"model_card_kwargs": 5}, ad.CheckpointError, "model_card_kwargs=5 is not valid card metadata"),
        ({"model_card_kwargs": {"license": torch.nn.ReLU()}}, ad.CheckpointError, "is not valid card metadata"),
    ],
)
def test_wrong_arguments_write_nothing(network, tmp_path: Path, arguments: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        network.save_pretrained(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_arguments_that_no_json_holds(tmp_path: Path) -> None:
    network = ad.adapt(ad.create_model("resnet18", channels=[8, 8, 8, 8], norm_layer=torch.nn.BatchNorm2d))
    with pytest.raises(ad.CheckpointError, match=r"pass it to AdaptiveNetwork.from_pretrained\(folder, model=...\)"):
        network.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# -- the card -------------------------------------------------------------------------------------------------------


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_card_of_a_network_of_which_little_is_known(network, shared: Path) -> None:
    card = card_of(shared)
    assert card.data.to_dict() == {
        "library_name": "adaptive-depth", "pipeline_tag": "image-classification",
        "tags": ["adaptive-depth", "resnet18"],
    }  # fmt: skip
    assert card.text.startswith(
        "\n# shared\n\nresnet18 of timm as a network whose depth is chosen at run time: one set "
    )
    assert "serves 16 sub-networks, from the super-net `FFFF` down to the base-net `TTTT`. Made with" in card.text
    assert "https://arxiv.org/abs/2312.16392" in card.text
    assert str(network.stages) in card.text
    assert not {"## Trade-offs", "## Preprocessing"} & set(card.text.splitlines())


def test_card_of_a_network_of_which_much_is_known(network, tmp_path: Path) -> None:
    ad.calibrate(network, [torch.randn(4, 3, 32, 32)])
    device = {"type": "cpu", "processor": "Abacus 5", "threads": 2, "torch": "2.11"}
    metadata = {
        "license": "mit",
        "base_model": "timm/resnet18.a1_in1k",
        "tags": ["insects"],
        "datasets": ["me/insects"],
    }
    network.save_pretrained(
        tmp_path,
        repo_id="me/insects",
        tradeoffs=table_of(network, batch_size=4, device=device),
        preprocessing=PREPROCESSING,
        model_card_kwargs=metadata,
    )
    card = card_of(tmp_path)
    assert card.data.to_dict() == metadata | {
        "library_name": "adaptive-depth",
        "pipeline_tag": "image-classification",
        "tags": ["adaptive-depth", "resnet18", "insects"],
        "metrics": ["accuracy"],
    }
    assert "\n# insects\n" in card.text
    assert "BatchNorm statistics are calibrated for every depth." in card.text
    assert "| skip | top-1 | MMACs | parameters | latency | Pareto front |\n|---|---|---|---|---|---|\n" in card.text
    assert "| FFFF | 50.00 % | 8.000 | 9,000 | 2.50 ms |  |" in card.text
    assert "| FFFT | 89.00 % | 7.000 | 9,000 | 2.50 ms | * |" in card.text
    assert "| TTTT | 86.00 % | 4.000 | 9,000 | 2.50 ms |  |" in card.text
    assert (
        "Latency is the median of one forward pass for a batch of 4 on Abacus 5 (cpu, 2 CPU threads, torch 2.11). The "
        "Pareto front is of accuracy against latency_ms." in card.text
    )
    assert (
        "Images in colour, 32 x 32 pixels (bilinear; the central 87.5% of a side), mean [0.5, 0.25, 0.0], std "
        "[0.5, 1.0, 2.0]. Classes: ant, bee, cat." in card.text
    )


@pytest.mark.parametrize(
    ("quality", "metric"),
    [
        (Quality("RMSE", "m", higher_is_better=False), "rmse"),
        (Quality("mIoU", "%"), "mean_iou"),
        (Quality("mAP", "%"), "mean_average_precision"),
        (Quality("perplexity", higher_is_better=False), "perplexity"),
    ],
)
def test_card_of_a_network_that_is_judged_by_something_else(network, tmp_path: Path, quality, metric: str) -> None:
    table = replace(table_of(network), quality=quality)
    network.save_pretrained(tmp_path, tradeoffs=table, preprocessing=PREPROCESSING)
    data = card_of(tmp_path).data.to_dict()
    assert data["metrics"] == [metric]
    assert "pipeline_tag" not in data  # no class follows from that
    lower = "" if quality.higher_is_better else " (lower is better)"
    text = card_of(tmp_path).text
    assert f"| skip | {quality.name}{lower} | MMACs |" in text
    assert f"| TTTT | {f'86.00 {quality.unit}'.rstrip()} |" in text
    assert f"The Pareto front is of {quality.name} against latency_ms." in text
    assert text.count("| * |") == (
        4 if quality.higher_is_better else 1
    )  # all cost the same: 89.00 four times, 50.00 once
    mine = {"pipeline_tag": "depth-estimation", "metrics": ["mae"]}
    network.save_pretrained(tmp_path, tradeoffs=table, model_card_kwargs=mine)
    assert mine.items() <= card_of(tmp_path).data.to_dict().items()


def test_card_of_a_hand_written_network(nets, tmp_path: Path) -> None:
    nets.transformer().save_pretrained(tmp_path)
    card = card_of(tmp_path)
    assert card.data.to_dict() == {"library_name": "adaptive-depth", "tags": ["adaptive-depth"]}  # images? who knows
    assert "\n\nTransformer as a network whose depth" in card.text
    assert f'from_pretrained("{tmp_path.name}", model=Transformer(...))' in card.text


EVIL = "x\n---\nlicense: evil\n---\n# <script>a|b</script> | ```\n[c](javascript:d) &lt; \u202e"


def rendered(text: str) -> str:
    """As a renderer of CommonMark shows it."""
    return MarkdownIt("commonmark").enable("table").render(text)


def test_names_are_no_code_in_a_card(nets, tmp_path: Path) -> None:
    blocks = [nets.Residual() for _ in range(4)]
    model = type(EVIL, (nets.Chain,), {})(*blocks)
    network = ad.adapt(model, [ad.Stage(("blocks.0",), ("blocks.1",), name=EVIL), nets.chain_stages()[1]]).eval()
    network.proven = True
    rows = tuple(Row(skip, 50.0, 100, 9, latency_ms=1.0) for skip in network.skips)
    device = {"type": EVIL, "processor": EVIL, "threads": 1, "torch": EVIL}
    table = TradeOffs(rows, device=device, quality=Quality(EVIL, EVIL))
    metadata = {"license": EVIL, "base_model": EVIL, "tags": [EVIL], "datasets": [EVIL]}
    names = {**PREPROCESSING, "classes": (EVIL, "_b_", "*c*")}
    network.save_pretrained(
        tmp_path, repo_id=f"me/{EVIL}", tradeoffs=table, preprocessing=names, model_card_kwargs=metadata
    )
    card = card_of(tmp_path)
    assert {name: card.data.to_dict()[name] for name in metadata} == metadata | {"tags": ["adaptive-depth", EVIL]}
    text = card.text
    assert "<script" not in text.replace(str(network.stages), "")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}
    html = rendered(text)
    assert "<script" not in html
    assert "<a href" in html
    assert "javascript" not in " ".join(re.findall(r'(?:href|src)="([^"]*)"', html))
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 5
    assert [*re.findall("<h[12]>([^<]*)", html)][1:] == ["How to use", "Stages", "Trade-offs", "Preprocessing"]
    shown = unescape(re.sub("<[^>]*>", "", html))
    assert "Classes: x --- license: evil --- # <script>a|b</script> | ``` [c](javascript:d) &lt;  , _b_, *c*." in shown
    (code,) = re.findall(r'<code class="language-python">(.*?)</code>', html, re.DOTALL)
    (call,) = [line for line in unescape(code).splitlines() if "from_pretrained" in line]
    given = ast.parse(call).body[0].value.args[0].value  # type: ignore[attr-defined]
    assert given == f"me/{EVIL}"


def test_the_code_of_a_card_runs(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network.save_pretrained("mine", preprocessing=PREPROCESSING)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "mine" / "README.md").read_text(), flags=re.DOTALL)
    Image.new("L", (50, 40), 128).save("image.png")
    found: dict = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["x"].shape == (1, 3, 32, 32)
    assert found["x"][0, 1, 5, 5].item() == pytest.approx(128 / 255 - 0.25)
    with torch.no_grad():
        assert torch.equal(found["small"](found["x"]), network(found["x"], skip="TTTT"))


def test_a_card_that_was_changed_by_hand_stays(network, shared: Path) -> None:
    card = shared / "README.md"
    network.save_pretrained(shared, tradeoffs=table_of(network))
    assert "## Trade-offs" in card.read_text()  # nobody had touched it
    for mine in (card.read_text().replace("Made with", "Made by me with"), "# Mine\n", ""):
        card.write_text(mine)
        network.save_pretrained(shared)
        assert card.read_text() == mine
    card.unlink()
    network.save_pretrained(shared)
    assert "\n# shared\n" in card.read_text()


# -- writing in one step --------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def replace_the_nth(n: int, fail: Callable) -> Callable:
    calls, real = [], Path.replace

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        return fail() if len(calls) == n else real(self, target)

    return replace


@pytest.mark.parametrize("fail", [full, interrupted])
@pytest.mark.parametrize(
    ("where", "first"),
    [
        (where, first)
        for where in ("save_file", "fsync", "replace 1", "replace 2", "replace 3")
        for first in (True, False)
    ]
    + [("replace 4", False), ("replace 5", False), ("replace 6", False)],  # three files make way for three others
)
def test_a_failure_in_the_middle_leaves_what_was_there(
    network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fail: Callable, first: bool
) -> None:
    expected = outputs(network)
    if not first:
        network.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with torch.no_grad():
        network.model.fc.bias.add_(1.0)
    if where.startswith("replace"):
        monkeypatch.setattr(Path, "replace", replace_the_nth(int(where[-1]), fail))
    else:
        monkeypatch.setattr(os if where == "fsync" else folders, where, fail)
    error, said = (
        (KeyboardInterrupt, "^$") if fail is interrupted else (ad.CheckpointError, "No space .*; its contents")
    )
    with pytest.raises(error, match=said):
        network.save_pretrained(tmp_path, tradeoffs=table_of(network))
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    if not first:
        assert same(outputs(from_pretrained(tmp_path)), expected)
    network.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    assert same(outputs(from_pretrained(tmp_path)), outputs(network))


class Killed(BaseException):
    """The end of a process: nothing that it would still do happens."""


@pytest.mark.parametrize(
    ("step", "left"),
    [(1, "old"), (2, "weights are missing"), (3, "its SHA-256 is"), (4, "neither config.json"), (5, "new"), (6, "new")],
)
def test_a_process_that_is_killed_leaves_a_network_or_a_clear_error(
    network, shared: Path, monkeypatch: pytest.MonkeyPatch, step: int, left: str
) -> None:
    expected = {"old": outputs(network)}
    with torch.no_grad():
        network.model.fc.bias.add_(1.0)
    expected["new"] = outputs(network)

    def dead(*_: object, **__: object) -> None:
        monkeypatch.setattr(Path, "replace", dead)
        monkeypatch.setattr(Path, "unlink", dead)
        raise Killed

    monkeypatch.setattr(Path, "replace", replace_the_nth(step, dead))
    with pytest.raises(Killed):
        network.save_pretrained(shared)
    monkeypatch.undo()
    if left in expected:
        assert same(outputs(from_pretrained(shared)), expected[left])
    else:
        with pytest.raises(ad.CheckpointError, match=left):
            from_pretrained(shared)
    network.save_pretrained(shared)
    assert same(outputs(from_pretrained(shared)), expected["new"])


def test_a_folder_that_is_a_file(network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ad.CheckpointError, match=r"file cannot be written \(.*\): expected a folder"):
        network.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_files_of_others_stay(network, shared: Path) -> None:
    (shared / "notes.txt").write_text("mine")
    network.save_pretrained(shared)
    assert sorted(file.name for file in shared.iterdir()) == [*FILES, "notes.txt"]
    assert (shared / "notes.txt").read_text() == "mine"


# -- what cannot be loaded ------------------------------------------------------------------------------------------


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def mix(folder: Path) -> None:
    """The weights of another network of the same shape, intact."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "contains no network, neither config.json nor network.json"),
    "empty config": (lambda f: (f / "config.json").write_text(""), "config.json cannot be read"),
    "truncated config": (lambda f: cut(f / "config.json", 0.6), "it is damaged, or not a network of this library"),
    "config of others": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "config.json was not written by this library: expected a file with format 'adaptive-depth network'",
    ),
    "newer": (lambda f: edit(f, version=2), "has version 2, but this library reads up to 1: pip install -U"),
    "no stages": (lambda f: edit(f, stages=None), "stages: Input should be a valid array; received None"),
    "no sha256": (lambda f: edit(f, sha256=None), "config.json is damaged: it has no sha256, expected 64 digits"),
    "short sha256": (lambda f: edit(f, sha256="ab"), "sha256: Input should be 64 hexadecimal digits; received 'ab'"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "the weights are missing or truncated"),
    "truncated weights": (lambda f: cut(f / "model.safetensors", 0.7), "it is truncated or damaged, or the files"),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "does not match its description",
    ),
    "a flipped bit": (lambda f: flip(f / "model.safetensors"), "model.safetensors does not match its description"),
    "mixed": (mix, "or the files of two networks were mixed, as by an interrupted save; save or fetch all"),
    "path traversal": (
        lambda f: edit(f, weights="../x.safetensors"), "weights: Input should be the name of a file in the same",
    ),
    "other weights": (lambda f: edit(f, weights="config.json"), "config.json does not match its description"),
    "pretrained": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": {"pretrained": True}}),
        "config.json requests pretrained, but a saved network has its own weights: it is damaged or was tampered with",
    ),
    "checkpoint": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": {"checkpoint_path": "evil.pth"}}),
        "config.json requests checkpoint_path",
    ),
    "hub model": (
        lambda f: edit(f, source={"name": "hf-hub:evil", "arguments": {}}), "timm has no model 'hf-hub:evil'",
    ),
    "other classes": (
        lambda f: edit(f, source={"name": "resnet18", "arguments": ARGUMENTS | {"num_classes": 7}}),
        "model.fc.weight is [3, 16] there and [7, 16] in the model; pass the architecture that was saved, Adaptive",
    ),
    "dangling tie": (lambda f: edit(f, ties={"model.fc.weight": "x"}), "config.json ties 'model.fc.weight' to 'x', wh"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told(shared: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(shared)
    with pytest.raises(ad.CheckpointError, match=re.escape(said)) as caught:
        from_pretrained(shared)
    assert str(shared) in str(caught.value)


@pytest.mark.parametrize(
    "field", ["source", "stages", "weights", "ties", "version", "format", "sha256", "preprocessing"]
)
@pytest.mark.parametrize("junk", [5, 1.5, "x", ["x"], [None], [{}], {"a": 1}, {"name": "resnet18"}, "config.json"])
def test_junk_is_never_more_than_a_checkpoint_error(shared: Path, field: str, junk: object) -> None:
    edit(shared, **{field: junk})
    with pytest.raises(ad.CheckpointError, match=re.escape(str(shared))):
        from_pretrained(shared)


def test_loading_unpickles_nothing(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    assert from_pretrained(shared).skips[-1] == "TTTT"


# -- the Hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "nobody/nothing",
            "'nobody/nothing' is not a folder here, and cannot be downloaded (LocalEntryNotFoundError of hugg",
        ),
        ("nothing", "'nothing' is not a folder here, and cannot be downloaded"),
        (
            "./nothing",
            "'./nothing' is neither a folder nor the name of a repository: expected a folder that save_pretrained",
        ),
        ("/no/such/folder", "'/no/such/folder' is neither a folder nor the name of a repository"),
        (Path("runs/nothing"), "'runs/nothing' is neither a folder nor the name of a repository"),
        ("", "is neither a folder nor the name"),
        (None, "from_pretrained received a NoneType: expected a folder or 'USER/NAME'"),
        (5, "from_pretrained received a int: expected a folder"),
    ],
)
def test_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline, given: object, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    if given == "":
        monkeypatch.setattr(Path, "is_dir", lambda self: False)  # else it is the folder one stands in
    with pytest.raises(ad.CheckpointError, match=re.escape(said)) as caught:
        from_pretrained(given, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", [None, "v1", "a" * 40])
def test_a_repository_in_the_cache_is_read_offline(network, tmp_path: Path, revision: str | None) -> None:
    """The cache as huggingface_hub lays it out: a snapshot for each commit, and branches and tags that name it."""
    repository = tmp_path / "models--me--insects"
    network.save_pretrained(repository / "snapshots" / ("a" * 40), preprocessing=PREPROCESSING)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text("a" * 40)
    again = from_pretrained("me/insects", cache_dir=tmp_path, local_files_only=True, revision=revision)
    assert same(outputs(again), outputs(network))
    assert again.preprocessing is not None
    with pytest.raises(ad.CheckpointError, match="'me/insects' is not a folder here, and cannot be downloaded"):
        from_pretrained("me/insects", cache_dir=tmp_path, local_files_only=True, revision="v2")


def test_arguments_reach_the_client(network, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(shared)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    options = {"force_download": True, "token": "secret", "cache_dir": "c", "local_files_only": True, "revision": "v1"}
    assert same(outputs(from_pretrained("me/insects", **options)), outputs(network))
    wanted = ["config.json", "model.safetensors", "network.json", "weights-*.safetensors"]
    assert asked == options | {"repo_id": "me/insects", "allow_patterns": wanted}


class Repository:
    """Stands in for the client: keeps what it is asked, and the files it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.created, self.uploaded, self.token, self.folder = {}, {}, None, folder
        monkeypatch.setattr(huggingface_hub, "HfApi", self.api)

    def api(self, token: object) -> "Repository":
        self.token = token
        return self

    def create_repo(self, **options: object) -> SimpleNamespace:
        self.created = options
        return SimpleNamespace(repo_id=f"me/{str(options['repo_id']).rpartition('/')[2]}")

    def upload_folder(self, *, folder_path: str, **options: object) -> str:
        self.uploaded = options
        Path(folder_path).rename(self.folder)
        Path(folder_path).mkdir()
        return "https://huggingface.co/me/insects/commit/abc"


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Repository:
    """In place of the Hub; `test_the_client_has_these_methods` holds it against the real client."""
    return Repository(monkeypatch, tmp_path / "uploaded")


def test_the_client_has_these_methods(repository: Repository, network) -> None:
    network.push_to_hub("insects")
    real = huggingface_hub.hf_api.HfApi
    inspect.signature(real.create_repo).bind(real(), **repository.created)
    inspect.signature(real.upload_folder).bind(real(), folder_path=".", **repository.uploaded)


def test_pushing(repository: Repository, network) -> None:
    url = network.push_to_hub(
        "insects", private=True, token="secret", branch="b", create_pr=True, commit_message="Go",
        ignore_patterns="*.md", tradeoffs=table_of(network), preprocessing=PREPROCESSING,
        model_card_kwargs={"license": "mit"},
    )  # fmt: skip
    assert url == "https://huggingface.co/me/insects/commit/abc"
    assert repository.token == "secret"
    assert repository.created == {"repo_id": "insects", "private": True, "exist_ok": True}
    assert repository.uploaded == {
        "repo_id": "me/insects", "repo_type": "model", "commit_message": "Go", "revision": "b", "create_pr": True,
        "allow_patterns": None, "ignore_patterns": "*.md", "delete_patterns": None,
    }  # fmt: skip
    assert sorted(file.name for file in repository.folder.iterdir()) == FILES
    again = from_pretrained(repository.folder)
    assert same(outputs(again), outputs(network))
    assert again.preprocessing == Preprocessing.of(PREPROCESSING)
    card = card_of(repository.folder)
    assert card.data.license == "mit"
    assert "## Trade-offs" in card.text
    assert 'from_pretrained("me/insects")' in card.text  # with the name that the Hub gave


@pytest.mark.parametrize(("repo_id", "name"), [(None, "shared"), ("other", "other")])
def test_saving_and_pushing(repository: Repository, network, tmp_path: Path, repo_id: str | None, name: str) -> None:
    url = network.save_pretrained(
        tmp_path / "shared", repo_id=repo_id, push_to_hub=True, private=True, config={"mine": 1},
        preprocessing=PREPROCESSING, model_card_kwargs={"license": "mit"},
    )  # fmt: skip
    assert url == "https://huggingface.co/me/insects/commit/abc"
    assert repository.created["repo_id"] == name
    assert repository.created["private"] is True
    for folder in (tmp_path / "shared", repository.folder):
        assert config_of(folder)["mine"] == 1
        assert config_of(folder)["preprocessing"] == PREPROCESSING
        assert card_of(folder).data.license == "mit"


def test_what_is_wrong_is_told_before_a_repository_is_made(repository: Repository, network) -> None:
    with pytest.raises(ad.DataError, match="preprocessing 5"):
        network.push_to_hub("insects", preprocessing=5)
    assert repository.created == {}


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.hf_api.HfApi, "create_repo", refuse)
        yield


def test_errors_of_the_hub_are_one_line(network, monkeypatch: pytest.MonkeyPatch, offline) -> None:
    said = "the network cannot be pushed to 'me/insects' (PermissionError of huggingface_hub: 403: not yours); expected"
    with refusing(monkeypatch, PermissionError("403:\n not yours")), pytest.raises(ad.CheckpointError) as caught:
        network.push_to_hub("me/insects")
    assert str(caught.value).startswith(said)
    with pytest.raises(ad.CheckpointError, match=r"pushed to 'a/b/c' \(HFValidationError of huggingface_hub: Repo id"):
        network.push_to_hub("a/b/c")
    with pytest.raises(
        ad.CheckpointError, match=r"\(OfflineModeIsEnabled of huggingface_hub: .*hf auth login"
    ) as caught:
        network.push_to_hub("me/insects", token="hf_x")
    assert "\n" not in str(caught.value)


def test_a_table_of_text_in_a_card_has_the_time_per_token() -> None:
    rows = Row("F", 12.0, 4000, 900, token_ms=20.0), Row("T", 14.0, 2000, 700, token_ms=10.0)
    quality = Quality("perplexity", higher_is_better=False)
    text = trade_off_table(TradeOffs(rows, 2, quality=quality, prompt_tokens=100))
    assert "| skip | perplexity (lower is better) | kMACs | parameters | time per token | Pareto front |" in text
    assert "| F | 12.00 | 4.000 | 900 | 20.00 ms | * |" in text
    assert "Time per token is the median for a batch of 2, after a prompt of 100 tokens." in text
