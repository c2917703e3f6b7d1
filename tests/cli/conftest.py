"""A tiny data set and a run on it, made once; tests that change a run work on a copy."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from adaptive_depth.cli import main
from adaptive_depth.cli.runs import threads

TINY = [
    f"--model-kwargs={argument}"
    for argument in ("channels=[4, 4, 8, 8]", "in_chans=1", "stem_type=deep", "stem_width=2")
]


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):  # so small networks are slowed down by more, above all beside other tests
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three classes: a bright stripe on the left, in the middle, on the right; 12 images each to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("left", "middle", "right")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 60, (24, 24), np.uint8)
                pixels[:, 8 * label : 8 * label + 8] += 180
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def train_arguments(pictures):
    """A training of a second or two; the output folder is to be added."""
    options = ["--epochs=2", "--batch-size=8", "--image-size=24", "--workers=0", "--device=cpu", "--lr=0.05"]
    return ["train", "resnet18", f"--data={pictures}", *options, *TINY]


@pytest.fixture(scope="session")
def _trained(tmp_path_factory, train_arguments):
    run = tmp_path_factory.mktemp("runs") / "tiny"
    with warnings.catch_warnings(), threads(1):
        warnings.simplefilter("ignore", ResourceWarning)  # timm leaves closing image files to Python
        assert main([*train_arguments, f"--output={run}"]) == 0
        assert main(["profile", str(run), "--seconds=0.5", "--device=cpu"]) == 0
    return run


@pytest.fixture
def run(_trained, tmp_path):
    """A copy of a trained, evaluated and profiled run."""
    return shutil.copytree(_trained, tmp_path / "run")


def judge_by_an_error(run):
    """As a program of one's own may: what was measured are metres, 0.25 of the super-net and 0.01 more a stage less."""
    measured = json.loads((run / "accuracy.json").read_text())
    errors = {skip: round(0.25 + 0.01 * skip.count("T"), 2) for skip in measured["accuracy"]}
    told = {"accuracy": errors, "quality": {"name": "RMSE", "unit": "m", "higher_is_better": False}}
    (run / "accuracy.json").write_text(json.dumps({**measured, **told}))


@pytest.fixture
def call(capsys):
    """Run a command: (exit status, stdout, stderr)."""

    def called(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return called
