"""--task, --metric and --metric-name: train, evaluate, analyze and select for another task than one class an image."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

import adaptive_depth as ad
from adaptive_depth.cli import runs, tasks
from adaptive_depth.data import create_loader
from adaptive_depth.meaning import Meaning
from adaptive_depth.quality import Quality

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python
F1 = "torchmetrics.classification.MulticlassF1Score(num_classes=3)"
OWN = """
import torch
import torchmetrics

import adaptive_depth as ad


class Place(ad.tasks.Regression):
    # Where the stripe is: 0 on the left, 1 in the middle, 2 on the right; the error counts how far off.
    def inputs(self, batch):
        images, labels = super().inputs(batch)
        return images, labels.float()


class Yes(ad.tasks.MultiLabel):
    def inputs(self, batch):
        images, labels = super().inputs(batch)
        return images, torch.nn.functional.one_hot(labels, 3).float()


class Both(ad.tasks.Heads):
    # Which stripe and where it is, by one layer: the first three outputs are logits, the last one is a number.
    def inputs(self, batch):
        images, labels = ad.tasks.Classification().inputs(batch)
        return images, {"kind": labels, "place": labels.float()}

    def output(self, output):
        if isinstance(output, torch.Tensor):
            output = {"kind": output[:, :3], "place": output[:, 3]}
        return super().output(output)


heads = {"kind": ad.tasks.Classification(), "place": ad.tasks.Regression(unit="stripes")}
both = Both(heads, judged_by="place")
place = Place(unit="stripes")
plain = ad.tasks.Regression()
number = 3


def made(unit="m"):
    return Place(unit=unit)


def worst(predictions, targets, scale=1):
    return scale * (predictions - targets).abs().max()


def undefined(predictions, targets):
    return (predictions - predictions).sum() / 0


class Unfinished(ad.tasks.Task):
    pass


class NoDirection(torchmetrics.MeanAbsoluteError):
    higher_is_better = None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of tasks and metrics, named from its folder."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    monkeypatch.chdir(folder)
    return folder / "own.py"


def judged(path):
    return json.loads((path / "accuracy.json").read_text())


def test_the_options_stand_in_the_help(call):
    for command in ("train", "evaluate"):
        text = " ".join(call(command, "--help")[1].split())
        assert all(said in text for said in ("--task", "--metric", "--metric-name", "my_task.py:Angle"))
    assert "--task" in call("analyze", "--help")[1]
    assert "--quality" in call("select", "--help")[1]


def test_evaluate_by_f1_as_scikit_learn_has_it(call, run):
    status, out, err = call("evaluate", run, "--metric", F1, "--metric-name", "F1 (%)", "--device=cpu")
    assert (status, err) == (0, "")
    assert out.startswith("F1 on 12 images of ")
    told = judged(run)
    assert told["quality"] == {"name": "F1", "unit": "%", "higher_is_better": True}
    network, expected = ad.load(run), {}
    (images, labels), *rest = create_loader(runs.read_data(run), "validation", batch_size=12)
    assert not rest
    for skip in ("FFFF", "TTTT"):
        with torch.no_grad():
            answers = network(images, skip=skip).argmax(1)
        expected[skip] = 100 * f1_score(labels, answers, average="macro", zero_division=0.0)
        assert f"{skip:<8} {told['accuracy'][skip]:>7.2f} %" in out
    assert {skip: told["accuracy"][skip] for skip in expected} == pytest.approx(expected)
    table = runs.trade_offs(run)
    assert str(table.quality) == "F1 (%)"
    status, out, _ = call("select", run, "--quality=0.1", "--json")
    assert status == 0
    assert json.loads(out)["limits"] == {"quality": 0.1}
    status, _, err = call("select", run, "--accuracy=90")
    assert (status, "unknown limit accuracy=90" in err) == (2, True)
    assert "quality" not in json.loads(call("evaluate", run, "--json")[1])  # another time without: top-1


UNDEFINED = ("--metric=own.py:undefined", "--metric-name=F1 (higher is better)")


def test_a_metric_that_is_not_a_number_is_written_nowhere(call, run, own):
    before = (run / "accuracy.json").read_bytes()
    status, out, err = call("evaluate", run, *UNDEFINED)
    assert (status, out) == (2, "")
    assert "Error: F1 of FFFF is nan: expected a finite number; nothing was written. Is the metric defined" in err
    assert (run / "accuracy.json").read_bytes() == before


@pytest.mark.filterwarnings("ignore:the metric of the validation is not finite")
def test_a_training_whose_metric_is_not_a_number_keeps_its_network(call, train_arguments, tmp_path, own):
    run = tmp_path / "run"
    status, _, err = call(*train_arguments, "--epochs=1", *UNDEFINED, f"--output={run}")
    assert status == 2
    assert f"Error: F1 of FFFF is nan: expected a finite number; the trained network is in {run}. Is the metric" in err
    assert ad.load(run).calibrated
    assert not (run / "accuracy.json").exists()
    status, _, err = call("evaluate", run, "--task=classification")
    assert status == 0, err
    assert len(judged(run)["accuracy"]) == 16


