"""Writes docs/models.md: what `find_stages` finds in networks of many libraries, observed by running each of them.

`python docs/models.py` runs them all (an hour on two cores); `python docs/models.py vit_b_16 beit` runs those only, a
model or a module of timm, and keeps what was observed of the others.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a core

import torch
from torch import nn

import adaptive_depth as ad

HERE = Path(__file__).parent

TORCHVISION = [
    *("resnet18", "resnet50", "resnet152", "wide_resnet50_2", "resnext50_32x4d", "mobilenet_v2", "vit_b_16", "swin_t"),
    *("convnext_tiny", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet1_0", "mobilenet_v3_large"),
    *("regnet_y_400mf", "swin_v2_t", "alexnet", "densenet121", "googlenet", "inception_v3", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "vgg11"),
]

# One small model of each of timm's modules, some with other arguments so that it is small.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {"img_size": 64, "depth": 8}),
    "byoanet": ("halonet_h1", {}),
    "byobnet": ("gernet_s", {}),
    "cait": ("cait_xxs24_224", {}),
    "coat": ("coat_tiny", {}),
    "convit": ("convit_tiny", {}),
    "convmixer": ("convmixer_768_32", {}),
    "convnext": ("convnext_atto", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}),
    "csatv2": ("csatv2", {}),
    "cspnet": ("cs3darknet_s", {}),
    "cspnext": ("cspnext_s", {}),
    "davit": ("davit_tiny", {}),
    "deepseek_vit": ("deepseek_vit_412m", {"img_size": 84, "depth": 8, "embed_dim": 256, "num_heads": 4}),
    "deit": ("deit_tiny_patch16_224", {}),
    "densenet": ("densenet121", {}),
    "dla": ("dla60_res2next", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {}),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("tinynet_e", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "eva": ("eva02_tiny_patch14_224", {}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {"img_size": 96, "depth": 8, "embed_dim": 192, "num_heads": 3}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_b", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", {}),
    "hieradet_sam2": ("sam2_hiera_tiny", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}),
    "inception_v3": ("inception_v3", {}),
    "inception_v4": ("inception_v4", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("mambaout_femto", {}),
    "maxxvit": ("coatnet_nano_rw_224", {}),
    "metaformer": ("poolformerv2_s12", {}),
    "mlp_mixer": ("gmlp_ti16_224", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"img_size": 64}),
    "nasnet": ("nasnetalarge", {}),
    "nest": ("nest_tiny", {}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("nf_resnet26", {}),
    "pit": ("pit_ti_224", {}),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "qwen3_vit": ("qwen3_vit_88m", {"img_size": 64, "depth": 8}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnetx_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m1", {}),
    "res2net": ("res2next50", {}),
    "resnest": ("resnest26d", {}),
    "resnet": ("resnet18", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnet_100", {}),
    "selecsls": ("selecsls42", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {}),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {}),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tnt": ("tnt_s_legacy_patch16_224", {}),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", {}),
    "vgg": ("vgg11", {}),
    "visformer": ("visformer_tiny", {}),
    "vision_transformer": ("vit_tiny_patch16_224", {"img_size": 64}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {}),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", {"img_size": 64}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        {"img_size": 64, "depth": 8, "embed_dim": 192, "num_heads": 3},
    ),
    "vitamin": ("vitamin_small_224", {}),
    "volo": ("volo_d1_224", {}),
    "vovnet": ("ese_vovnet39b", {}),
    "xception": ("xception", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p8_224", {}),
}

SIZES = {"hieradet_sam2": 256}  # of images smaller than the model's own


def hugging_face(kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small model of the library transformers, with random weights, and its own keyword inputs."""
    import transformers as hf

    image, small = {"image_size": 32, "num_labels": 5}, {"hidden_size": 32, "num_attention_heads": 2}
    text = {"vocab_size": 100, "num_labels": 5}
    configs: dict[str, Callable[[], Any]] = {
        "ResNet": lambda: hf.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 24, 32, 40], depths=[2, 3, 3, 2], layer_type="bottleneck", num_labels=5
        ),
        "ViT": lambda: hf.ViTConfig(num_hidden_layers=12, intermediate_size=64, patch_size=8, **image, **small),
        "Swin": lambda: hf.SwinConfig(
            patch_size=2, embed_dim=16, depths=[2, 2, 6], num_heads=[1, 2, 4], window_size=4, **image
        ),
        "ConvNext": lambda: hf.ConvNextConfig(hidden_sizes=[16, 24, 32, 40], depths=[3, 3, 9, 3], **image),
        "Dinov2": lambda: hf.Dinov2Config(num_hidden_layers=12, patch_size=8, **image, **small),
        "Bert": lambda: hf.BertConfig(num_hidden_layers=12, intermediate_size=64, **text, **small),
        "DistilBert": lambda: hf.DistilBertConfig(dim=32, n_layers=6, n_heads=2, hidden_dim=64, **text),
    }
    config = configs[kind]()
    generator = torch.Generator().manual_seed(0)
    if "vocab_size" in config.to_dict():
        tokens = torch.randint(100, (2, 7), generator=generator)
        mask = torch.ones_like(tokens)
        mask[1, 4:] = 0
        return hf.AutoModelForSequenceClassification.from_config(config).eval(), {
            "input_ids": tokens,
            "attention_mask": mask,
        }
    model = hf.AutoModelForImageClassification.from_config(config).eval()
    return model, {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}


