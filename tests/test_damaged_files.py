"""Every kind of file that is read, damaged in thousands of ways: one clear error, or a value that is right.

A damage follows from the kind of file and a number, so what is reported can be made again.
"""

import hashlib
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import save_file

import adaptive_depth as ad
from adaptive_depth.analysis.values import Analysis, BlockAnalysis, NormAnalysis, StageAnalysis
from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.cli import runs, tasks
from adaptive_depth.cli.report import _analysis as read_analysis
from adaptive_depth.cli.report import _history as read_history
from adaptive_depth.cli.report import _how_trained, _stages
from adaptive_depth.cli.share import _read_table
from adaptive_depth.data import DataConfig
from adaptive_depth.data.sets import open_set
from adaptive_depth.deploy.artifact import Artifact
from adaptive_depth.deploy.session import open_session
from adaptive_depth.governor.decisions import Decision, Seen, read_log
from adaptive_depth.meaning import Meaning
from adaptive_depth.preprocessing import Preprocessing
from adaptive_depth.quality import Quality
from adaptive_depth.training.history import Epoch, History
from adaptive_depth.training.loop import train
from adaptive_depth.training.recipe import Recipe, load_recipe
from adaptive_depth.weights import load_weights

SECONDS = 20  # that reading one file may take on a machine that does other things; usual are milliseconds
MEGABYTES = 600  # by which reading all files of a kind may make the process grow: none of them is larger than a few
SKIPS = ("FF", "FT", "TF", "TT")
MODEL = ("resnet18", {"num_classes": 3, "channels": [4, 4, 4, 4]})
PREPROCESSING = Preprocessing(32, 3, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0), "bilinear", 0.875, ("ant", "bee", "cat"))
RECIPE = {"epochs": 2, "lr": 0.05, "checkpoint_every": 1, "passes": "SBSBR", "delay": 1}


# -- files as they should be ----------------------------------------------------------------------------------------


def _table() -> TradeOffs:
    rows = (Row(s, 90.0 - n, 9000 - n, 900, 2.5 - n / 8, 20.0, 8.0, 88.0, 2.75 - n / 8) for n, s in enumerate(SKIPS))
    return TradeOffs(tuple(rows), 1, {"type": "cpu", "threads": 1}, (("FF", "FT"),), 900)


def _profile() -> Profile:
    times = tuple(2.0 + n / 16 for n in range(6))
    costs = {s: Cost(s, 9000 - n, 900, 2.25, 2.0, 2.5, 20.0, 8.0, {1: 444.0}, times) for n, s in enumerate(SKIPS)}
    conditions = {"rounds": 6, "warmup_rounds": 1, "drift_percent": 0.5}
    return Profile(costs, 1, {"type": "cpu", "threads": 1}, {}, conditions=conditions, inputs=((1, 3, 32, 32),))


def _history() -> History:
    return History(
        tuple(Epoch(n, 0.1 / n, 1.5, 60.0, 0.5, 50.0, 900.0, 0.25, {"FF": 61.0, "TT": 60.0}) for n in (1, 2, 3))
    )


class Scaled(torch.nn.Conv2d):
    """As libraries for small numbers have it: a state that is more than tensors."""

    scale: Any = None

    def get_extra_state(self) -> Any:
        return self.scale

    def set_extra_state(self, state: Any) -> None:
        self.scale = state


def Own(nets: Any) -> torch.nn.Module:
    """A model of the user's own, with all that a file can hold beside plain weights."""
    model = nets.Chain(*(nets.Residual() for _ in range(4)))
    model.stem = Scaled(3, 8, 3, padding=1)
    model.stem.scale = {"amax": torch.ones(2), "axes": (0, [1, "x"]), "low": -math.inf, "many": 2**70, "on": True}
    model.head.double()
    model.register_buffer("turn", torch.ones(2, 3, dtype=torch.complex128))
    model.register_buffer("ramp", torch.ones(4, dtype=torch.float64), persistent=False)
    return model


def _batches() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([n % 5, 1])) for n in range(2)]