def test_train_by_a_metric_remembers_it(call, train_arguments, tmp_path):
    run = tmp_path / "run"
    options = ["--metric", F1, "--metric-name=F1 (%)", "--set=label_smoothing=0.1", "--epochs=1"]
    status, out, err = call(*train_arguments, *options, f"--output={run}")
    assert status == 0, err
    assert out.startswith("F1 (%) on 12 validation images, before and after calibration:")
    assert "training accuracy" in err  # of a classifier as before
    assert json.loads((run / "task.json").read_text()) == {
        "task": None,
        "metric": F1,
        "metric_name": "F1 (%)",
        "classes": True,
    }
    before = judged(run)
    status, out, _ = call("evaluate", run, "--json")
    assert (status, json.loads(out)["accuracy"]) == (0, pytest.approx(before["accuracy"]))
    assert json.loads(out)["quality"] == before["quality"] == {"name": "F1", "unit": "%", "higher_is_better": True}
    assert call("analyze", run, "--maps=0")[0] == 0
    status, _, _ = call(*train_arguments, "--epochs=1", f"--output={run}", "--overwrite")
    assert (status, (run / "task.json").exists()) == (0, False)


def test_ordinal_regression_by_a_task_of_ones_own(call, train_arguments, tmp_path, own):
    """The classes as numbers, one output; told apart from chance by an error that is the root of a mean square."""
    run = tmp_path / "run"
    options = ["--task=own.py:place", "--model-kwargs=num_classes=1", "--lr=0.01"]
    status, out, err = call(*train_arguments, *options, f"--output={run}")
    assert status == 0, err
    assert out.startswith("RMSE (stripes, lower is better) on 12 validation images")
    assert re.search(r"epoch 2 of 2, [\d,]+ samples/s, loss [\d.]+; base-net: loss [\d.]+\n", err)
    told = judged(run)
    assert told["quality"] == {"name": "RMSE", "unit": "stripes", "higher_is_better": False}
    network = ad.load(run)
    (images, labels), *_ = create_loader(runs.read_data(run), "validation", batch_size=12)
    with torch.no_grad():
        error = (network(images, skip="TTTT")[:, 0] - labels).square().mean().sqrt().item()
    assert told["accuracy"]["TTTT"] == pytest.approx(error, rel=1e-4)

    status, _, err = call("evaluate", run)
    assert status == 2
    assert "was trained with --task 'own.py:place', custom code that is loaded only if you name it again" in err
    status, out, _ = call("evaluate", run, "--task=own.py:place")
    assert status == 0
    digits = Quality("RMSE", "stripes").digits(told["accuracy"].values())
    assert f"TTTT     {error:>7.{digits}f} stripes" in out  # as in every other table
    status, out, err = call("analyze", run, "--task=own.py:place")
    assert status == 0, err
    assert err == "No maps.png: class-activation maps need classes, and Place has none\n"
    found = json.loads((run / "analysis.json").read_text())
    assert found["losses"]["TTTT"] == pytest.approx(error**2, rel=1e-3)

    assert call("profile", run, "--seconds=0.5", "--device=cpu")[0] == 0
    status, out, _ = call("select", run, "--latency-ms=1000")
    assert status == 0
    assert "Lower RMSE is better." in out
    best = min(told["accuracy"].values())
    chosen = json.loads(call("select", run, "--latency-ms=1000", "--json")[1])["chosen"]
    assert told["accuracy"][chosen] == best


def test_several_labels_of_a_class_and_a_function_as_metric(call, train_arguments, tmp_path, own):
    run = tmp_path / "run"
    status, out, err = call(*train_arguments, "--epochs=1", "--task=own.py:Yes", f"--output={run}")
    assert status == 0, err
    assert out.startswith("mAP (%) on 12 validation images")
    metric = ["--metric=own.py:worst(scale=2)", "--metric-name=worst (lower is better)"]
    status, out, err = call("evaluate", run, "--task=own.py:Yes", *metric, "--json")
    assert status == 0, err
    network = ad.load(run)
    (images, labels), *_ = create_loader(runs.read_data(run), "validation", batch_size=12)
    with torch.no_grad():
        errors = network(images, skip="FFFF").sigmoid() - torch.nn.functional.one_hot(labels, 3)
    assert json.loads(out)["accuracy"]["FFFF"] == pytest.approx(2 * errors.abs().max().item(), rel=1e-4)
    status, _, err = call("analyze", run, "--task=own.py:Yes", "--maps=0")  # of targets that the task makes
    assert (status, err) == (0, "")


