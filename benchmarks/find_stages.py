"""Time of `find_stages` for ResNet-50 at 224 px with its proof over all 16 sub-networks, against a forward pass.

Both ways: the plan of the family, and the same network found by watching it run. `--others` measures small networks of
other kinds too, in processor seconds; with the `src` of another version first on the path, it says how that one does.
"""

import gc
import statistics
import sys
import time
from typing import Any

import torch
from measure import interleaved, report

import adaptive_depth as ad
from adaptive_depth.core.adapting import cut_runs
from adaptive_depth.core.proof import prove_every_depth
from adaptive_depth.plan import discover
from adaptive_depth.plan.checks import complete


def others(rounds: int = 5) -> None:
    """Processor seconds of `find_stages` and of a forward pass, medians."""
    import transformers

    torch.manual_seed(0)
    bert = transformers.BertConfig(num_hidden_layers=12, hidden_size=192, num_attention_heads=3, intermediate_size=768)
    names = ("convnext_atto", "efficientnet_b0", "levit_128s", "mobilevit_xxs")
    image, tokens = torch.randn(1, 3, 224, 224), torch.randint(50, (2, 32))
    models: list[tuple[str, torch.nn.Module, Any]] = [(name, ad.create_model(name).eval(), image) for name in names]
    models.append(("bert", transformers.BertModel(bert).eval(), {"input_ids": tokens}))
    if ad.models.usual_input(models[3][1]).shape[-1] == 256:
        models[3] = (*models[3][:2], torch.randn(1, 3, 256, 256))
    for name, model, example in models:
        times: list[float] = []
        for _ in range(rounds + 1):
            gc.collect()
            start = time.process_time()
            ad.find_stages(model, example)
            times.append(time.process_time() - start)
        print(f"{name:<20} {statistics.median(times[1:]):.3f} s")


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    model = ad.create_model("torchvision/resnet50").eval()
    x = torch.randn(1, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def find() -> None:
        ad.find_stages(model, x)

    def find_by_watching() -> None:
        stages = complete(model, cut_runs(discover(model, (x,), {})))
        prove_every_depth(ad.AdaptiveNetwork(model, stages), (x,), {})

    runs = {"forward": forward, "family": find, "discovery": find_by_watching}
    seconds = interleaved(runs, rounds)
    one = statistics.median(seconds["forward"])
    taken = {name: statistics.median(seconds[name]) for name in ("family", "discovery")}
    result = {
        "target": "at most 12 forward passes of the model plus 1 s",
        "forward passes beyond 1 s": {name: (time - 1) / one for name, time in taken.items()},
        "forward passes in all": {name: time / one for name, time in taken.items()},
        "seconds of a forward pass": one,
        "rounds": rounds,
    }
    report("find_stages", result, passed=all(time <= 12 * one + 1 for time in taken.values()))


if __name__ == "__main__":
    others() if "--others" in sys.argv else main()
