"""adaptive-depth text: from a folder of transformers to text at a depth, and one line for every mistake."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

import adaptive_depth as ad
from adaptive_depth.cli import main
from adaptive_depth.cli.language import folders, pieces
from adaptive_depth.cli.language.chat import Conversation
from adaptive_depth.cli.runs import threads
from adaptive_depth.core import adapting

README = Path(__file__).parents[2] / "README.md"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TRAINING = ["--steps=40", "--context=32", "--batch-size=4", "--lr=0.003", "--device=cpu"]


def byte_tokenizer(**more):
    """Each byte of UTF-8 is a token."""
    special = ["<s>", "</s>", "<pad>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    found = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=found, **names, **more)


def tiny_llama(**changes):
    sizes = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(**{**sizes, **ids, "num_hidden_layers": 4, "max_position_embeddings": 96, **changes})
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def write_model(folder, **changes):
    tiny_llama(**changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", name="kept")
def _kept(made_once):
    def make(folder):
        write_model(folder / "model")
        (folder / "notes.txt").write_text(README.read_text().encode("ascii", "ignore").decode()[:4000])
        with threads(1):
            run = folder / "run"
            text = str(folder / "notes.txt")
            assert main(["text", "train", str(folder / "model"), text, f"--out={run}", *TRAINING]) == 0
            assert main(["text", "table", str(run), f"--text={text}", "--seconds=0.1", "--device=cpu"]) == 0

    return made_once("text", make)


@pytest.fixture
def model(kept, tmp_path):
    return shutil.copytree(kept / "model", tmp_path / "model")


@pytest.fixture
def run(kept, tmp_path):
    return shutil.copytree(kept / "run", tmp_path / "run")


@pytest.fixture
def notes(kept, tmp_path):
    return shutil.copy(kept / "notes.txt", tmp_path / "notes.txt")


@pytest.fixture
def talk(run, call, monkeypatch):
    """Say some lines to a model with a chat template: what it printed as JSON, and stderr."""
    (run / "chat_template.jinja").write_text(TEMPLATE)

    def said(*lines, options=(), folder=run):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status, out, err = call("text", "chat", folder, "--tokens=6", "--json", *options)
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()], err

    return said


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "table", "complete", "chat"])
def test_help_has_an_example_and_loads_nothing_slow(call, command):
    status, out, _ = call("text", command, "--help")
    assert status == 0
    assert f"Example: adaptive-depth text {command}" in " ".join(out.split())
    assert command in call("text")[1]


def test_the_commands_load_neither_torch_nor_transformers():
    code = (
        "import sys, types, importlib.util as u; spec = u.find_spec('adaptive_depth')\n"
        "package = types.ModuleType('adaptive_depth'); package.__path__ = spec.submodule_search_locations\n"
        "sys.modules['adaptive_depth'] = package\n"
        "import adaptive_depth.cli as cli\n"
        "assert cli.main(['text', 'train', '--help']) == 0\n"
        "slow = {'torch', 'transformers', 'timm', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- end to end -------------------------------------------------------------------------------------------------


def test_train_table_and_complete_as_a_user_calls_them(tmp_path, kept):
    environment = {**os.environ, "COLUMNS": "80"}

    def called(*arguments):
        command = [sys.executable, "-m", "adaptive_depth", "text", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    run, notes = tmp_path / "run", kept / "notes.txt"
    out, err = called("train", kept / "model", notes, "--out", run, *TRAINING)
    assert "Perplexity on 372 held-out tokens, before and after training:" in out
    assert re.search(
        r"^training: round 2 of 2, loss: super-net \d\.\d+, base-net \d\.\d+ nats, [\d,]+ token", err, re.M
    )
    out, err = called("table", run, "--text", notes, "--seconds=0.1")
    assert "is the training text: only its last 400 tokens, held out then, are used" in err
    assert all(len(line) <= 80 for line in out.splitlines()[:4])
    out, err = called("complete", run, "The network", "--tokens=5", "--skip=T")
    assert out.startswith("The network")
    assert re.fullmatch(r"\[T, [\d,.]+ tokens/s\]\n", err)


def test_training_makes_every_depth_better_and_is_written(run):
    told = json.loads((run / "accuracy.json").read_text())
    assert told["quality"] == {"name": "perplexity", "unit": "", "higher_is_better": False}
    assert told["tokens"] == 372
    about = json.loads((run / "text.json").read_text())
    assert (about["context"], about["held_out"], about["after"]) == (32, 400, pytest.approx(told["accuracy"]))
    assert all(about["after"][skip] < 0.5 * about["before"][skip] for skip in "FT")
    assert len((run / "history.csv").read_text().splitlines()) == 3
    assert not {path.name for path in run.iterdir()} & {"config.json", "model.safetensors", "data.json"}


def test_the_perplexity_is_that_of_transformers(run, notes):
    """Of the last tenth of the text, by the loss that transformers computes."""
    network = ad.load(run)
    ids = torch.tensor(byte_tokenizer()(Path(notes).read_text())["input_ids"])[-400:]
    for skip in "FT":
        extracted = network.extract(skip)
        losses = [
            extracted(input_ids=ids[None, n : n + 32], labels=ids[None, n : n + 32]).loss for n in range(0, 384, 32)
        ]
        told = json.loads((run / "accuracy.json").read_text())["accuracy"][skip]
        assert told == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-4)


def test_the_table_is_what_select_and_report_read(call, run):
    status, out, _ = call("select", run, "--token-ms=1000", "--json")
    told = json.loads(out)
    assert status == 0
    assert {row["skip"] for row in told["rows"]} == {"F", "T"}
    assert all(row["token_ms"] > 0 and row["cache_kb"] > 0 for row in told["rows"])
    assert told["rows"] == json.loads((run / "tradeoffs.json").read_text())["rows"]
    assert call("report", run)[0] == 0


def test_the_same_seed_trains_the_same_network_and_another_one_another(call, model, notes, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("text", "train", model, notes, "--out", tmp_path / name, *TRAINING, f"--seed={seed}")[0] == 0
    a, b, c = (torch.cat([p.flatten() for p in ad.load(tmp_path / name).parameters()]) for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_network_is_trained_further(call, run, notes, tmp_path):
    before = json.loads((run / "accuracy.json").read_text())["accuracy"]
    status, out, _ = call("text", "train", run, notes, "--out", tmp_path / "more", *TRAINING, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["before_training"] == pytest.approx(before)
    assert told["accuracy"]["F"] < before["F"]
    assert ad.load(tmp_path / "more").stages == ad.load(run).stages
    assert call("text", "train", run, notes, "--out", run, "--overwrite", *TRAINING)[0] == 0  # in its place
    status, _, err = call("text", "train", run, notes, "--out", tmp_path / "x", "--cut=groups")
    assert (status, "already adapted: omit --cut" in err) == (2, True)


def test_the_cut_is_chosen(call, tmp_path, notes, monkeypatch):
    model = write_model(tmp_path / "seven", num_hidden_layers=7)
    arguments = ("text", "train", model, notes, *TRAINING, "--steps=2")
    assert call(*arguments, "--out", tmp_path / "a", "--group-size=3", "--mandatory=1")[0] == 0
    assert [len(stage.skippable) for stage in ad.load(tmp_path / "a").stages] == [2, 2]
    seen = []
    measured = adapting.measured_stages
    monkeypatch.setattr(adapting, "measured_stages", lambda *a: seen.append(a[2][0].shape) or measured(*a))
    assert call(*arguments, "--out", tmp_path / "b", "--cut=measured", "--passes=SB")[0] == 0
    assert seen == [(4, 32)]  # pieces of the text
    assert "passes: SB\n" in (tmp_path / "b" / "recipe.yaml").read_text()
    status, _, err = call(*arguments, "--out", tmp_path / "c", "--cut=best")
    assert (status, err) == (2, "Error: --cut 'best': expected groups or measured\n")


# -- text -------------------------------------------------------------------------------------------------------


def test_complete_writes_what_the_depth_of_the_network_writes(call, run):
    network = ad.load(run)
    ids = byte_tokenizer()("A depth", return_tensors="pt")["input_ids"]
    for skip in "FT":
        expected = network.extract(skip).generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
        status, out, err = call("text", "complete", run, "A depth", f"--skip={skip}", "--tokens=9", "--json")
        told = json.loads(out)
        assert (status, err) == (0, "")
        assert (told["prompt"], told["skip"]) == ("A depth", skip)
        assert told["text"] == byte_tokenizer().decode(expected, skip_special_tokens=True)
        assert told["tokens_per_s"] > 0
        assert call("text", "complete", run, "A depth", f"--skip={skip}", "--tokens=9")[1] == f"A depth{told['text']}\n"


def test_drawing_follows_the_seed_and_the_options(call, run, monkeypatch):
    def drawn(*options):
        monkeypatch.setattr(sys, "stdin", io.StringIO("A depth\n"))
        status, out, _ = call("text", "complete", run, "--tokens=20", "--json", *options)
        assert status == 0
        assert json.loads(out)["prompt"] == "A depth"
        return json.loads(out)["text"]

    greedy = drawn()
    assert drawn("--temperature=1", "--seed=1") == drawn("--temperature=1", "--seed=1")
    assert drawn("--temperature=1", "--seed=1") != drawn("--temperature=1", "--seed=2")
    assert drawn("--temperature=1", "--seed=1", "--top-p=0.0001") == greedy
    assert drawn("--temperature=0.0001", "--seed=1") == greedy


def test_a_draft_leaves_the_text_as_it_is(call, run):
    plain, drafted, tried = (
        json.loads(call("text", "complete", run, "A depth", "--tokens=20", "--json", f"--draft={draft}")[1])["text"]
        for draft in ("none", "T", "auto")
    )
    assert plain == drafted == tried


def test_a_state_takes_no_draft_back(call, notes, tmp_path, talk):
    model, run = tmp_path / "mamba", tmp_path / "mamba-run"
    sizes = {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 4, "state_size": 4}
    MambaForCausalLM(MambaConfig(**sizes, bos_token_id=0, eos_token_id=1, pad_token_id=2)).save_pretrained(model)
    byte_tokenizer(chat_template=TEMPLATE).save_pretrained(model)
    assert call("text", "train", model, notes, "--out", run, *TRAINING, "--steps=2")[0] == 0
    plain, tried = (
        json.loads(call("text", "complete", run, "A depth", "--tokens=9", "--json", f"--draft={draft}")[1])["text"]
        for draft in ("none", "auto")
    )
    assert plain == tried
    status, _, err = call("text", "complete", run, "A depth", "--draft=T")
    assert (status, "MambaForCausalLM keeps a state, from which no token can be removed" in err) == (2, True)
    (run / "chat_template.jinja").write_text(TEMPLATE)
    said, err = talk("hello", "/depth T", "hello", folder=run)
    assert ([each["skip"] for each in said], err) == (["F", "T"], "[T]\n")


def test_depths_that_cannot_write_are_left_out_of_the_table_and_the_drafts(call, notes, tmp_path, nets):
    folder, run = tmp_path / "lfm2", tmp_path / "of lfm2"
    network = nets.one_attention(vocab_size=259, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    network.model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    ways = ["--steps=2", "--group-size=3"]
    assert call("text", "train", folder, notes, "--out", run, *TRAINING, *ways)[0] == 0
    status, out, err = call("text", "table", run, "--text", notes, "--seconds=0.1")
    assert (status, "UserWarning" in err) == (0, False), err
    assert re.findall(r"^([FT]{2}) ", out, re.M) == ["FF", "FT"]
    assert "\nLeft out: TF, TT (Lfm2ForCausalLM does not run with only these layers" in out
    assert "\nLeft out: TF, TT (Lfm2" in call("select", run)[1]
    assert call("report", run)[0] == 0
    status, _, err = call("text", "complete", run, "A", "--tokens=3", "--draft=auto")
    assert (status, err.count("Left out: TF, TT (")) == (0, 1), err
    assert call("text", "complete", run, "A", "--skip=TT")[0] == 2


def test_the_limit_chooses_a_depth_of_the_table(call, run):
    profile = json.loads((run / "profile.json").read_text())
    for cost, ms in zip(profile["costs"], (8.0, 5.0), strict=True):
        cost["token_ms"] = ms
    (run / "profile.json").write_text(json.dumps(profile))
    measured = json.loads((run / "accuracy.json").read_text())
    (run / "accuracy.json").write_text(json.dumps(measured | {"accuracy": {"F": 9.0, "T": 10.0}}))
    for limit, skip in ((20, "F"), (6, "T")):
        out = call("text", "complete", run, "A", "--tokens=1", "--json", f"--ms-per-token={limit}")[1]
        assert json.loads(out)["skip"] == skip
    status, _, err = call("text", "complete", run, "A", "--ms-per-token=1")
    assert status == 2
    assert "no sub-network meets token_ms <= 1: the one that writes fastest, 'T', needs 5" in err
    (run / "profile.json").unlink()
    status, _, err = call("text", "complete", run, "A", "--ms-per-token=20")
    assert (status, f"create it with adaptive-depth text table {run} --text FILE" in err) == (2, True)


# -- conversations ----------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_at_another_depth(talk, run):
    said, err = talk("hello", "/depth T", "and you", "/depth", "/depth F", "bye", "/quit", "unheard")
    assert [each["skip"] for each in said] == ["F", "T", "F"]
    assert err == "[T]\n[T]\n[F]\n"
    network, prompt = ad.load(run), ""
    for each in said:
        prompt += f"u:{each['prompt']}\n"
        ids = byte_tokenizer()(f"{prompt}a:", return_tensors="pt")["input_ids"]
        found = network.extract(each["skip"]).generate(ids, max_new_tokens=6, do_sample=False)
        assert byte_tokenizer().decode(found[0, ids.shape[1] :], skip_special_tokens=True) == each["text"]
        prompt += f"a:{each['text']}\n"


def test_what_was_read_is_not_read_again(talk, monkeypatch):
    read = []
    caught_up = Conversation._caught_up
    monkeypatch.setattr(Conversation, "_caught_up", lambda self, *a: read.append(len(a[1])) or caught_up(self, *a))
    talk("hello", "and you", "/depth T", "bye")
    # "u:hello\na:" without its last token; then, at the other depth, all but the last token that was written.
    assert read == [9, 9 + 1 + 6 + len("\nu:and you\na:") + 6 - 1]


def test_mistakes_in_a_conversation_do_not_end_it(talk):
    said, err = talk("/depth X", "/nonsense", "y" * 200, "", "hello", "/new", "hello")
    assert [each["text"] for each in said] == [said[0]["text"]] * 2
    assert "Error: skip 'X' has the letters 'X'" in err
    assert "/nonsense is not a command: /depth TTF changes the depth, /new starts a new conversation, /quit ends" in err
    assert "leaves no room in the model's context of 96: expected a shorter message\n" in err
    assert "[new conversation]" in err
    said, err = talk("/depth T", "hello", options=["--draft=T"])
    assert "Error: the draft T is not shallower than" in err
    assert said[0]["skip"] == "F"


def test_a_full_conversation_names_the_way_to_a_new_one(talk):
    said, err = talk("y" * 60, "y" * 60, "/new", "hello")
    assert [each["prompt"] for each in said] == ["y" * 60, "hello"]
    assert re.search(r"^Error: a prompt of \d+ tokens leaves no room .* context of 96: .* with /new, or", err, re.M)


def test_without_a_template_there_is_a_way_round(call, run):
    status, out, err = call("text", "chat", run)
    assert (status, out) == (2, "")
    assert "has no chat template" in err
    assert f"let it continue a text, adaptive-depth text complete {run} PROMPT" in err


# -- bad input --------------------------------------------------------------------------------------------------


def _halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_MODELS = {
    "truncated": (lambda f: _halved(f / "model.safetensors"), "cannot be read (SafetensorError"),
    "without weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be read (OSError"),
    "without config": (lambda f: (f / "config.json").unlink(), "holds neither config.json nor network.json"),
    "damaged config": (lambda f: _halved(f / "config.json"), "config.json is damaged"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "does not contain a JSON object"),
    "unknown": (lambda f: config(f, model_type="lama"), "does not know: did you mean llama"),
    "remote": (lambda f: config(f, model_type="mine", auto_map={"AutoConfig": "a.B"}), "never run here"),
    "kernel": (lambda f: config(f, attn_implementation="kernels-community/x"), "code that is never fetched here"),
    "kernels": (lambda f: config(f, kernel_config={"RMSNorm": "a/b:RMSNorm"}), "kernel from the Hub (kernel_config: {"),
    "missing layers": (lambda f: config(f, num_hidden_layers=5), "has no weights for parts of its model"),
    "mixed": (lambda f: config(f, hidden_size=32), "weights whose shapes differ from its config.json"),
    "fewer layers": (
        lambda f: config(f, num_hidden_layers=3),
        "holds weights that its config.json leaves out (model.layers.3.input_layernorm.weight, ",
    ),
    "a bias less": (
        lambda f: (tiny_llama(attention_bias=True).save_pretrained(f), config(f, attention_bias=False)),
        "leaves out (model.layers.0.self_attn.k_proj.bias, ",
    ),
    "two layers": (
        lambda f: tiny_llama(num_hidden_layers=2).save_pretrained(f),
        "LlamaForCausalLM has 2 layers: expected 3 or more",
    ),
    "t5": (lambda f: config(f, model_type="t5"), "a model of t5, an encoder-decoder"),
    "bart": (lambda f: config(f, model_type="bart"), "a model of bart, an encoder-decoder"),
    "bert": (lambda f: config(f, model_type="bert"), "a model of bert, an encoder"),
    "vision": (lambda f: config(f, model_type="vit"), "a model of vit, not a causal language model"),
    "no tokenizer": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "has no tokenizer"),
    "damaged tokenizer": (lambda f: _halved(f / "tokenizer.json"), "the tokenizer of"),
    "remote tokenizer": (
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", null]}}'),
        "asks for custom code (tokenizer_config.json: auto_map)",
    ),
    "few rows": (
        lambda f: tiny_llama(vocab_size=100).save_pretrained(f),
        "it has ids up to 258, but the embedding has 100",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_cannot_be_adapted_is_told_in_one_line(call, model, notes, tmp_path, name):
    spoil, said = BAD_MODELS[name]
    spoil(model)
    status, out, err = call("text", "train", model, notes, "--out", tmp_path / "new", *TRAINING)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not (tmp_path / "new").exists()


def test_weights_of_something_else_beside_the_model_are_left_alone(model):
    weights = load_file(model / "model.safetensors")
    more = {"model.rotary_emb.inv_freq": torch.ones(4), "tower.layers.0.weight": torch.ones(2)}
    save_file(weights | more, model / "model.safetensors", {"format": "pt"})
    assert len(folders.open_model(model).model.model.layers) == 4


def test_code_of_a_known_model_is_not_run_and_that_is_said(call, model, notes, tmp_path):
    config(model, auto_map={"AutoModelForCausalLM": "spy.Spy"})
    (model / "spy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    status, _, err = call("text", "train", model, notes, "--out", tmp_path / "new", *TRAINING)
    assert status == 0
    assert "names custom code (auto_map); llama of transformers is used instead" in err
    assert not (tmp_path / "ran").exists()


BAD_TEXTS = {
    "missing": (lambda _: None, "cannot be read (No such file or directory)"),
    "empty": (lambda path: path.write_text(" \n"), "is empty"),
    "short": (lambda path: path.write_text("word " * 12), "is too short, 60 tokens: expected 64 or more"),
    "binary": (lambda path: path.write_bytes(b"PK\0\1" * 99), "is not text, it contains zero bytes"),
    "latin": (lambda path: path.write_bytes("Häuser ".encode("latin-1") * 99), "is not text ('utf-8' codec"),
    "folder": (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_is_none_is_told_in_one_line(call, model, run, tmp_path, name):
    make, said = BAD_TEXTS[name]
    make(text := tmp_path / "bad.txt")
    before = files(run)
    for arguments in (["train", model, text, "--out", tmp_path / "new"], ["table", run, f"--text={text}"]):
        if name == "short" and arguments[0] == "table":
            text.write_text("word")
            said = "is too short, 4 tokens: expected 32 or more"
        status, out, err = call("text", *arguments, "--context=32")
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert said in err
    assert not (tmp_path / "new").exists()
    assert files(run) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/folder", "A"], "no/folder is not a folder: expected one of transformers"),
        (["{run}", ""], "the prompt is empty"),
        (["{run}", "A" * 96], "a prompt of 96 tokens leaves no room in the model's context of 96"),
        (["{run}", "A" * 90, "--tokens=7"], "a prompt of 90 tokens and 7 new ones exceed the model's context"),
        (["{run}", "A", "--skip=TT"], "skip 'TT'"),
        (["{run}", "A", "--draft=T", "--skip=T"], "the draft T is not shallower than"),
        (["{run}", "A", "--draft=X"], "skip 'X'"),
        (["{run}", "A", "--skip=T", "--ms-per-token=9"], "both choose the depth: give only one"),
        (["{run}", "A", "--top-p=0.5"], "add a --temperature above 0"),
        (["{run}", "A", "--top-p=0", "--temperature=1"], "--top-p 0 leaves nothing to sample from"),
        (
            ["{model}", "A"],
            "holds a model that is not adapted yet: adapt it with adaptive-depth text train {model} TEXT --output NEW",
        ),
    ],
)
def test_a_mistake_gives_one_line_and_writes_nothing(call, run, model, arguments, said):
    before = files(run)
    places = {"run": run, "model": model}
    status, out, err = call("text", "complete", *(each.format(**places) for each in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert said.format(**places) in err
    assert files(run) == before


def test_a_network_of_images_is_told(call, tmp_path):
    ad.save(ad.adapt(ad.create_model("resnet18", channels=[4, 4, 4, 4])), tmp_path / "images")
    status, _, err = call("text", "complete", tmp_path / "images", "A")
    assert status == 2
    assert "holds a network of ResNet: expected one of a causal language model" in err


@pytest.mark.parametrize("command", ["evaluate", "profile", "analyze", "export", "run"])
def test_commands_for_images_say_which_one_is_for_text(call, run, command):
    (run / "photo.png").touch()
    more = {"export": ["--to=onnx"], "run": [run / "photo.png", "--skip=T"]}.get(command, [])
    status, _, err = call(command, run, *more)
    assert status == 2
    assert f"holds a language model, but this command is for images: adaptive-depth text table {run} --text FILE" in err


def test_what_is_there_is_kept_unless_told_otherwise(call, model, notes, run, monkeypatch):
    before = files(run)
    status, _, err = call("text", "train", model, notes, "--out", run, *TRAINING)
    assert (status, "replace it with --overwrite" in err) == (2, True)
    status, _, err = call("text", "train", model, notes, "--out", model, *TRAINING)
    assert (status, "holds the model to adapt: name another --output" in err) == (2, True)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("adaptive_depth.training.loop._Run._update", stop)
    status, _, err = call("text", "train", model, notes, "--out", run, "--overwrite", *TRAINING)
    assert (status, err) == (130, "Interrupted: everything written so far is kept\n")
    assert files(run) == before
    status, *_ = call("text", "train", model, notes, "--out", run.parent / "new", *TRAINING)
    assert status == 130
    assert not (run.parent / "new").exists()


def test_nothing_asks_the_network(call, model, notes, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert call("text", "train", model, notes, "--out", tmp_path / "new", *TRAINING)[0] == 0
    assert call("text", "complete", tmp_path / "new", "A", "--tokens=2")[0] == 0


# -- pieces and folders -----------------------------------------------------------------------------------------


def test_pieces_begin_as_the_tokenizer_begins_a_text():
    class Tokenizer:
        bos_token_id = 7

        def __call__(self, text, *, add_special_tokens=True, verbose=True):
            return {"input_ids": [7] * add_special_tokens + [ord(letter) - ord("a") for letter in text]}

    tokens = pieces.Tokens(Tokenizer(), "abcdefgabcdefgabcdef", 4)
    train_on, held_out = tokens.split(Path("text"))
    assert (train_on.tolist(), held_out.tolist()) == ([*range(7)] * 2 + [0, 1, 2], [3, 4, 5])
    whole = [[7, 0, 1, 2], [7, 3, 4, 5], [7, 6, 0, 1], [7, 2, 3, 4], [7, 5, 6, 0]]  # and two tokens that are left
    assert [batch.tolist() for batch in tokens.in_turn(train_on, 4)] == [whole[:4], whole[4:]]
    assert sum(len(batch) for batch in tokens.in_turn(train_on, 4, most=7)) == 2


def test_a_tokenizer_without_a_vocabulary_is_named_and_not_the_text():
    class Tokenizer:
        bos_token_id = None

        def __len__(self):
            return 4

        def __call__(self, text, **_):
            return {"input_ids": []}

    with pytest.raises(
        ad.DataError, match="a Tokenizer of 4 tokens, turns the text into none: expected the model's own"
    ):
        pieces.Tokens(Tokenizer(), "abc", 4)


def test_batches_are_drawn_anew_in_each_round():
    tokens = pieces.Tokens(byte_tokenizer(), "0123456789" * 9, 5)
    batches = pieces.Drawn(tokens, tokens.ids, 3, 2, seed=0)
    rounds = []
    for number in (1, 2, 1):
        batches.set_epoch(number)
        rounds.append(torch.stack(list(batches)))
    assert rounds[0].shape == (2, 3, 5)
    assert torch.equal(rounds[0], rounds[2])
    assert not torch.equal(rounds[0], rounds[1])
    assert all((piece[1:] - piece[:-1]).remainder(10).eq(1).all() for piece in rounds[0].flatten(0, 1))


def test_a_folder_of_the_hub_is_a_network_too(run, tmp_path):
    ad.load(run).save_pretrained(tmp_path / "hub")
    byte_tokenizer().save_pretrained(tmp_path / "hub")
    opened = folders.open_network(tmp_path / "hub")
    assert folders.is_adapted(opened.model)
    assert opened.context == 96


def test_a_model_is_read_as_transformers_reads_it(model):
    ids = torch.arange(3, 9)[None]
    expected = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    assert torch.equal(folders.open_model(model).model(ids).logits, expected)