def test_several_heads_of_a_class(call, train_arguments, tmp_path, own):
    run, task = tmp_path / "run", "--task=own.py:both"
    status, out, err = call(
        *train_arguments, "--epochs=1", task, "--model-kwargs=num_classes=4", "--lr=0.01", f"--output={run}"
    )
    assert status == 0, err
    assert out.startswith("RMSE (stripes, lower is better) on 12 validation images")
    network = ad.load(run)
    (images, labels), *_ = create_loader(runs.read_data(run), "validation", batch_size=12)
    with torch.no_grad():
        error = (network(images, skip="TTTT")[:, 3] - labels).square().mean().sqrt().item()
    status, out, err = call("evaluate", run, task, "--json")
    assert status == 0, err
    assert json.loads(out)["accuracy"]["TTTT"] == pytest.approx(error, rel=1e-4)
    status, out, err = call("analyze", run, task)
    assert (status, err) == (0, "No maps.png: class-activation maps need classes, and Both has none\n")


@pytest.mark.parametrize("name", ["Place", "place", "made", "made(unit='km')", "Place(unit='km')"])
def test_a_class_an_instance_and_what_makes_one(own, name):
    if name == "made":
        with pytest.raises(ad.TrainingError, match=r"'own\.py:made' is a function: expected a task"):
            tasks.task_of(tasks.Chosen("own.py:made"))
        return
    found = tasks.task_of(tasks.Chosen(f"own.py:{name}"))
    assert type(found).__name__ == "Place"
    assert found.quality.unit == ("km" if "km" in name else "stripes" if name == "place" else "")


def test_a_module_that_can_be_imported(own, monkeypatch):
    monkeypatch.syspath_prepend(own.parent)
    assert tasks.task_of(tasks.Chosen("own:Yes")).quality.name == "mAP"
    sys.modules.pop("own")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task=regression"], "the task Regression needs numbers for each image, but the data"),
        (["--task=multi-label"], "no data set of the command line has that; train in Python"),
        (["--task=segmentation(ignore_index=0)"], "the task Segmentation needs the class of every pixel"),
        (["--task=own.py:plain"], "the task Regression needs numbers for each image"),
        (["--task=own.py:heads"], "the task Heads needs a target per head for each image, but the data"),
        (["--task=angle"], "--task 'angle': expected one of classification, multi-label, regression, segmentation, d"),
        (["--task=own.py:Nobody"], "--task 'own.py:Nobody': own.py has no 'Nobody'; it has"),
        (["--task=own.py:number"], "--task 'own.py:number' is a int: expected a task"),
        (["--task=nowhere.py:Angle"], "--task 'nowhere.py' does not exist: expected one of classification"),
        (["--task=broken.py:Angle"], "--task: broken.py cannot be loaded (ZeroDivisionError: division by zero)"),
        (["--task=classification(foo=1)"], "expected classification(criterion=None, "),
        (["--task=own.py:Unfinished"], "): define distil, loss, metric in the class"),
        (["--task=segmentation(print(1))"], "expected numbers, strings and lists in brackets"),
        (["--metric-name=F1"], "--metric-name 'F1' without --metric"),
        (["--metric=f1"], "--metric 'f1': expected a name such as torchmetrics.classification.MulticlassF1Score"),
        (["--metric=torchmetrics.F2"], "torchmetrics has no 'F2'"),
        (
            ["--metric=torchmetrics.classification.MulticlassF1Score"],
            "required positional argument: 'num_classes'): expected "
            "torchmetrics.classification.MulticlassF1Score(num_classes, top_k=1, ",
        ),
        (
            ["--metric=own.py:NoDirection"],
            "the metric NoDirection does not define whether higher or lower is better: pass",
        ),
        (
            ["--metric=own.py:worst"],
            '--metric-name "NAME (UNIT, lower is better)" on the command line, or a custom task',
        ),
        (["--metric=own.py:NoDirection", "--metric-name=MAE (m)"], "'MAE (m)' does not say whether higher or lower"),
        (
            ["--metric=torchmetrics.classification.MulticlassF1Score(num_classes=7)"],
            "the metric MulticlassF1Score refused predictions [12, 3] and targets [12]",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_the_run_as_it_is(call, run, own, options, said):
    Path("broken.py").write_text("1 / 0\n")
    before = (run / "accuracy.json").read_bytes()
    status, out, err = call("evaluate", run, *options)
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert (run / "accuracy.json").read_bytes() == before


def test_train_refuses_before_it_makes_a_folder(call, train_arguments, tmp_path):
    status, _, err = call(*train_arguments, "--task=regression", f"--output={tmp_path / 'run'}")
    assert (status, "the task Regression needs numbers for each image" in err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"task": "own.py:place"}', "custom code that is loaded only if you name it again"),
        ('{"task": "os:system"}', "custom code that is loaded only if you name it again"),
        ('{"metric": "os.system(\'true\')"}', "custom code that is loaded only if you name it again"),
        (
            '{"metric": "torchmetrics.classification.accuracy.system"}',
            "custom code that is loaded only if you name it again",
        ),
        ('{"metric": "own.py:worst"}', "was trained with --metric 'own.py:worst', custom code"),
        ('{"job": "regression"}', "contains no valid task"),
        ('{"task": 3}', "contains no valid task"),
        ("[]", "contains no valid task"),
        ("{", "cannot be read"),
    ],
)
def test_a_run_folder_runs_no_code(call, run, own, content, said):
    (run / "task.json").write_text(content)
    own.write_text("raise SystemError('was loaded')")
    status, out, err = call("evaluate", run)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    if "worst" in content:
        assert call("analyze", run, "--maps=0")[0] == 0  # which asks for no metric