@pytest.fixture
def whole(made_once: Callable[..., Path], nets: Any) -> Path:
    """A folder of every kind of file, none of them damaged."""
    return made_once("whole_files", lambda folder: _make(folder, nets))


def _make(folder: Path, nets: Any) -> None:
    network = ad.adapt(ad.create_model(MODEL[0], **MODEL[1]))
    network.preprocessing = PREPROCESSING
    ad.save(network, folder / "run")
    network.save_pretrained(folder / "hub")
    ad.save(ad.adapt(Own(nets), nets.chain_stages()).eval(), folder / "own")
    torch.save(network.model.state_dict(), folder / "plain.pth")
    save_file(network.model.state_dict(), folder / "plain.safetensors")
    run, plain = folder / "run", PREPROCESSING
    data = DataConfig("digits", None, 32, 3, plain.mean, plain.std, "bilinear", 0.875, plain.classes)
    told = {"run": "runs/a", "images": 900, "statistics": "none", "network": "", "data": "digits"}
    accuracies = {row.skip: row.accuracy for row in _table().rows}
    _write(run / "accuracy.json", {**told, "accuracy": accuracies, "quality": Quality("top-1", "%").to_json()})
    _write(run / "profile.json", _profile().to_json())
    _write(run / "alone.json", {"FF": 88.5, "TT": 87.0})
    _write(run / "tradeoffs.json", _table().to_json())
    _write(run / "data.json", data.to_json())
    _write(run / "task.json", {"task": "segmentation(ignore_index=0)", "metric": None, "metric_name": None})
    _write(run / "analysis.json", _analysis().to_json())
    (run / "history.csv").write_text(_history().to_csv())
    (run / "recipe.yaml").write_text(Recipe(model="resnet18", model_kwargs={"num_classes": 3}).to_yaml())
    artifact = Artifact(
        "onnx", [{"mandatory": ["a"], "skippable": ["b"], "norms": None, "name": n} for n in "ab"], SKIPS,
        (None, 3, 32, 32), "0123456789abcdef", "folded", "int8", (), PREPROCESSING, _table(),
        dict.fromkeys(SKIPS, 80.0), Quality("F1", "%"), dict.fromkeys(SKIPS, 81.0), ("kind", "size"),
        {"kind": Meaning("classes"), "size": Meaning("numbers", "m")},
    )  # fmt: skip
    _write(folder / "artifact.json", artifact.to_json())
    decision = Decision(2, 1.5, 0.25, {"latency_ms": 9.0}, "FT", "deeper", 1.25, (Seen(1.25, "TT", 3.0, 0.0),))
    (folder / "decision.json").write_text(json.dumps(decision.to_json()))
    (folder / "shards").mkdir()
    (folder / "shards" / "a.tar").write_bytes(b"")
    part = {"filenames": ["a.tar"], "shard_lengths": [3], "num_samples": 3}
    _write(folder / "shards" / "_info.json", {"splits": {"train": part}, "classes": ["ant", "bee"]})
    train(nets.chain(), _batches(), folder=folder / "checkpoints", keep=1, **RECIPE)
    (folder / "checkpoints" / "best.json").unlink()
    (folder / "exported").mkdir()
    ad.export_network(nets.chain().eval(), folder / "exported" / "model.onnx", torch.randn(1, 3, 8, 8))
    model = onnx.load(folder / "exported" / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key == "adaptive_depth"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)  # as version 0.1 wrote it
    onnx.save(model, folder / "exported" / "old.onnx")
    named = {json.loads(file.read_text())["tensors"] for file in (folder / "checkpoints").glob("*.json")}
    for file in (folder / "checkpoints").glob("weights-*"):
        if file.name not in named:
            file.unlink()