HUGGING_FACE = ["ResNet", "ViT", "Swin", "ConvNext", "Dinov2", "Bert", "DistilBert"]


def _pairs(path: str, blocks: list[int], apart: int = 1, **fields: Any) -> list[ad.Stage]:
    """Stages of two blocks each."""
    return [ad.Stage((path.format(n),), (path.format(n + apart),), **fields) for n in blocks]


# What discovery refuses, by hand: the model, its stages, and what there is to say.
BY_HAND: dict[str, tuple[str, list[ad.Stage] | None, str]] = {
    "convmixer": (
        "convmixer_768_32",
        _pairs("blocks.{}.0", [0, 8, 16, 24]),
        "the residual half of each block, such as `blocks.0.0`; the other half always runs",
    ),
    "dpn": (
        "dpn48b",
        _pairs("features.conv4_{}", [1], residual=False),
        "each block adds channels that later blocks need",
    ),
    "efficientvim": (
        "efficientvim_m4",
        None,
        "found automatically where a stage has three blocks or more; the last block always runs, because its state is "
        "used at the end of the network",
    ),
    "tiny_vit": (
        "tiny_vit_5m_224",
        [
            ad.Stage(
                tuple(f"stages.2.blocks.{n}" for n in range(3)),
                tuple(f"stages.2.blocks.{n}" for n in range(3, 6)),
                residual=False,
            ),
            *_pairs("stages.3.blocks.{}", [0], residual=False),
        ],
        "the shortcut contains a convolution, so blocks are skipped on your own assertion, `residual=False`",
    ),
    "tnt": (
        "tnt_s_legacy_patch16_224",
        _pairs("blocks.{}", [0, 3, 6, 9], returns=(0, 1), channel_dim=-1),
        "blocks have two streams, and a skipped block passes on both: `returns=(0, 1)`",
    ),
    "xception_aligned": (
        "xception41p",
        [
            ad.Stage(("blocks.3", "blocks.4"), ("blocks.5", "blocks.6"), residual=False),
            ad.Stage(("blocks.7", "blocks.8"), ("blocks.9", "blocks.10"), residual=False),
        ],
        "the shortcut contains a norm, so blocks are skipped on your own assertion, `residual=False`",
    ),
}


def by_hand(module: str) -> dict[str, Any]:
    """What was observed of a plan that is written by hand."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    name, stages, note = BY_HAND[module]
    seen: dict[str, Any] = {"module": module, "model": name, "note": note}
    model = ad.create_model(name)
    try:
        network = ad.adapt(model, stages, example=ad.models.usual_input(model))
    except ad.StagesError as error:
        return seen | {"refused": str(error)}
    return seen | {"stages": [(s.name, len(s.mandatory), len(s.skippable)) for s in network.stages]}


def build(source: str, name: str) -> tuple[nn.Module, Any]:
    """A model, and an example input where its stages cannot be found without."""
    torch.manual_seed(0)
    if source == "transformers":
        return hugging_face(name)
    if source == "torchvision":
        return ad.create_model(f"torchvision/{name}"), None
    model = ad.create_model(TIMM[name][0], **TIMM[name][1])
    return model, torch.randn(1, 3, SIZES[name], SIZES[name]) if name in SIZES else None


def observe(source: str, name: str) -> dict[str, Any]:
    """What was found in one model: its stages, or the reason why there are none."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, example = build(source, name)
    seen: dict[str, Any] = {
        "source": source,
        "model": _model(source, name),
        "module": name if source == "timm" else None,
    }
    try:
        example = ad.models.usual_input(model) if example is None else example
        network = ad.adapt(model, example=example)
    except ad.StagesError as error:
        return seen | {"refused": str(error)}
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    cost = ad.profile(network, *args, skips=[network.skips[0], network.skips[-1]], latency=False, **kwargs)
    macs = [each.macs for each in cost.costs.values()]
    cut = [(stage.name, len(stage.mandatory), len(stage.skippable)) for stage in network.stages]
    return seen | {"stages": cut, "sub_networks": len(network.skips), "macs": macs, "uncounted": [*cost.uncounted]}


