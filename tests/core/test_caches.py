"""A cache of keys and values belongs to the depth that filled it."""

import copy
from typing import Any

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.core.caches import filled, rows_in

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

FIELDS = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 6, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = FIELDS | {"intermediate_size": 24, "num_attention_heads": 2, "max_position_embeddings": 64}


def network(kind: str = "Llama") -> ad.AdaptiveNetwork:
    fields = LLAMA if kind == "Llama" else FIELDS | {"state_size": 4}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**fields))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return ad.adapt(model.eval()).eval()


def tokens(length: int = 6) -> torch.Tensor:
    return torch.randint(5, 64, (1, length), generator=torch.Generator().manual_seed(3))


def cache_of(kind: str, output: Any) -> dict[str, Any]:
    name = "past_key_values" if kind == "Llama" else "cache_params"
    return {name: output[name]}


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
@pytest.mark.parametrize("way", ["network", "subnet"])
@torch.no_grad()
def test_a_cache_of_another_depth_is_refused_and_left_as_it_is(kind: str, way: str) -> None:
    net, x = network(kind), tokens()

    def run(skip: str, *args: Any, **kwargs: Any) -> Any:
        return net(*args, skip=skip, **kwargs) if way == "network" else net.subnet(skip)(*args, **kwargs)

    cache = cache_of(kind, run("TF", x, use_cache=True))
    (held,) = cache.values()
    before = copy.deepcopy(held)
    for skip in ("FF", "FT", "TT"):
        with pytest.raises(ad.StagesError, match=f"{skip} received a cache that sub-network TF filled: run"):
            run(skip, x[:, :1], use_cache=True, **cache)
    again = run("TF", x[:, :1], use_cache=True, **cache).logits
    (name,) = cache
    assert torch.equal(
        run("TF", x[:, :1], use_cache=True, **{name: before}).logits, again
    )  # a deep copy is marked, too


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
@torch.no_grad()
def test_a_cache_of_fewer_or_more_texts_is_refused(kind: str) -> None:
    net, x = network(kind), tokens()
    cache = cache_of(kind, net(x.repeat(2, 1), use_cache=True, skip="TF"))
    assert [rows_in(each) for each in (*cache.values(), None, transformers.DynamicCache())] == [2, None, None]
    for inputs in ({"input_ids": x[:, :1]}, {"inputs_embeds": net.model.get_input_embeddings()(x[:, :1])}):
        with pytest.raises(ad.DataError, match="a cache of 2 texts for a batch of 1: expected the number"):
            net.subnet("TF")(**inputs, **cache, use_cache=True)
    assert net.subnet("TF")(x[:, :1].repeat(2, 1), **cache, use_cache=True).logits.shape == (2, 1, 64)


@torch.no_grad()
def test_also_as_an_argument_without_a_name() -> None:
    net, x = network(), tokens()
    cache = net.subnet("TF")(x).past_key_values
    with pytest.raises(ad.StagesError, match="received a cache that sub-network TF filled"):
        net.subnet("TT")(x, None, None, cache)
    with pytest.raises(ad.StagesError, match="received a cache that sub-network TF filled"):
        net(x, None, None, cache, skip="FF")


@torch.no_grad()
def test_it_stays_so_when_the_network_was_trained_or_moved_between() -> None:
    net, x = network(), tokens()
    cache = net(x, skip="TF").past_key_values
    net.train().eval().to(torch.float32)
    with pytest.raises(ad.StagesError, match="that sub-network TF filled"):
        net(x, skip="TT", past_key_values=cache)
    net(x, skip="TF", past_key_values=cache)


@torch.no_grad()
def test_a_cache_of_another_network() -> None:
    net, x = network(), tokens()
    cache = net(x, skip="TF").past_key_values
    other = copy.deepcopy(net)
    with pytest.raises(ad.StagesError, match="sub-network TF received a cache that another network filled"):
        other(x, skip="TF", past_key_values=cache)


@torch.no_grad()
def test_a_cache_that_nobody_marked_is_the_super_nets() -> None:
    net, x = network(), tokens(9)
    whole = net.model(x).logits[:, -1]
    cache = net.model(x[:, :5]).past_key_values
    for skip in net.skips[1:]:
        with pytest.raises(ad.StagesError, match=f"{skip} received a DynamicCache that it did not fill"):
            net(x[:, 5:], skip=skip, past_key_values=cache)
    torch.testing.assert_close(net(x[:, 5:], past_key_values=cache).logits[:, -1], whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(ad.StagesError, match="TF received a cache that sub-network FF filled"):
        net(x, skip="TF", past_key_values=cache)


@torch.no_grad()
def test_an_empty_or_a_reset_cache_fits_every_depth() -> None:
    net, x = network(), tokens()
    alone = {skip: net(x, skip=skip, use_cache=False).logits for skip in net.skips}
    for skip in net.skips:
        cache = transformers.DynamicCache(config=net.subnet(skip).config)
        torch.testing.assert_close(net(x, skip=skip, past_key_values=cache).logits, alone[skip])
    # The longest fits the shorter ones, and what was in it is forgotten.
    static = transformers.StaticCache(config=net.model.config, max_cache_len=32)
    for skip in ("FF", "TT", "TF"):
        torch.testing.assert_close(net(x, skip=skip, past_key_values=static).logits, alone[skip], rtol=1e-4, atol=1e-5)
        with pytest.raises(ad.StagesError, match=f"that sub-network {skip} filled"):
            net(x, skip="FT", past_key_values=static)
        static.reset()


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
@torch.no_grad()
def test_a_text_that_is_written_token_by_token_through_the_network(kind: str) -> None:
    net, x = network(kind), tokens()
    for skip in net.skips:
        written = net.subnet(skip).generate(x, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        output = net(x, skip=skip, use_cache=True)
        ours, cache = x, cache_of(kind, output)
        for _ in range(8):
            logits = output.logits[:, -1]
            logits[:, 2] = -torch.inf  # as min_new_tokens does
            ours = torch.cat([ours, logits.argmax(-1, keepdim=True)], 1)
            output = net(ours[:, -1:], skip=skip, use_cache=True, **cache)
        assert torch.equal(ours, written)


@torch.no_grad()
def test_what_generate_returns_is_gone_on_with_at_the_same_depth_only() -> None:
    net, x = network(), tokens()
    how = {"do_sample": False, "min_new_tokens": 4, "max_new_tokens": 4, "return_dict_in_generate": True}
    first = net.subnet("TF").generate(x, **how)
    longer = net.subnet("TF").generate(first.sequences, past_key_values=first.past_key_values, **how).sequences
    assert torch.equal(
        longer, net.subnet("TF").generate(x, **how | {"min_new_tokens": 8, "max_new_tokens": 8}).sequences
    )
    with pytest.raises(ad.StagesError, match="TT received a cache that sub-network TF filled"):
        net.subnet("TT").generate(first.sequences, past_key_values=first.past_key_values, **how)


def test_filled() -> None:
    assert not filled(transformers.DynamicCache())
    assert not filled(())
    assert filled(((torch.zeros(1), torch.zeros(1)),))
    assert not filled(object())