def _analysis() -> Analysis:
    blocks = (BlockAnalysis("a.0", 1, False, None), BlockAnalysis("a.1", 1, True, 0.25, None, -0.5, -0.4, 0.125))
    stages = (StageAnalysis(1, "one", -0.5, -0.4, None, 0.03, 0.06),)
    norms = (NormAnalysis("F", 0, "stem", 0.01, 0.02, 1, 8), NormAnalysis("T", 1, "a.0.norm", 0.25, 2.0, 1, 8))
    return Analysis(blocks, stages, norms, {"F": 1.5, "T": 1.53}, 64, 10, 9, ("Some words.",), "0123456789abcdef")


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1))


# -- damage ---------------------------------------------------------------------------------------------------------

DEEP, HUGE, NOWHERE = "@deep@", "@huge@", "@nowhere@"  # JSON that no dump writes: put into the text afterwards
ODD: tuple[Any, ...] = (
    None, True, False, "", "x", "3", "TTFF", "../../x", "\ud800", "\x00", [], {}, [[]], ["x"], {"x": 1}, 0, -1, 1, 2,
    10**9, 10**30, -(10**30), 0.5, -1.0, 1e-9, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf,
    DEEP, HUGE, NOWHERE,
)  # fmt: skip


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree[:12]) if isinstance(tree, list) else ()
    for name, each in entries:
        yield from _places(each, (*path, name))


def _odd(rng: random.Random) -> Any:
    return deepcopy(rng.choice(ODD))


def _damage_tree(tree: Any, rng: random.Random) -> Any:
    """One or two changes of what a JSON file holds: of a field, of a kind, of a number."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(_places(tree))
        if not places or rng.random() < 0.02:
            return _odd(rng)
        *parents, name = rng.choice(places)
        inside = tree
        for parent in parents:
            inside = inside[parent]
        value, way = inside[name], rng.randrange(8)
        if way == 0:
            del inside[name]
        elif way == 1 and isinstance(inside, dict):
            inside[rng.choice(("x", "", "format", f"{name}2", HUGE))] = _odd(rng)
        elif way == 2 and isinstance(inside, list):
            inside.insert(rng.randrange(len(inside) + 1), deepcopy(rng.choice((value, *ODD))))
        elif way == 3 and isinstance(value, int | float) and not isinstance(value, bool):
            inside[name] = rng.choice((-value, value * 1e12, value + 0.5, value * 10**20, str(value), [value]))
        elif way == 4 and isinstance(value, str) and value:
            place = rng.randrange(len(value))
            inside[name] = value[:place] + rng.choice("T01. /-\n(é") + value[place + rng.randrange(2) :]
        elif way == 5 and len(places) > 1:
            *others, there = rng.choice(places)
            found = tree
            for parent in others:
                found = found[parent]
            inside[name] = json.loads(json.dumps(found[there]))
        else:
            inside[name] = _odd(rng)
    return tree


def _json(tree: Any, rng: random.Random) -> bytes:
    text, deep = json.dumps(tree), rng.choice((40, 500, 100_000))
    for mark, odd in ((DEEP, "[" * deep + "]" * deep), (HUGE, json.dumps("ab" * 100_000)), (NOWHERE, "1e999")):
        text = text.replace(f"{json.dumps(mark)}:", f"{json.dumps('k' * 50_000)}:").replace(json.dumps(mark), odd)
    return text.encode()


def _damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits, truncation, something put in, something left out, another encoding."""
    damaged, way = bytearray(content), rng.randrange(9)
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.randrange(1, 40))
    if way <= 3:
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif way == 4:
        del damaged[start:]
    elif way == 5:
        del damaged[start:end]
    elif way == 6:
        damaged[start:start] = damaged[start:end] or rng.randbytes(8)
    elif way == 7:
        damaged[start:end] = rng.choice((bytes(end - start), rng.randbytes(end - start), b"9" * 5000, b"\xff\xfe"))
    else:
        return rng.choice((b"", b"null", b"\x00" * 64, content.decode("latin-1").encode("utf-16"), content * 2))
    return bytes(damaged)


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    return _damage_bytes(content, rng) if rng.random() < 0.25 else _json(_damage_tree(json.loads(content), rng), rng)


_BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]\n" for n in range(12))
_MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 8))
YAML = (
    "&a [*a]", "!!python/object/apply:os.system ['touch CANARY']", "!!python/name:os.system", "!!float ''", "!!int ''",
    "!!bool x", "!!timestamp x", "2023-99-99", "!!binary x", "!!set {a, b}", "!!omap [a: 1]", "9" * 6000, "1:99:99",
    ".nan", ".inf", "1e400", "[" * 3000, "{" * 3000, "- " * 3000, "? " * 3000, "|", "'", "*x", "&x", "%YAML 9", "\t- x",
    "{1: 2}", "0x", "0b",
)  # fmt: skip


def damaged_yaml(content: bytes, rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.3:
        return _damage_bytes(content, rng)
    if way < 0.35:
        return content + rng.choice((_BOMB, _MERGES)).encode()
    lines = content.decode().splitlines()
    if way < 0.6:
        place = rng.randrange(len(lines))
        lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(YAML)}"
        return "\n".join(lines).encode()
    tree = _damage_tree(yaml.safe_load(content), rng)
    if _has_odd(tree):
        return _json(tree, rng)
    return yaml.safe_dump(tree).encode()


def _has_odd(tree: Any) -> bool:
    return any(mark in json.dumps(tree) for mark in (DEEP, HUGE, NOWHERE))


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Half of them in the header: its length, names, shapes and places."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    way = rng.random()
    if way < 0.25:
        return _damage_bytes(content, rng)
    if way < 0.35:
        lie = rng.choice((0, 1, length - 1, length + 1, length + len(body), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", lie) + header + body
    tree = json.loads(header)
    if way < 0.5:
        name = rng.choice([name for name in tree if name != "__metadata__"])
        entry = tree[name]
        change = rng.randrange(4)
        if change == 0:
            entry["shape"] = rng.choice(([], [0], [2**62, 4], [-1], entry["shape"][::-1], [1, *entry["shape"]], [1e9]))
        elif change == 1:
            entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I32", "BOOL", "F4", "F8_E8M0", "C64", "X", "U64"))
        elif change == 2:
            entry["data_offsets"] = rng.choice(([0, 0], [0, 2**62], [5, 4], entry["data_offsets"][::-1], [0], [-4, 0]))
        else:
            tree[rng.choice(("__metadata__", "x", "", "a/../b", name.upper()))] = tree.pop(name)
        found = json.dumps(tree).encode()
    else:
        found = _json(_damage_tree(tree, rng), rng)
    return struct.pack("<Q", len(found)) + found + body


class Harm:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch CANARY",)


def _saved(rng: random.Random) -> bytes:
    """Tensors that are none of plain numbers, or of other kinds and shapes than a model has."""
    file, state = io.BytesIO(), dict(_model().state_dict())
    name = rng.choice(list(state))
    odd = (
        torch.empty(state[name].shape, device="meta"), torch.empty(10**9, device="meta"), state[name].to_sparse(),
        torch.zeros(1).expand(10**12), state[name].to(torch.complex64), state[name] > 0, torch.zeros(0),
        torch.tensor(1.0), 1.0, None, [state[name]], {"state_dict": state},
    )  # fmt: skip
    state[name] = rng.choice(odd)
    torch.save(state, file)
    return file.getvalue()


def damaged_pth(content: bytes, rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.5:
        return _damage_bytes(content, rng)
    if way < 0.55:
        return rng.choice((pickle.dumps(Harm()), pickle.dumps({"a": Harm()}), b"\x80\x02.", b"PK\x05\x06" + bytes(18)))
    if way < 0.6:
        return _saved(rng)
    file, zeros = io.BytesIO(), rng.random() < 0.2
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        chosen, change = rng.choice(names), rng.randrange(6)
        for name in names:
            part = old.read(name)
            if (name == chosen and change < 4) or (name.endswith("data.pkl") and change == 4):
                part = (b"", pickle.dumps({"a": Harm()}), part * 2, _damage_bytes(part or b"x", rng))[rng.randrange(4)]
            packed = zipfile.ZIP_DEFLATED if zeros else zipfile.ZIP_STORED
            renamed = name == chosen and change == 5
            new.writestr(rng.choice(("../x", "x", name.upper())) if renamed else name, part, packed)
        if zeros:
            new.writestr("archive/data/bomb", bytes(10**7), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def damaged_csv(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _damage_bytes(content, rng)
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rng.choice(rows)
    place = rng.randrange(len(row))
    odd = (
        "",
        "x",
        "nan",
        "inf",
        "-inf",
        "-1",
        "1e308",
        "1e999",
        "0.5",
        '"',
        "1_000",
        " 1 ",
        "1e400",
        "9" * 200_000,
        "0x1",
    )
    row[place] = rng.choice((*odd, f"{row[place]},1"))
    if rng.random() < 0.2:
        del rows[rng.randrange(len(rows))]
    return "\n".join(",".join(row) for row in rows).encode()


# -- readers, and what is right -------------------------------------------------------------------------------------


_FREE = ("device", "conditions", "arguments", "stages")  # entries that are shown, or given on, as they are


def _are_finite(value: Any, most: float = 1e20, place: str = "") -> None:
    """No number in it is none, and none is beyond what can be counted or measured."""
    if is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, dict):
        for name, each in value.items():
            _are_finite(each, math.inf if name in _FREE else most, f"{place}.{name}")
    elif isinstance(value, tuple | list):
        for each in value:
            _are_finite(each, most, place)
    elif isinstance(value, int | float):
        assert math.isfinite(value), place
        assert abs(value) <= most, (place, value)


def _told_is_finite(told: Any) -> None:
    _are_finite(told, math.inf)


def _are_skips(*skips: str) -> None:
    assert skips
    assert len({len(skip) for skip in skips}) == 1, skips
    assert all(re.fullmatch("[TF]{1,12}", skip) for skip in skips), skips


def _right_table(table: TradeOffs | None) -> None:
    assert table is not None
    _are_finite(table)
    _are_skips(*(row.skip for row in table.rows))
    assert len({row.skip for row in table.rows}) == len(table.rows)
    assert table.batch_size >= 1
    assert table.images is None or table.images >= 1
    for row in table.rows:
        assert row.macs >= 0
        assert row.parameters >= 0
        assert row.latency_ms is None or row.latency_ms > 0
        assert all(cost is None or cost >= 0 for cost in (row.memory_mb, row.energy_mj))
        if table.quality == Quality("top-1", "%"):
            assert 0 <= row.accuracy <= 100
    assert {skip for pair in table.ties for skip in pair} <= {row.skip for row in table.rows}
    assert table.choose(macs=max(row.macs for row in table.rows) + 1).skip in [row.skip for row in table.rows]
    assert str(table)


def _right_profile(profile: Profile) -> None:
    _are_finite(profile)
    _are_skips(*profile.costs)
    assert profile.batch_size >= 1
    for skip, cost in profile.costs.items():
        assert cost.skip == skip
        assert cost.macs >= 0
        assert cost.latency_ms is None or cost.latency_ms > 0
        if cost.latency_ms and cost.latency_low_ms and cost.latency_high_ms:
            assert cost.latency_low_ms <= cost.latency_ms <= cost.latency_high_ms
        assert all(time > 0 for time in cost.times_ms)
        assert all(batch >= 1 and rate > 0 for batch, rate in cost.throughput.items())
    assert str(profile)


def _right_preprocessing(found: Preprocessing) -> None:
    _are_finite(found)
    assert found.channels in (1, 3)
    assert len(found.mean) == len(found.std) == found.channels
    assert all(each > 0 for each in found.std)
    assert 1 <= found.image_size <= found.image_size / found.crop_pct <= 2**14


def _right_artifact(found: Artifact) -> None:
    _are_finite(found)
    _are_skips(*found.skips)
    assert len(found.skips[0]) == len(found.stages)
    assert len(set(found.skips)) == len(found.skips)
    assert math.prod(side or 1 for side in found.input_shape) <= 2**28
    assert found.form in ("shared", "folded")
    assert found.precision in ("float32", "int8")
    if found.preprocessing is not None:
        _right_preprocessing(found.preprocessing)
    if found.trade_offs is not None:
        _right_table(found.trade_offs)
    for values in (found.accuracy, found.float_accuracy):
        assert set(values or ()) <= set(found.skips)


def _right_history(found: History | None) -> None:
    assert found is not None
    _are_finite(found.epochs)
    for epoch in found.epochs:
        assert epoch.epoch >= 1
        assert epoch.lr >= 0
        assert epoch.images_per_s >= 0
        assert epoch.accuracy is None or 0 <= epoch.accuracy <= 100.1
        _are_skips(*(epoch.validation or {"F": 0.0}))


def _right_network(network: ad.AdaptiveNetwork) -> None:
    _are_skips(*network.skips)
    kept = torch.load(_REFERENCE[0], weights_only=True)
    state = network.state_dict()
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in kept.items())
    if network.preprocessing is not None:
        _right_preprocessing(network.preprocessing)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32), skip=network.skips[-1]).shape == (1, 3)


_REFERENCE: list[Path] = []


def _right_accuracy(found: dict[str, Any]) -> None:
    _are_finite(found["accuracy"])
    _are_skips(*found["accuracy"])


def _right_recipe(found: Recipe) -> None:
    _are_finite(found)
    assert found.epochs >= 1
    assert found.batch_size >= 1
    assert found.lr > 0
    assert all(size is None or 1 <= size <= 2**14 for size in (found.image_size, found.eval_size, found.eval_resize))
    json.dumps(found.to_json(), allow_nan=False)


def _right_decisions(found: tuple[Decision, ...]) -> None:
    _are_finite(found)
    for decision in found:
        _are_skips(decision.skip)
        assert decision.number >= 1
        assert decision.at_s >= 0
        assert decision.waited_ms >= 0
        assert decision.slowdown > 0
        assert all(each.latency_ms > 0 and each.waited_ms >= 0 for each in decision.seen)


def _right_analysis(found: Analysis | None) -> None:
    assert found is not None
    _are_finite(found)
    assert found.images >= 1
    _are_skips(*(row.skip for row in found.norms or (NormAnalysis("F", 0, "", 0, 0, 1, 1),)))
    assert all(row.cosine is None or abs(row.cosine) <= 1.001 for row in found.blocks)
    assert str(found)


def _right_shards(found: Any) -> None:
    assert all(shard.length >= 1 and shard.first >= 0 for shard in found.shards)
    assert len(found) == sum(shard.length for shard in found.shards)


def _right_stages(found: list[Any]) -> None:
    assert 1 <= len(found) <= 12
    assert all(isinstance(path, str) for stage in found for path in stage["mandatory"])


@cache
def _model() -> torch.nn.Module:
    return ad.create_model(MODEL[0], **MODEL[1])


def _loaded_weights(file: Path) -> torch.nn.Module:
    load_weights(_model(), file)
    return _model()


def _right_weights(model: torch.nn.Module) -> None:
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == _shapes()


@cache
def _shapes() -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _model().state_dict().items()}