def test_a_quality_that_is_none_names_its_file(call, run):
    told = judged(run)
    (run / "accuracy.json").write_text(json.dumps(told | {"quality": {"kind": "F1"}}))
    status, _, err = call("select", run)
    assert (status, f"{run / 'accuracy.json'} has quality={{" in err) == (2, True)


@pytest.mark.slow
def test_a_run_of_another_task_is_exported_quantised_and_run(call, train_arguments, pictures, tmp_path, own):
    run, task = tmp_path / "run", "--task=own.py:place"
    trained = call(*train_arguments, "--epochs=1", task, "--model-kwargs=num_classes=1", f"--output={run}")
    assert trained[0] == 0
    measured = judged(run)["accuracy"]
    status, out, err = call("export", run, "--to=onnx")
    assert status == 0, err
    session = ad.open_session(run / "export" / "model.onnx")
    assert session.artifact.labels == ()
    assert str(session.artifact.trade_offs.quality) == "RMSE (stripes, lower is better)"
    images = [str(path) for path in sorted((pictures / "val").rglob("*.png"))[:3]]
    for what in (run, run / "export" / "model.onnx"):
        status, out, err = call(
            "run", what, *images, "--skip=FFFF", "--backend=eager" if what == run else "--threads=1"
        )
        assert status == 0, err
        first, _, _, *_ = out.splitlines()
        assert re.fullmatch(rf"{re.escape(images[0])}  FFFF  -?[\d.e-]+ stripes", first)  # no code was named
        if what != run:
            digits = Quality("RMSE", "stripes").digits(measured.values())
            assert f"RMSE: {measured['FFFF']:.{digits}f} stripes expected at these depths" in out
    status, out, _ = call("run", run / "export" / "model.onnx", *images, "--target-ms=1000", "--json")
    assert (status, json.loads(out)["quality"]["name"]) == (0, "RMSE")
    best = min(measured, key=lambda skip: measured[skip])
    assert json.loads(out)["depths"] == {best: 3}  # the lowest error is the best one

    int8 = ["export", run, "--to=openvino", "--int8", "--images=20", "--skips=FFFF,TTTT"]
    status, _, err = call(*int8)
    assert (status, "custom code that is loaded only if you name it again" in err) == (2, True)
    status, out, err = call(*int8, task)
    assert status == 0, err
    artifact = ad.open_session(run / "export" / "model-int8.xml").artifact
    assert artifact.float_accuracy == pytest.approx({skip: measured[skip] for skip in ("FFFF", "TTTT")}, rel=1e-4)
    assert "RMSE stripes in float" in out
    assert f"{artifact.float_accuracy['TTTT']:.3f}" in out
    assert f"{artifact.accuracy['TTTT']:.3f}" in out


def test_export_asks_for_a_metric_where_it_measures_and_for_a_task_to_say_what_outputs_are(call, run):
    status, _, err = call("export", run, "--to=onnx", f"--metric={F1}")
    assert status == 2
    assert "--metric says how to measure --int8: omit it, or add --int8" in err
    status, _, err = call("export", run, "--to=onnx", "--task=multi-label", "--skips=TTTT")
    assert status == 0, err
    assert ad.open_session(run / "export" / "model.onnx").artifact.meanings == {"": Meaning("labels")}


def test_an_instance_has_no_arguments(own):
    with pytest.raises(ad.TrainingError, match=r"own\.py:place is already an instance, omit the brackets"):
        tasks.task_of(tasks.Chosen("own.py:place(unit='m')"))


@pytest.mark.parametrize("name", ["Place", "made()"])
def test_a_file_is_loaded_once(own, name):
    first, again = (tasks.task_of(tasks.Chosen(f"own.py:{name}")) for _ in range(2))
    assert type(first) is type(again)
