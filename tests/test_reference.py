"""Checkpoints of the authors' implementation: their keys, and their outputs for every sub-network."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

import adaptive_depth as ad

GOLDEN = Path(__file__).parent / "golden"  # what the authors' code printed; its README tells how
NETWORKS = ["resnet50", "mobilenet_v2", "vit_b_16", "swin_t"]


def their_state(name: str) -> dict[str, torch.Tensor]:
    """Every tensor of the authors' network, its numbers drawn from its name."""
    plain = {
        key: tensor for key, tensor in models.get_model(name).state_dict().items() if not tensor.dtype.is_floating_point
    }
    state = {}
    for key, shape, kind in json.loads((GOLDEN / f"{name}.json").read_text())["keys"]:
        if kind != "float32":  # counters, and Swin's index tables, which its constructor gives
            if "relative_position_index" in key:
                ours = key.replace("features.", "", 1)
                number, rest = ours.split(".", 1)
                state[key] = plain[f"features.{int(number) + 1}.{rest}"].clone()
            else:
                state[key] = torch.zeros(shape, dtype=getattr(torch, kind))
            continue
        z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
        if key.endswith("running_var"):
            z = abs(z) * np.float32(0.1) + 1
        elif len(shape) >= 2 and not key.endswith("running_mean"):
            z = z * np.float32(np.prod(shape[1:]) ** -0.5)
        elif key.endswith("weight"):
            z = z * np.float32(0.1) + 1
        else:
            z = z * np.float32(0.1)
        state[key] = torch.from_numpy(np.asarray(z, dtype=np.float32).reshape(shape))
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_sub_network_returns_what_the_authors_returns(tmp_path, name):
    torch.save(their_state(name), tmp_path / "theirs.pth")
    network = ad.load_reference(name, tmp_path / "theirs.pth")
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((1, 3, 224, 224), dtype=np.float32))
    golden = json.loads((GOLDEN / f"{name}.json").read_text())["outputs"]
    assert tuple(golden) == network.skips
    for skip, expected in golden.items():
        with torch.no_grad():
            logits = network(x, skip=skip)[0].double()
        assert logits[:8].tolist() == pytest.approx(expected["first8"], abs=2e-4), skip
        assert float(logits.mean()) == pytest.approx(expected["mean"], abs=2e-4), skip
        assert float(logits.std()) == pytest.approx(expected["std"], abs=2e-4), skip
        assert int(logits.argmax()) == expected["argmax"], skip