def _renamed_weights(folder: Path) -> Path:
    """Weights bear the digest of their content: a damage that somebody made on purpose bears the right one."""
    for file in folder.glob("*.json"):
        named = json.loads(file.read_bytes())
        for part in ("weights", "tensors"):
            if part in named:
                content = (folder / named[part]).read_bytes()
                named[part] = f"weights-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
                (folder / named[part]).write_bytes(content)
                file.write_text(json.dumps(named))
    return folder


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies among the whole ones, how it is damaged, read, and what is asserted."""

    file: str
    damage: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path, Any], Any]
    check: Callable[[Any], Any]
    times: int = 600


def _own(file: Path, nets: Any) -> ad.AdaptiveNetwork:
    return ad.load(file.parent, model=Own(nets))


def _right_own(network: ad.AdaptiveNetwork) -> None:
    _are_skips(*network.skips)
    for name, tensor in network.model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            assert tensor.shape == _OWN[name], name


_OWN: dict[str, Any] = {}


@cache
def _network(nets: Any) -> ad.AdaptiveNetwork:
    return nets.chain()


def _resumed(file: Path, nets: Any) -> History:
    return train(_network(nets), _batches(), folder=file.parent, resume=True, **RECIPE)


def _outputs(file: Path) -> dict[str, Any]:
    session = open_session(file, threads=1)
    return {skip: session(np.ones((1, 3, 8, 8), np.float32), skip) for skip in session.skips}


def _right_outputs(found: dict[str, Any]) -> None:
    _RIGHT.update(_RIGHT or found)  # the whole file is read first
    assert found.keys() == _RIGHT.keys()
    assert all(np.array_equal(output, _RIGHT[skip]) for skip, output in found.items())


_RIGHT: dict[str, Any] = {}


KINDS = {
    "network": Kind("run/network.json", damaged_json, lambda file, _: ad.load(file.parent), _right_network),
    "config": Kind(
        "hub/config.json", damaged_json, lambda file, _: ad.AdaptiveNetwork.from_pretrained(file.parent), _right_network
    ),
    "weights": Kind(
        "run/weights-*",
        damaged_safetensors,
        lambda file, _: ad.load(_renamed_weights(file.parent)),
        lambda net: _right_weights(net.model),
    ),
    "safetensors": Kind(
        "plain.safetensors", damaged_safetensors, lambda file, _: _loaded_weights(file), _right_weights
    ),
    "pth": Kind("plain.pth", damaged_pth, lambda file, _: _loaded_weights(file), _right_weights),
    "own network": Kind("own/network.json", damaged_json, _own, _right_own),
    "own weights": Kind(
        "own/weights-*",
        damaged_safetensors,
        lambda file, nets: _own(_renamed_weights(file.parent) / "x", nets),
        _right_own,
        300,
    ),
    "stages": Kind("run/network.json", damaged_json, lambda file, _: _stages(file.parent), _right_stages),
    "accuracy": Kind(
        "run/accuracy.json", damaged_json, lambda file, _: runs.read_accuracy(file.parent), _right_accuracy, 800
    ),
    "joined": Kind("run/accuracy.json", damaged_json, lambda file, _: runs.trade_offs(file.parent), _right_table),
    "profile": Kind(
        "run/profile.json", damaged_json, lambda file, _: runs.read_profile(file.parent), _right_profile, 1200
    ),
    "alone": Kind("run/alone.json", damaged_json, lambda file, _: runs.read_alone(file.parent), _are_finite, 500),
    "table": Kind("run/tradeoffs.json", damaged_json, lambda file, _: _read_table(file.parent), _right_table, 1200),
    "data": Kind(
        "run/data.json",
        damaged_json,
        lambda file, _: runs.read_data(file.parent),
        lambda data: _right_preprocessing(data.preprocessing),
        800,
    ),
    "told of a run": Kind(
        "run/data.json", damaged_json, lambda file, _: _how_trained(file.parent), _told_is_finite, 200
    ),
    "task": Kind(
        "run/task.json",
        damaged_json,
        lambda file, _: tasks.task_of(tasks.remembered(file.parent, tasks.Chosen())),
        lambda _: None,
    ),
    "analysis": Kind(
        "run/analysis.json", damaged_json, lambda file, _: read_analysis(file.parent), _right_analysis, 800
    ),
    "history": Kind("run/history.csv", damaged_csv, lambda file, _: read_history(file.parent), _right_history, 800),
    "recipe": Kind("run/recipe.yaml", damaged_yaml, lambda file, _: load_recipe(file), _right_recipe, 400),
    "told of a recipe": Kind(
        "run/recipe.yaml", damaged_yaml, lambda file, _: _how_trained(file.parent), _told_is_finite, 200
    ),
    "checkpoint": Kind("checkpoints/step-*.json", damaged_json, _resumed, _right_history, 500),
    "state": Kind(
        "checkpoints/weights-*",
        damaged_safetensors,
        lambda file, nets: _resumed(_renamed_weights(file.parent) / "x", nets),
        _right_history,
        300,
    ),
    "artifact": Kind(
        "artifact.json",
        damaged_json,
        lambda file, _: Artifact.from_json(file.read_bytes(), file),
        _right_artifact,
        1200,
    ),
    "onnx": Kind("exported/model.onnx", _damage_bytes, lambda file, _: _outputs(file), _right_outputs, 400),
    # Without a checksum some of its numbers may be others, and it may fail when it runs: never in another way.
    "onnx of 0.1": Kind("exported/old.onnx", _damage_bytes, lambda file, _: _outputs(file), lambda _: None, 300),
    "decision": Kind(
        "decision.json",
        damaged_json,
        lambda file, _: read_log(file),
        _right_decisions,
        700,
    ),
    "shards": Kind(
        "shards/_info.json",
        damaged_json,
        lambda file, _: open_set(f"wds/{file.parent}", None, "train", False, None),
        _right_shards,
    ),
}


# -- the tests ------------------------------------------------------------------------------------------------------


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """What a process must not do while it reads: sees every file that is opened to be written, and every program."""

    def __init__(self) -> None:
        self.allowed: Path | None = None  # where files may be written; None while nothing is read
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            self.seen.append(f"{event} {args}")
        writes = (
            event == "open" and isinstance(args[0], str) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if writes or event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.symlink"):
            path = Path(os.fsdecode(args[0])).absolute()
            if not path.is_relative_to(self.allowed) and "__pycache__" not in path.parts and path != Path(os.devnull):
                self.seen.append(f"{event} {path}")


_WATCH = Watch()


@pytest.fixture(scope="session", autouse=True)
def _watching() -> None:
    sys.addaudithook(_WATCH)  # it cannot be taken away again


def _took_too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _tried(kind: Kind, file: Path, nets: Any) -> str | None:
    """Read a damaged file: None where one error of ours came of it, or a value that is right."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _WATCH.allowed, _WATCH.seen = file.parent, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = kind.read(file, nets)
            kind.check(value)
    except ad.AdaptiveDepthError as error:
        said = str(error)
        if len(said) > 4000 or not said:
            return f"an error of {len(said)} characters"
    except BaseException as error:  # noqa: BLE001 - panics of Rust are no Exception
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno} {where.line}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _WATCH.allowed = None
    return "; ".join(_WATCH.seen) or None


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_one_clear_error_or_a_value_that_is_right(name, whole, nets, tmp_path, monkeypatch) -> None:
    kind = KINDS[name]
    (source,) = whole.glob(kind.file)
    content = source.read_bytes()
    _REFERENCE[:] = [whole / "plain.pth"]
    _OWN.update({name: getattr(value, "shape", None) for name, value in Own(nets).state_dict().items()})
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGALRM, _took_too_long)
    folder, names = tmp_path / "read", set()
    kind.check(kind.read(shutil.copytree(source.parent, folder, ignore=_not_needed) / source.name, nets))
    shutil.rmtree(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures: dict[str, list[int]] = {}
    for seed in range(kind.times):
        if not folder.exists() or {path.name for path in folder.iterdir()} != names:  # a reader has written there
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source.parent, folder, ignore=_not_needed)
            names = {path.name for path in folder.iterdir()}
        file = folder / source.name
        file.write_bytes(kind.damage(content, random.Random(f"{name} {seed}")))
        found = _tried(kind, file, nets)
        if found is not None:
            failures.setdefault(found, []).append(seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = "\n".join(f"{name} {seeds[:5]} ({len(seeds)}): {said}" for said, seeds in failures.items())
    assert not failures, f"\n{told}"
    assert grown < MEGABYTES
    assert not (tmp_path / "CANARY").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"read"}


def _not_needed(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("run", "hub", "own", "shards", "checkpoints", "exported")]


def test_there_are_ten_thousand_and_each_kind_has_its_share() -> None:
    assert sum(kind.times for kind in KINDS.values()) >= 10_000
    assert min(kind.times for kind in KINDS.values()) >= 200