def _model(source: str, name: str) -> str:
    return TIMM[name][0] if source == "timm" else name


def _observe(job: tuple[str, str]) -> dict[str, Any]:
    return observe(*job)


def every() -> list[tuple[str, str]]:
    listed = {"torchvision": TORCHVISION, "timm": TIMM, "transformers": HUGGING_FACE}
    return [(source, name) for source, names in listed.items() for name in names]


def markdown(found: list[dict[str, Any]], hand: list[dict[str, Any]]) -> str:
    adapted = [each for each in found if "stages" in each]
    timm = [each for each in found if each["source"] == "timm"]
    lines = [
        "# Models",
        "",
        "This page shows what `find_stages` finds in one small network of each kind, with random weights. It is",
        "generated by `docs/models.py`, which runs every network at every depth. So all adapted ones have passed these",
        "checks: the super-net is bit-identical, no skipped block runs, every depth's output is finite and of the",
        "right shape, and every doubled norm is used. `adaptive-depth stages NAME` shows the same for one model.",
        "",
        f"Of {len(found)} networks, {len(adapted)} can be adapted; of timm's {len(timm)} modules, "
        f"{sum('stages' in each for each in timm)}.",
        "",
        "| source | module | model | cut, mandatory + skippable | sub-networks | MMACs, super-net → base-net |",
        "|---|---|---|---|---|---|",
    ]
    for each in adapted:
        cut = ", ".join(f"{mandatory}+{skippable}" for _, mandatory, skippable in each["stages"])
        high, low = (f"{macs / 1e6:,.1f}" for macs in each["macs"])
        note = " ¹" if each["uncounted"] else ""
        lines.append(
            f"| {each['source']} | {each['module'] or ''} | {each['model']} | {cut} | {each['sub_networks']} | "
            f"{high} → {low}{note} |"
        )
    lines += ["", "¹ not counting operators for which there is no formula.", "", "## Refused", ""]
    lines += ["| source | module | model | why |", "|---|---|---|---|"]
    for each in found:
        if "refused" in each:
            lines.append(f"| {each['source']} | {each['module'] or ''} | {each['model']} | {each['refused']} |")
    lines += [
        "",
        "## By hand",
        "",
        "Residual networks that discovery refuses, with stages written by hand (`BY_HAND` in `docs/models.py`) and",
        "every depth verified on an input. `residual=False` is your own assertion that a block may be skipped although",
        "it does more than add to its input; then every depth is run, but only shapes are compared.",
        "",
        "| module | model | cut, mandatory + skippable | note |",
        "|---|---|---|---|",
    ]
    for each in hand:
        cut = ", ".join(f"{mandatory}+{skippable}" for _, mandatory, skippable in each.get("stages", ())) or "refused"
        lines.append(f"| {each['module']} | {each['model']} | {cut} | {each['note']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    wanted = sys.argv[1:]
    if unknown := set(wanted) - {name for job in every() for name in (job[1], _model(*job))} - {*BY_HAND}:
        sys.exit(f"{', '.join(sorted(unknown))}: expected names in TORCHVISION, TIMM, HUGGING_FACE or BY_HAND")
    jobs = [job for job in every() if not wanted or {job[1], _model(*job)} & {*wanted}]
    saved = json.loads((HERE / "models.json").read_text())
    found = {(each["source"], each["module"] or each["model"]): each for each in saved["found"]}
    hand = {each["module"]: each for each in saved["by_hand"]}
    try:
        with get_context("spawn").Pool(2, maxtasksperchild=8) as pool:
            for number, (job, each) in enumerate(zip(jobs, pool.imap(_observe, jobs), strict=True), 1):
                found[job] = each
                print(f"\r{number}/{len(jobs)} {each['model']:<40}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        hand |= {module: by_hand(module) for module in BY_HAND if not wanted or module in wanted}
    finally:  # what was observed before an interruption is kept
        listed = [found[job] for job in every() if job in found]
        by_hands = [hand[module] for module in BY_HAND if module in hand]
        (HERE / "models.json").write_text(json.dumps({"found": listed, "by_hand": by_hands}, indent=1) + "\n")
        (HERE / "models.md").write_text(markdown(listed, by_hands))


if __name__ == "__main__":
    main()
