"""cli/: the commands end to end, what programs may read, and one line for every mistake."""

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.choose.tradeoffs import TradeOffs
from adaptive_depth.cli import show
from adaptive_depth.data import DataConfig, create_loader
from adaptive_depth.measure.profiling import profile
from adaptive_depth.quality import TOP_1

from .conftest import judge_by_an_error

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to Python
COMMANDS = ("demo", "stages", "train", "evaluate", "profile", "select", "analyze", "report", "share")


# -- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(call, command):
    status, out, err = call(command, "--help")
    assert (status, err) == (0, "")
    assert f"Example: adaptive-depth {command}" in " ".join(out.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview_lists_the_commands(call, arguments):
    status, out, _ = call(*arguments)
    assert status == 0
    assert all(command in out for command in COMMANDS)


def test_version(call):
    status, out, _ = call("--version")
    assert status == 0
    assert out.startswith("adaptive-depth 0.")


def test_the_commands_themselves_load_nothing_slow():
    """Help must come at once: whatever the package loads, the command line alone loads neither torch nor timm."""
    code = (
        "import sys, types, importlib.util as u; spec = u.find_spec('adaptive_depth')\n"
        "package = types.ModuleType('adaptive_depth'); package.__path__ = spec.submodule_search_locations\n"
        "sys.modules['adaptive_depth'] = package\n"
        "import adaptive_depth.cli as cli\n"
        "assert cli.main(['train', '--help']) == 0\n"
        "slow = {'torch', 'timm', 'torchvision', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- the pipeline -----------------------------------------------------------------------------------------------


def test_stages(call):
    status, out, _ = call("stages", "resnet18")
    assert status == 0
    assert "layer3" in out
    assert "16 sub-networks, from FFFF (super-net, 1,814.1 MMACs per image) to TTTT (base-net, 889.2)" in out
    status, out, _ = call("stages", "torchvision/resnet50", "--json")
    told = json.loads(out)
    assert ad.Stages.from_json(told["stages"])[2].skippable == ("layer3.3", "layer3.4", "layer3.5")
    assert len(told["skips"]) == 16


def test_train_writes_a_run(run):
    history = list(csv.DictReader((run / "history.csv").open(newline="")))
    assert [line["epoch"] for line in history] == ["1", "2"]
    data = json.loads((run / "data.json").read_text())
    assert (data["classes"], data["image_size"], data["channels"]) == (["left", "middle", "right"], 24, 1)
    assert ad.load(run).calibrated
    assert len(json.loads((run / "accuracy.json").read_text())["accuracy"]) == 16


def test_train_tells_programs_json_and_people_what_comes_next(call, train_arguments, tmp_path):
    status, out, err = call(
        *train_arguments, "--epochs=1", f"--output={tmp_path / 'a'}", "--json", "--passes=algorithm 1", "--low-memory"
    )
    told = json.loads(out)
    assert status == 0
    assert err.startswith("training: epoch 1 of ")
    assert err.count("\n") == 1
    assert set(told) >= {"run", "accuracy", "before_calibration", "history", "images"}
    assert (told["images"], len(told["history"])) == (12, 1)
    status, out, _ = call(*train_arguments, "--epochs=1", f"--output={tmp_path / 'b'}")
    assert f"adaptive-depth profile {tmp_path / 'b'}" in out


def test_train_compares_itself_with_networks_trained_alone(call, train_arguments, tmp_path):
    run = tmp_path / "run"
    status, out, _ = call(
        *train_arguments, "--epochs=1", f"--output={run}", "--compare=alone", "--compare-seeds=2", "--json"
    )
    told = json.loads(out)
    assert status == 0
    assert {skip: len(values) for skip, values in told["alone"].items()} == {"FFFF": 2, "TTTT": 2}
    assert json.loads((run / "alone.json").read_text()) == pytest.approx(
        {skip: sum(values) / 2 for skip, values in told["alone"].items()}
    )
    status, out, _ = call(*train_arguments, "--epochs=1", f"--output={run}", "--overwrite", "--compare=alone")
    assert status == 0
    alone = json.loads((run / "alone.json").read_text())
    assert alone["FFFF"] == told["alone"]["FFFF"][0]  # the same seed
    assert re.search(rf"FFFF     in the adaptive network \S+ %, alone {alone['FFFF']:.2f} %: [+-]\d", out)
    assert "Each alone: 1 epoch of the same recipe, the same number of images loaded, 1 seed; " in out


def test_the_same_seed_trains_the_same_network(call, train_arguments, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call(*train_arguments, "--epochs=1", f"--seed={seed}", f"--output={tmp_path / name}")[0] == 0
    a, b, c = (torch.cat([p.flatten() for p in ad.load(tmp_path / name).parameters()]) for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_train_keeps_an_old_run_unless_told_otherwise(call, train_arguments, run):
    before = (run / "network.json").read_bytes()
    status, _, err = call(*train_arguments, "--epochs=1", f"--output={run}")
    assert status == 2
    assert "already holds a network: name another --output, or replace it with --overwrite" in err
    assert (run / "network.json").read_bytes() == before
    status, _, err = call(*train_arguments, "--lr=1e30", f"--output={run}", "--overwrite")
    assert status == 2  # the training failed: the old run is whole
    assert (run / "network.json").read_bytes() == before
    assert (run / "profile.json").exists()
    assert call(*train_arguments, "--epochs=1", "--seed=5", f"--output={run}", "--overwrite")[0] == 0
    assert (run / "network.json").read_bytes() != before
    assert not (run / "profile.json").exists()  # it was the old network's


def test_who_watches_sees_both_losses_and_the_time_left(call, train_arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as if stderr were a terminal
    monkeypatch.setenv("COLUMNS", "110")
    status, _, err = call(*train_arguments, f"--output={tmp_path / 'a'}")
    assert status == 0
    number = r"\d+\.\d"
    line = (
        rf"training .* \d+/18 .*\d:\d\d.*\s+epoch 1 of 2, [\d,]+ samples/s, super-net: loss {number}+, "
        rf"training accuracy {number} %; base-net: loss [\d.e-]+, {number} %"
    )
    assert re.search(line, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", err)), err


def test_trackers_and_averaged_weights(call, train_arguments, tmp_path):
    """What is kept are the averaged weights, calibrated; and what every step cost and gave can be looked at."""
    pytest.importorskip("tensorboard")
    fields = ["--set=ema=0.5", "--set=validate_every=1", "--set=validate=[FFFF, TTFF, TTTT]"]
    run = tmp_path / "averaged"
    status, _, err = call(*train_arguments, *fields, "--track=tensorboard", f"--output={run}")
    assert (status, "validation" in err) == (0, False)
    assert [*(run / "trackers" / "tensorboard").glob("events.*")]
    header = (run / "history.csv").read_text().splitlines()[0]
    assert header.endswith("images_per_s,waiting,validation FFFF,validation TTFF,validation TTTT")
    kept = json.loads((run / "accuracy.json").read_text())
    assert kept["statistics"] == "measured for each context (calibrate)"
    assert ad.load(run).calibrated
    plain = tmp_path / "plain"
    assert call(*train_arguments, f"--output={plain}")[0] == 0
    weights = [torch.cat([p.flatten() for p in ad.load(each).parameters()]) for each in (run, plain)]
    assert not torch.equal(*weights)


def test_damaged_images_cost_neither_the_calibration_nor_the_last_epoch(call, train_arguments, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    (folder / "train" / "left" / "3.png").write_text("no image")
    (folder / "val" / "right" / "2.png").write_text("no image")
    arguments = [f"--data={folder}" if each.startswith("--data=") else each for each in train_arguments]
    arguments += ["--set=skip_damaged=0.1", f"--output={tmp_path / 'run'}"]
    status, _, err = call(*arguments)
    assert status == 2  # in validation, and nothing is lost
    assert re.search(r"Error: image .*2\.png cannot be read.*; then run the same command with --resume$", err.strip())
    assert [path.stem for path in (tmp_path / "run" / "checkpoints").glob("step-*.json")].count("step-00000008") == 1
    shutil.copy(folder / "val" / "right" / "1.png", folder / "val" / "right" / "2.png")
    status, _, err = call(*arguments, "--resume")
    assert status == 0, err
    assert re.search(r"Resuming from .*/checkpoints/step-00000018.json: epoch 2, after step 18\n", err), err
    assert err.count("epoch 2 of 2") == 1
    assert ad.load(tmp_path / "run").calibrated  # on the images that can be read
    status, _, err = call(*arguments[:-1], f"--output={tmp_path / 'other'}", "--resume")
    assert status == 0, err
    assert re.search(r"No checkpoint in .*other/checkpoints: training starts from the beginning\n", err), err
    status, _, err = call(*arguments, "--overwrite")
    assert (status, "1 training image could not be read and was left out: " in err) == (0, True)
    arguments[arguments.index("--set=skip_damaged=0.1")] = "--set=skip_damaged=0.001"
    status, _, err = call(*arguments, "--overwrite")
    assert status == 2
    assert re.search(r"or allow a larger share with --set skip_damaged=SHARE; then run the same command", err)


def test_weights_are_told_apart(call, train_arguments, tmp_path):
    small = {"channels": [4, 4, 8, 8], "in_chans": 1, "stem_type": "deep", "stem_width": 2}
    paths = {}
    for name, classes in (("resnet18", 7), ("resnet34", 3), ("resnet50", 3)):
        paths[name] = tmp_path / f"{name}.pth"
        torch.save(ad.create_model(name, num_classes=classes, **small).state_dict(), paths[name])
    base = [*train_arguments, "--epochs=1"]
    status, _, err = call(*base, f"--weights={paths['resnet18']}", f"--output={tmp_path / 'a'}")
    assert status == 0
    assert "resnet18.pth, so left as created: fc.weight, fc.bias" in err
    for name in ("resnet34", "resnet50"):
        status, _, err = call(*base, f"--weights={paths[name]}", f"--output={tmp_path / 'b'}")
        assert (status, f"{name}.pth is from another model: " in err) == (2, True)
    torch.save(ad.create_model("resnet18", **small), tmp_path / "whole.pth")
    status, _, err = call(*base, f"--weights={tmp_path / 'whole.pth'}", f"--output={tmp_path / 'b'}")
    assert (status, err.count("\n")) == (2, 1)
    assert (
        "holds more than tensors (such as a whole model), which is not read because it could run code: save only" in err
    )
    status, _, err = call(*base, f"--weights={paths['resnet18']}", "--pretrained", f"--output={tmp_path / 'b'}")
    assert (status, "--weights and --pretrained both say where to start: give only one" in err) == (2, True)


def test_a_recipe_fetches_no_weights(call, train_arguments, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for argument in ("pretrained: true", "weights_backbone: DEFAULT", "checkpoint_path: /somewhere"):
        recipe.write_text(f"model_kwargs: {{{argument}}}\n")
        status, _, err = call(*train_arguments, f"--recipe={recipe}", f"--output={tmp_path / 'b'}")
        assert status == 2
        assert (
            f"the model's arguments contain {argument.partition(':')[0]}, which fetches or reads weights: leave it"
            in err
        )
    assert not (tmp_path / "b").exists()


def test_which_weights_of_a_file_is_told_and_chosen(call, train_arguments, tmp_path):
    small = {"channels": [4, 4, 8, 8], "in_chans": 1, "stem_type": "deep", "stem_width": 2, "num_classes": 3}
    one, other = (ad.create_model("resnet18", **small).state_dict() for _ in range(2))
    file = tmp_path / "a.ckpt"
    wrapped = {f"module.{name}": tensor for name, tensor in other.items()}
    torch.save({"state_dict": one, "state_dict_ema": wrapped}, file)
    base = [*train_arguments, "--epochs=1", "--lr=1e-9", f"--weights={file}"]
    for name, state, more, said in (
        ("a", one, [], f"{file}: took 'state_dict', not 'state_dict_ema:module' (entry= or --weights-entry)\n"),
        (
            "b",
            other,
            ["--weights-entry=state_dict_ema"],
            f"{file}: took 'state_dict_ema:module'; dropped 'module.'",
        ),
    ):
        status, _, err = call(*base, *more, f"--output={tmp_path / name}")
        assert status == 0
        assert said in err
        torch.testing.assert_close(ad.load(tmp_path / name).model.fc.weight, state["fc.weight"])
    for more, said in (
        ([f"--weights={file}", "--weights-entry=x"], "expected 'state_dict' or 'state_dict_ema:module'"),
        (["--weights-entry=x"], "--weights-entry selects weights inside a file: add --weights FILE"),
    ):
        status, _, err = call(*train_arguments, *more, f"--output={tmp_path / 'c'}")
        assert (status, err.count("\n")) == (2, 1)
        assert said in err


@pytest.mark.slow
def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(train_arguments, tmp_path):
    command = [sys.executable, "-m", "adaptive_depth", *train_arguments, "--epochs=500", f"--output={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("training: epoch 1 of 500"), first
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    found = re.search(r"Asked to stop; a checkpoint of step (\d+) is in .*: continue with resume \(--resume\)", said)
    assert found, said
    assert "Traceback" not in said
    kept = max((tmp_path / "run" / "checkpoints").glob("step-*.json")).stem
    assert int(kept.removeprefix("step-")) == int(found[1])


@pytest.mark.slow
def test_a_run_folder_has_one_writer_and_a_killed_one_blocks_nobody(call, train_arguments, tmp_path):
    run = tmp_path / "run"
    long = [*train_arguments[:-4], "--epochs=500", "--workers=1", "--set=checkpoint_every=1", *train_arguments[-4:]]
    command = [sys.executable, "-m", "adaptive_depth", *long, f"--output={run}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("training: epoch 1 of 500")
    for more in ([], ["--resume"], ["--overwrite"]):
        status, _, err = call(*train_arguments, f"--output={run}", *more)
        assert (status, err.count("\n")) == (2, 1)
        assert f"{run} is being written by process {process.pid} on " in err
    assert [*(run / "checkpoints").glob("step-*.json")]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run / "checkpoints" / ".adaptive-depth-old.unfinished").mkdir()
    status, _, err = call(*train_arguments, f"--output={run}", "--overwrite")
    assert status == 0, err
    assert [file.name for file in run.rglob(".*")] == []


def test_another_process_that_ended_is_told_in_a_line(call, monkeypatch):
    def ends(*_):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer")

    monkeypatch.setattr("adaptive_depth.cli.runs.open_run", ends)
    with pytest.raises(RuntimeError, match="Connection closed"):
        call("evaluate", "runs/x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call("evaluate", "runs/x") == (
        2, "", "Error: another process of this training failed: see its own error message\n",
    )  # fmt: skip


def test_evaluate_says_which_statistics_it_used(call, run):
    network = ad.load(run)
    network.reset_statistics(per_context=False)
    for said, changed in (("measured for each context", False), ("gathered in training, by super-net and", True)):
        if changed:
            ad.save(network, run)
        status, out, _ = call("evaluate", run, "--workers=0", "--device=cpu")
        assert status == 0
        assert f"images of {json.loads((run / 'data.json').read_text())['name']}; norm statistics: {said}" in out


def test_a_variant_without_skip_aware_norms_on_a_part_of_each_batch(call, train_arguments, tmp_path):
    fields = ["--set=skip_aware_norms=false", "--set=distil_share=0.5", "--set=grad_checkpointing=true", "--epochs=1"]
    fields.append("--set=passes=algorithm 1")
    assert call(*train_arguments, *fields, f"--output={tmp_path / 'a'}")[0] == 0
    network = ad.load(tmp_path / "a")
    assert not [*network.skip_norms.parameters()]
    status, _, err = call(*train_arguments, "--set=distil_share=2", f"--output={tmp_path / 'b'}")
    assert (status, "distil_share=2: expected a fraction of each batch, above 0 and at most 1" in err) == (2, True)


@pytest.mark.slow
def test_two_processes_train_measure_and_write_once(train_arguments, tmp_path):
    """All started by torchrun: training, calibration and evaluation are shared out, one process tells and writes."""
    run = tmp_path / "run"
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "adaptive_depth"]
    command = [sys.executable, "-m", *launch, *train_arguments, f"--output={run}", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["images"] == 12
    assert all(100 * hits / 12 == pytest.approx(100 * round(hits) / 12) for hits in (
        accuracy * 12 / 100 for accuracy in told["accuracy"].values()
    ))  # fmt: skip
    assert told["statistics"] == "measured for each context (calibrate)"
    assert done.stderr.count("training: epoch 1 of 2") == 1
    network = ad.load(run)
    config = DataConfig.from_json(json.loads((run / "data.json").read_text()))
    assert ad.evaluate(network, create_loader(config, "validation", batch_size=4)) == pytest.approx(told["accuracy"])


def test_evaluate_repeats_what_train_measured(call, run):
    measured = json.loads((run / "accuracy.json").read_text())["accuracy"]
    (run / "accuracy.json").unlink()
    status, out, err = call("evaluate", run, "--workers=0", "--device=cpu", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["accuracy"] == pytest.approx(measured)
    assert json.loads((run / "accuracy.json").read_text())["accuracy"] == pytest.approx(measured)


def test_the_test_part_is_judged_and_nothing_is_written(call, run, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "three")
    shutil.copytree(tmp_path / "three" / "val", tmp_path / "three" / "test")
    before = (run / "accuracy.json").read_bytes()
    status, out, err = call("evaluate", run, "--split=test", f"--data={tmp_path / 'three'}")
    assert (status, err) == (0, "")
    assert re.search(r"^Top-1 accuracy on \d+ images of .* \(test split\); norm statistics", out)
    assert "Written to" not in out
    assert (run / "accuracy.json").read_bytes() == before
    assert "--split train: expected validation or test" in call("evaluate", run, "--split=train")[2]


def test_profile_of_some_depths_is_not_the_runs(call, run):
    status, out, _ = call("profile", run, "--skips=FFFF,TTTT", "--no-latency")
    assert status == 0
    assert f"Not written to {run}: it covers only some depths." in out


def test_a_folder_that_is_not_there_is_told_before_torch_is_imported():
    script = "import sys; from adaptive_depth.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for data in ("./nothing", "coco/nothing"):
        arguments = [sys.executable, "-c", script, "train", "resnet18", "--data", data, "--output", "unused"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout == "2 False\n"
        assert f"Error: --data {data}: there is no folder nothing; expected one that contains train/" in done.stderr


def test_evaluate_on_other_images_leaves_the_run_as_it_is(call, run, pictures):
    before = (run / "accuracy.json").read_bytes()
    status, out, _ = call("evaluate", run, f"--data={pictures}", "--workers=0")
    assert status == 0
    assert "TTFF" in out
    assert (run / "accuracy.json").read_bytes() == before


def test_profile_of_a_name_only_prints(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call("profile", "resnet18", "--no-latency", "--image-size=64", "--device=cpu", "--json")
    costs = {cost["skip"]: cost for cost in json.loads(out)["costs"]}
    assert (status, err) == (0, "")
    assert costs["TTTT"]["macs"] < costs["FFFF"]["macs"]
    assert not list(tmp_path.iterdir())


def test_profile_of_a_run_uses_its_image_size(call, run):
    status, out, _ = call("profile", run, "--no-latency", "--device=cpu", "--json")
    written = json.loads((run / "profile.json").read_text())
    assert status == 0
    assert json.loads(out) == written
    network = ad.load(run)
    assert written["costs"][0]["macs"] == profile(network, torch.zeros(1, 1, 24, 24), latency=False).costs["FFFF"].macs


def test_select_keeps_to_the_budget_and_writes_table_and_plot(call, run):
    costs = {cost["skip"]: cost["macs"] for cost in json.loads((run / "profile.json").read_text())["costs"]}
    budget = sorted(costs.values())[8]
    status, out, err = call("select", run, f"--macs={budget}", "--json")
    told = json.loads(out)
    assert (status, err) == (0, "")
    assert costs[told["chosen"]] <= budget
    assert TradeOffs.from_json(json.loads((run / "tradeoffs.json").read_text())).best(macs=budget) == told["chosen"]
    assert (run / "tradeoffs.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = call("select", run, f"--macs={budget}")
    assert f"Chosen: {told['chosen']}" in out
    assert "Pareto front" in out


def test_select_explains_the_choice_and_keeps_what_was_trained_alone(call, run):
    status, out, _ = call("select", run, "--macs=1e12", "--alone=FFFF=50.5", "--alone=TTTT=40")
    assert status == 0
    assert "It is the most accurate of the 16 sub-networks within macs <= 1e+12: " in out
    lines = out.replace(" * ", "   ").splitlines()  # a star is on the front, which timing decides
    rows = {line.split()[0]: line.split() for line in lines if line[:4].strip("FT") == ""}
    assert (rows["FFFF"][2], rows["TTTT"][2], rows["TFFF"][2]) == ("50.50", "40.00", "-")
    status, out, _ = call("select", run, "--json")  # said once
    assert json.loads(out)["rows"][0]["alone"] == 50.5


def test_analyze_says_where_networks_trained_alone_are_better(call, run):
    (run / "alone.json").write_text('{"FFFF": 59.5, "TTTT": 50.0}')
    (run / "accuracy.json").write_text('{"accuracy": {"FFFF": 50.5, "TTTT": 50.0}}')
    status, out, _ = call("analyze", run, "--images=12", "--maps=0")
    assert status == 0
    assert "FFFF is 9.00 points below a network of that depth trained alone: " in out
    assert "TTTT is" not in out


def test_select_follows_what_a_run_is_judged_by(call, run):
    judge_by_an_error(run)
    status, out, _ = call("select", run, "--macs=1e12", "--alone=FFFF=0.3")
    assert status == 0
    assert "Chosen: FFFF" in out
    assert "It is the best in RMSE of the 16 sub-networks within macs <= 1e+12: 0.250 m." in out
    assert "Lower RMSE is better." in out
    status, out, _ = call("select", run, "--quality=0.26", "--json")
    assert json.loads(out)["chosen"].count("T") <= 1
    assert TradeOffs.from_json(json.loads((run / "tradeoffs.json").read_text())).quality.name == "RMSE"
    assert "choose with --latency-ms, --macs, --quality ..." in call("select", run)[1]
    status, _, err = call("select", run, "--accuracy=90")
    assert (status, "accuracy=90.0 (this table has RMSE: limit quality instead): expected one" in err) == (2, True)
    status, _, err = call("select", run, "--quality=0.2")
    assert (status, "no sub-network meets RMSE <= 0.2 m: the best, 'FFFF', reaches 0.25 m; raise the" in err) == (
        2,
        True,
    )


def test_a_quality_of_top_1_may_be_limited_by_either_name(call, run):
    one, two = (json.loads(call("select", run, f"--{name}=20", "--json")[1]) for name in ("accuracy", "quality"))
    assert one["chosen"] == two["chosen"]


@pytest.mark.parametrize(
    "told", ["RMSE", {"unit": "m"}, {"name": 3}, {"name": "RMSE", "lower": True}, [], {"name": ""}]
)
def test_a_quality_that_is_none_is_refused(call, run, told):
    measured = json.loads((run / "accuracy.json").read_text())
    (run / "accuracy.json").write_text(json.dumps({**measured, "quality": told}))
    status, out, err = call("select", run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert 'expected an object such as {"name": "RMSE", "unit": "m", "higher_is_better": false}' in err


def test_a_profile_is_carried_from_the_device_and_joined_with_the_accuracy(call, run, tmp_path):
    carried = tmp_path / "device.json"
    arguments = ["--seconds=0.1", "--batch-sizes=1,3", "--device=cpu", f"--output={carried}", "--no-energy"]
    status, out, _ = call("profile", run, *arguments)
    assert status == 0
    assert f"Written to {carried}. Join it with accuracies: " in out
    cost = json.loads(carried.read_text())["costs"][0]
    assert list(cost["throughput"]) == ["1", "3"]
    assert (cost["latency_ms"] > 0, cost["memory_mb"] > 0, cost["energy_mj"]) == (True, True, None)
    status, out, _ = call("select", run, f"--profile={carried}", "--latency-ms=1e9", "--json")
    assert json.loads(out)["rows"][0]["latency_ms"] == cost["latency_ms"]
    assert not (run / "tradeoffs.json").exists()  # which is of this machine


def test_what_was_trained_alone_is_added_to_what_is_known(call, run):
    assert call("select", run, "--alone=FFFF=50")[0] == 0
    assert call("select", run, "--alone=TTTT=40", "--alone=FFFF=51")[0] == 0
    assert json.loads((run / "alone.json").read_text()) == {"FFFF": 51.0, "TTTT": 40.0}
    status, _, err = call("select", run, "--alone=TTTT=0.4")
    assert (status, "trained alone is 0.4: expected percent, such as 40" in err) == (2, True)
    assert json.loads((run / "alone.json").read_text()) == {"FFFF": 51.0, "TTTT": 40.0}


@pytest.mark.parametrize("name", ["network.json", "accuracy.json", "data.json"])
@pytest.mark.parametrize("command", ["profile", "report"])
def test_an_output_never_replaces_another_file_of_a_run(call, run, command, name):
    before = (run / name).read_bytes()
    more = ["--no-latency", "--device=cpu"] if command == "profile" else []
    status, out, err = call(command, run, f"--output={run / name}", *more)
    assert (status, out) == (2, "")
    assert f"{name} has other content, which would be lost: name another file" in err
    assert (run / name).read_bytes() == before


def test_an_output_of_the_same_kind_is_replaced_and_leaves_the_runs_own(call, run, tmp_path):
    carried, before = tmp_path / "new" / "device.json", (run / "profile.json").read_bytes()
    for _ in range(2):  # the second time it is there
        assert call("profile", run, "--no-latency", "--device=cpu", f"--output={carried}")[0] == 0
    assert json.loads(carried.read_text())["costs"]
    assert (run / "profile.json").read_bytes() == before


def test_a_profile_of_images_of_another_size_is_refused(call, run, tmp_path):
    other = tmp_path / "other.json"
    assert call("profile", run, "--no-latency", "--device=cpu", "--image-size=32", f"--output={other}")[0] == 0
    status, _, err = call("select", run, f"--profile={other}")
    assert status == 2
    assert "the profile was measured on images of 32 pixels, the accuracy of" in err


@pytest.mark.parametrize("command", ["evaluate", "profile", "select", "analyze", "report"])
def test_a_run_that_cannot_be_written_is_told_before_anything_is_measured(call, run, command, monkeypatch):
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)  # root may write everywhere
    monkeypatch.setattr("adaptive_depth.core.saving.load", None)  # nothing is opened
    status, out, err = call(command, run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{run} is not writable: " in err


def test_a_full_disk_is_no_traceback(call, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "tradeoffs.json")

    monkeypatch.setattr("adaptive_depth.files.draft", full)
    status, _, err = call("select", run)
    assert (status, err.count("\n")) == (2, 1)
    assert "tradeoffs.json cannot be written (No space left on device)" in err


def test_an_accuracy_that_is_none_names_its_file(call, run):
    measured = json.loads((run / "accuracy.json").read_text())
    measured["accuracy"]["FTFT"] = math.nan
    (run / "accuracy.json").write_text(json.dumps(measured))
    status, _, err = call("select", run)
    assert status == 2
    assert "accuracy.json holds the number nan, where finite numbers are expected: measure it with" in err


def test_a_profile_of_another_network_is_refused(call, run, tmp_path):
    other = tmp_path / "other.json"
    assert call("profile", "resnet18", "--no-latency", "--image-size=32", f"--output={other}", "--device=cpu")[0] == 0
    status, _, err = call("select", run, f"--profile={other}", "--macs=1e9")
    assert (status, "the profile is of another network or another cut of it" in err) == (2, True)


def test_json_and_quiet_stderr_of_the_real_command(run):
    """Not at a terminal: stdout is JSON alone, stderr is empty, though evaluating has a progress bar."""
    code = "import sys; from adaptive_depth.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "evaluate", str(run), "--workers=0", "--device=cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["accuracy"]) == 16


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "profile resnet18 --batch-sizes 1,0",
            "--batch-sizes '1,0': expected whole numbers of at least 1, such as 1,8,32",
        ),
        ("profile resnet18 --backend onnx", "backend='onnx': expected one of eager, compiled"),
        ("profile resnet18 --threads 9999", "--threads 9999: expected 1 to "),
        ("select {run} --alone FFFF", "--alone 'FFFF': expected SKIP=VALUE, such as FFFF=76.7"),
        ("select {run} --alone FFF=70", "alone names 'FFF': expected skips of this network"),
        ("select {run} --profile {run}/data.json", "data.json is damaged or not a profile"),
        ("stages resnet1818", "timm has no model 'resnet1818': similar names are resnet18"),
        ("stages torchvision/resnet1", "torchvision has no model 'resnet1'"),
        ("stages vgg11", "VGG has no residual stage that can be split"),
        ("stages {tmp}", "is not a saved network: it contains no network.json"),
        ("stages ./nowhere", "is not a saved network: it does not exist"),
        ("stages resnet18 --model-kwargs in_chans", "--model-kwargs 'in_chans': expected NAME=VALUE"),
        ("stages resnet18 --model-kwargs channels=(4,4,8,8)", "expected JSON (Expecting value: "),
        ("stages resnet18 --model-kwargs colour=3", "cannot be built with {{'colour': 3}}"),
        ("stages resnet18 --mandatory two", "--mandatory 'two': expected a number of blocks (2), a part of them (0.5)"),
        ("stages resnet18 --mandatory 2", "mandatory=2 of the 2 blocks layer1.0 to layer1.1: expected 1 to 1"),
        ("stages resnet18 --group-size 2", "the model already has stages, so there is nothing to divide"),
        ("stages {run} --mandatory 1", "the network is already adapted"),
        ("load-reference resnet18 {tmp}/file --output {tmp}/x", "cannot be read|holds more than tensors"),
        ("load-reference vgg11 {tmp}/file --output {tmp}/x", "is not one of the authors' architectures"),
        ("stages", "Missing argument 'MODEL'"),
        ("stages resnet18 --wrong", "No such option: --wrong"),
        ("nonsense", "No such command 'nonsense'"),
        ("train resnet18 --data nowhere --output {tmp}/x", "neither a folder nor a known name"),
        ("train resnet18 --data torch/cifar10 --output {tmp}/x", "needs a root"),
        ("train resnet18 --data torch/cifar11 --output {tmp}/x", "did you mean torch/cifar10"),
        ("train resnet18 --data {tmp} --output {tmp}/x", "has no train part"),
        ("train resnet1818 --data digits --output {tmp}/x", "similar names are resnet18"),
        ("train resnet18 --data digits --output {tmp}/file", "cannot be a run folder"),
        ("train resnet18 --data digits --output {tmp}/x --epochs 0", "Invalid value for '--epochs'"),
        ("train resnet18 --data digits --output {tmp}/x --lr high", "Invalid value for '--lr'"),
        ("train resnet18 --data digits --output {tmp}/x --device abacus", "--device 'abacus' is unknown: expected cpu"),
        (
            "train resnet18 --data digits --output {tmp}/x --alpha 2 --workers 0",
            "alpha=2.0: expected a number from 0 to 1",
        ),
        ("train resnet18 --data digits --output {tmp}/x --optimizer sdg", "optimizer 'sdg' is not one of timm's"),
        (
            "train resnet18 --data digits --output {tmp}/x --model-kwargs num_classes=3",
            "has 3 outputs, but the data 'digits' has 10 classes",
        ),
        ("train resnet18 --data digits", "Missing option '--output'"),
        ("evaluate {tmp}", "is not a saved network"),
        ("evaluate {run} --data digits", "has 3 outputs|classes"),
        ("evaluate {run} --data {tmp}", "has no validation part"),
        ("profile {tmp}", "is not a saved network"),
        ("profile runs/photo", "runs/photo is neither a folder that exists nor the name of a model"),
        ("export {tmp}/cut --to onnx", "cut holds an unfinished training: finish it by repeating its command"),
        ("profile {run} --seconds 0", "Invalid value for '--seconds'"),
        ("profile {run} --model-kwargs in_chans=1", "is a run folder, whose model is already built"),
        ("select {tmp} --macs 1e9", "is not a saved network"),
        (
            "select {run} --macs 1",
            "no sub-network meets macs <= 1: the one with the fewest multiply-adds, 'TTTT'",
        ),
        ("select {run} --accuracy 101", "no sub-network meets accuracy >= 101"),
        ("select {run} --accuracy 0.9", "expected percent, such as accuracy=90"),
        ("select {run} --macs=-3", "limit macs=-3.0: expected a finite number above 0"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(call, tmp_path, run, arguments, said):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    status, out, err = call(*(word.format(tmp=tmp_path, run=run) for word in arguments.split()))
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert any(part.replace("{{", "{").replace("}}", "}") in err for part in said.split("|")), err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "has no train part: expected train/ or training/ in it, with one folder per class; did you mean {}/cats?"),
        ("/cat", "there is no folder {}/cat; did you mean {}/cats?"),
        ("/dogs", "there is no folder {}/dogs; expected one that contains train/ and val/"),
        ("/none/dogs", "there is no folder {}/none/dogs; expected one that contains train/ and val/"),
    ],
)
def test_a_folder_of_images_that_is_near(call, tmp_path, data, said):
    (tmp_path / "cats" / "train").mkdir(parents=True)
    status, _, err = call("train", "resnet18", f"--data={tmp_path}{data}", f"--output={tmp_path}/x")
    assert status == 2
    assert err.endswith(f"{said.format(tmp_path, tmp_path)}\n")


@pytest.mark.parametrize("name", ["accuracy.json", "profile.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_select_says_how_to_get_what_is_missing_or_damaged(call, run, name, content):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    status, out, err = call("select", run, "--macs", "1e9")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert name in err
    if content in (None, "{"):
        assert f"adaptive-depth {name[:4]}"[:16] in err.replace("evaluate", "accu").replace("profile", "prof")


def test_a_damaged_network_is_told(call, run):
    next(run.glob("weights-*")).write_bytes(b"short")
    status, out, err = call("evaluate", run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "truncated" in err


def test_ctrl_c_is_no_traceback(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adaptive_depth.cli.runs.open_model", interrupted)
    status, _, err = call("stages", "resnet18")
    assert status == 130
    assert err.startswith("Interrupted: ")
    assert err.count("\n") == 1


def test_a_training_that_fails_leaves_no_folder(call, tmp_path):
    status, _, _ = call("train", "resnet1818", "--data=digits", f"--output={tmp_path}/new/run")
    assert status == 2
    assert [*tmp_path.iterdir()] == []


def test_trained_weights_that_cannot_be_fetched_are_told_in_one_line(call, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr("timm.create_model", unreachable)
    status, _, err = call("train", "resnet18", "--data=digits", "--pretrained", f"--output={tmp_path}/run")
    assert (status, err.count("\n")) == (2, 1)
    assert "trained weights (no route to host)" in err


def test_a_recipe_and_fields_on_the_command_line(call, pictures, train_arguments, tmp_path):
    tiny = [word for word in train_arguments if word.startswith("--model-kwargs")]
    arguments = ["--epochs=1", "--batch-size=8", "--image-size=24", "--set=ema=0.9", "--set", "augment=trivial", *tiny]
    arguments += ["--set=channels_last=false"]  # torch 2.15 aborts in convolutions of two channels laid out so
    data, run = f"--data={pictures}", tmp_path / "run"
    status, _, err = call("train", "resnet18", data, "--recipe=fashion_mnist", *arguments, f"--output={run}")
    assert status == 0, err
    kept = ad.load_recipe(run / "recipe.yaml")
    assert (kept.model, kept.epochs, kept.ema, kept.augment, kept.weight_decay) == ("resnet18", 1, 0.9, "trivial", 5e-4)
    assert sorted(path.name for path in (run / "checkpoints").glob("*.json")) == ["best.json", "step-00000008.json"]
    status, _, err = call("train", data, "--output", tmp_path / "x")
    assert (status, err.count("\n")) == (2, 1)
    assert "Missing argument 'MODEL'" in err
    for option, said in (
        ("--set=epohcs=3", "a recipe has no field 'epohcs': did you mean epochs"),
        ("--set=epochs", "--set 'epochs': expected FIELD=VALUE"),
        ("--set=lr=[", "--set 'lr=['"),
        ("--recipe=resnet5", "there is no recipe 'resnet5': did you mean resnet50"),
        ("--weights=nowhere.pth", "nowhere.pth cannot be read"),
        ("--set=freeze=[nothing]", "freeze has 'nothing', which is in no parameter's name"),
    ):
        status, _, err = call("train", "resnet18", data, option, "--image-size=24", f"--output={tmp_path / 'y'}", *tiny)
        assert (status, err.count("\n")) == (2, 1), err
        assert said in err


def test_an_interrupted_training_goes_on(call, train_arguments, tmp_path, monkeypatch):
    from adaptive_depth.training import loop

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert call(*train_arguments, f"--output={whole}")[0] == 0
    end = loop._Run.end_epoch
    monkeypatch.setattr(loop._Run, "end_epoch", lambda self, v: end(self, v) if self.epoch == 1 else _interrupt())
    status, _, err = call(*train_arguments, f"--output={broken}")
    assert (status, "Interrupted: " in err) == (130, True)
    monkeypatch.undo()
    status, _, err = call(*train_arguments, f"--output={broken}")
    assert status == 2
    assert "holds an unfinished training: continue with --resume, or start again with --overwrite" in err
    assert call(*train_arguments, "--resume", f"--output={broken}")[0] == 0
    # Finished: once more would only discard what was measured since.
    (broken / "profile.json").write_text("{}")
    held = {path.name for path in broken.iterdir()}
    status, _, err = call(*train_arguments, "--resume", f"--output={broken}")
    assert (status, {path.name for path in broken.iterdir()}) == (2, held)
    assert "is finished, there is nothing to resume: measure it with adaptive-depth profile" in err
    # A comparison can still be added; it keeps what was measured.
    before = json.loads((broken / "accuracy.json").read_text())
    status, out, err = call(*train_arguments, "--resume", "--compare=alone", f"--output={broken}")
    assert status == 0, err
    assert {path.name for path in broken.iterdir()} == held | {"alone.json"}
    assert json.loads((broken / "accuracy.json").read_text()) == before
    assert out.startswith("Compared with plain networks of the same depths:\nFFFF     in the adaptive network ")
    # The time of a training that was resumed is not known.
    assert re.search(r"Processor time: \S+ s for these 2 networks\.\n", out)
    (broken / "profile.json").unlink()
    a, b = (torch.cat([p.flatten() for p in ad.load(run).parameters()]) for run in (whole, broken))
    assert torch.equal(a, b)


def _interrupt():
    raise KeyboardInterrupt


def test_starting_from_weights_and_freezing_parts(call, train_arguments, tmp_path):
    small = {"channels": [4, 4, 8, 8], "in_chans": 1, "stem_type": "deep", "stem_width": 2}
    plain = ad.create_model("resnet18", num_classes=7, **small)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    run = tmp_path / "run"
    status, _, err = call(
        *train_arguments, f"--weights={tmp_path}/w.pth", "--set=freeze=[conv1, layer1]", f"--output={run}"
    )
    assert status == 0, err
    assert "so left as created: fc.weight, fc.bias" in err
    trained = ad.load(run).model
    assert torch.equal(trained.layer1[0].conv1.weight, plain.layer1[0].conv1.weight)
    assert not torch.equal(trained.layer4[0].conv2.weight, plain.layer4[0].conv2.weight)


def test_a_profile_of_other_images_is_not_kept(call, run):
    before = (run / "profile.json").read_bytes()
    status, out, _ = call("profile", run, "--image-size=32", "--no-latency")
    assert status == 0
    assert f"Not written to {run}: its images have 24 pixels, not 32." in out
    assert (run / "profile.json").read_bytes() == before
    assert call("profile", run, "--image-size=24", "--no-latency")[0] == 0
    assert (run / "profile.json").read_bytes() != before


def test_stages_can_be_cut_elsewhere(call):
    status, out, _ = call("stages", "torchvision/resnet50", "--mandatory", "1,2,0.5,1", "--json")
    assert status == 0
    assert [len(stage["mandatory"]) for stage in json.loads(out)["stages"]] == [1, 2, 3, 1]
    status, out, _ = call("stages", "vit_tiny_patch16_224", "--group-size", "6")
    assert status == 0
    assert "4 sub-networks, from FF (super-net, 1,253.7 MMACs per image) to TT (base-net, 641.4)" in out
    assert "blocks 0-5: blocks.0 to 2 always run, blocks.3 to 5 skippable" in out


def test_stages_of_a_model_of_no_family_are_found(call):
    status, out, _ = call("stages", "efficientvit_b0")
    assert status == 0
    assert "16 sub-networks" in out


# -- what is shown ----------------------------------------------------------------------------------------------


def test_accuracy_table_lists_every_sub_network_once():
    values = {skip: float(number) for number, skip in enumerate(ad.all_skips(2))}
    assert show.accuracy_table(values, values, TOP_1).splitlines() == [
        "skip       before    after    skip       before    after",
        "FF           0.00     0.00    TF           2.00     2.00",
        "FT           1.00     1.00    TT           3.00     3.00",
    ]


def test_a_command_to_paste_works_where_the_program_is_not_on_the_path(tmp_path, monkeypatch):
    program = tmp_path / "adaptive-depth"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert show.command("select", "my run") == f"{program} select 'my run'"
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert show.command("select", "my run") == "adaptive-depth select 'my run'"


def test_select_takes_limits_of_text(call, run, tmp_path):
    profile = json.loads((run / "profile.json").read_text())
    for cost in profile["costs"]:
        depth = cost["skip"].count("F") + 1
        cost |= {"latency_ms": None, "latency_low_ms": None, "latency_high_ms": None, "times_ms": []}
        cost |= {"first_token_ms": 20.0 * depth, "token_ms": 2.0 * depth, "cache_kb": 0.5 * depth}
    file = tmp_path / "text.json"
    file.write_text(json.dumps(profile))
    for limit, most in (("--token-ms=6", 2), ("--first-token-ms=45", 1), ("--cache-kb=0.6", 0)):
        status, out, _ = call("select", run, "--profile", file, limit, "--json")
        chosen = json.loads(out)["chosen"]
        assert status == 0
        assert chosen.count("F") <= most
    status, _, err = call("select", run, "--token-ms=6")
    assert status == 2
    assert "token_ms was not measured: profile_generation" in err
