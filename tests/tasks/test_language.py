"""The next token: what counts, the same loss and gradients as torch's own, and perplexity of all tokens."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

import adaptive_depth as ad
from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.plotting import plot_tradeoffs
from adaptive_depth.tasks import Classification, LanguageModel, as_task, token_losses
from adaptive_depth.training.steps import supervise

TASK = LanguageModel()
VOCABULARY = 7


def texts(kind: torch.dtype = torch.float64, *, grad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher, and labels of three texts: whole, padded, and with a gap."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(VOCABULARY, (3, 5), generator=generator)
    labels[1, 2:] = -100
    labels[2, 2] = -100
    return student.to(kind).requires_grad_(grad), teacher.to(kind), labels


@pytest.fixture(params=[1, 3 * VOCABULARY, 1 << 20], ids=["a row", "three rows", "all rows"])
def at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_losses, "_NUMBERS", request.param)


# -- losses and their gradients -----------------------------------------------------------------------------------


def by_hand(student: Tensor, teacher: Tensor, labels: Tensor, shift: bool, temperature: float) -> tuple[Tensor, Tensor]:
    """Both losses, by torch's own functions on the tokens that count: 4 + 1 + 3 of them where labels are shifted."""
    if shift:
        student, teacher, labels = student[:, :-1], teacher[:, :-1], labels[:, 1:]
    counted = labels != -100
    assert counted.sum() == (8 if shift else 11)
    student, teacher = student[counted], teacher[counted]
    logs = [(each / temperature).log_softmax(-1) for each in (student, teacher)]
    divergence = F.kl_div(*logs, reduction="batchmean", log_target=True) * temperature**2
    return F.cross_entropy(student, labels[counted]), divergence


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_and_gradients_are_those_of_torch(shift: bool, temperature: float) -> None:
    student, teacher, labels = texts()
    task = LanguageModel(shift=shift, temperature=temperature)
    losses = task.loss(student, labels), task.distil(student, teacher, labels)
    for ours, theirs in zip(losses, by_hand(student, teacher, labels, shift, temperature), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        [expected] = torch.autograd.grad(theirs, student, retain_graph=True)
        for scale in (1.0, -3.0):  # of one graph, gone through twice
            [found] = torch.autograd.grad(ours, student, torch.tensor(scale, dtype=torch.float64), retain_graph=True)
            torch.testing.assert_close(found, scale * expected, rtol=1e-10, atol=1e-15)


def test_losses_of_a_known_text() -> None:
    """Of two tokens that are as likely as not, and a third that is certain; the teacher says 3 to 1."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [50.0, 0.0], [9.0, 9.0]]])
    labels = torch.tensor([[1, 0, 1, 0]])
    assert TASK.loss(logits, labels).item() == pytest.approx(2 * math.log(2) / 3, rel=1e-6)
    teacher = logits.clone()
    teacher[0, 0, 0] = math.log(3)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert TASK.distil(logits, teacher, labels).item() == pytest.approx(expected / 3, rel=1e-5)
    assert TASK.distil(teacher, teacher, labels).item() == 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind: torch.dtype) -> None:
    student, teacher, labels = texts(kind)
    exact = student.detach().float().requires_grad_()
    with torch.autocast("cpu", kind):
        losses = TASK.loss(student, labels), TASK.distil(student, teacher, labels)
    for ours, theirs in zip(losses, by_hand(exact, teacher.float(), labels, True, 1.0), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        [found], [expected] = (
            torch.autograd.grad(loss, of, retain_graph=True) for loss, of in ((ours, student), (theirs, exact))
        )
        assert found.dtype == kind
        torch.testing.assert_close(found, expected.to(kind), rtol=0.01, atol=1e-5)


def test_what_does_not_count_has_no_gradient_and_the_teacher_none_at_all() -> None:
    student, teacher, labels = texts()
    (TASK.loss(student, labels) + TASK.distil(student, teacher.requires_grad_(), labels)).backward()
    assert student.grad is not None
    assert teacher.grad is None
    #                            the next tokens of the 2nd text are padding from the 2nd place on; of the 3rd one is
    assert (student.grad.abs().sum(-1) > 0).int().tolist() == [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 0, 1, 1, 0]]


class _Large(TorchDispatchMode):
    """Counts tensors of so many numbers that are made anew."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.made = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.numel() >= self.size:
                self.made += leaf.untyped_storage().data_ptr() not in known
        return result


def test_no_tensor_of_all_tokens_and_the_vocabulary_is_made_but_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_losses, "_NUMBERS", 400)
    student, teacher = torch.randn(2, 16, 100, requires_grad=True), torch.randn(2, 16, 100)
    labels = torch.randint(100, (2, 16))
    metric = TASK.metric(student)
    with _Large(16 * 100) as large:
        TASK.measure(metric, student.detach(), labels)
        losses = TASK.loss(student, labels), TASK.distil(student, teacher, labels)
        assert large.made == 0
        torch.autograd.grad(losses[0], student)
        assert large.made == 1
        torch.autograd.grad(losses[1], student)
        assert large.made == 2


# -- batches ------------------------------------------------------------------------------------------------------


def test_labels_are_the_token_ids_without_padding() -> None:
    ids = torch.tensor([[5, 6, 7, 0, 0], [0, 0, 5, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    x, labels = TASK.inputs({"input_ids": ids, "attention_mask": mask})
    assert x.keys() == {"input_ids", "attention_mask"}
    # The same text, padded on either side: the first token follows nothing.
    assert labels.tolist() == [[5, 6, 7, -100, -100], [-100, -100, -100, 6, 7]]
    assert ids[1, 2] == 5
    ignored = LanguageModel(ignore_index=-1).inputs({"input_ids": ids, "attention_mask": mask})[1]
    assert ignored[0].tolist() == [5, 6, 7, -1, -1]


def test_where_labels_may_stand() -> None:
    ids, labels = torch.tensor([[5, 6, 7]]), torch.tensor([[-100, 6, 7]])
    for batch in (ids, [ids], (ids,), {"input_ids": ids}):
        _, found = TASK.inputs(batch)
        assert torch.equal(found, ids)
    for batch in ({"input_ids": ids, "labels": labels}, ({"input_ids": ids}, labels), (ids, labels), [ids, labels]):
        x, found = TASK.inputs(batch)
        assert torch.equal(found, labels)
        assert torch.equal(x["input_ids"] if isinstance(x, dict) else x, ids)
        assert not isinstance(x, dict) or x.keys() == {"input_ids"}
    # Inputs with tokens that were dropped: labels that are other tokens, and not the next ones either.
    for ids, labels in (([5, 9, 7], [5, 6, 7]), ([5, 6, 9], [-100, -100, 7]), ([5, 9, 7], [-100, 7, -100])):
        noisy = torch.tensor([ids]), torch.tensor([labels])
        assert torch.equal(TASK.inputs(noisy)[1], noisy[1])


@pytest.mark.parametrize(
    ("task", "batch", "said"),
    [
        (TASK, torch.rand(2, 3), r"yielded \[2, 3\] of float32, without labels: expected token ids \[batch, tokens\]"),
        (TASK, torch.tensor([1, 2]), r"yielded \[2\] of int64, without labels: expected token ids \[batch, tokens\]"),
        (TASK, {"inputs_embeds": torch.rand(1, 2, 3)}, "yielded a dict with 'inputs_embeds', without labels: expected"),
        (
            TASK,
            {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 1, 3, 3)},
            r"attention_mask \[1, 1, 3, 3\] for input_ids \[1, 3\]: .*put 'labels' into the batch, -100 where",
        ),
        (
            TASK,
            (torch.tensor([[5, 6, 7]]), torch.tensor([[6, 7, 8]])),
            r"already shifted by one, .* or the task LanguageModel\(shift=False\)",
        ),
        (
            TASK,
            (torch.tensor([[5, 6, 7]]), torch.tensor([[1, 1, 0]])),
            "labels are only 0 and 1, like an attention mask.*expected {'input_ids': ids, 'attention_mask': mask}",
        ),
        (LanguageModel(shift=False), torch.tensor([[5, 6]]), "yielded no labels, and with shift=False .*Seq2Seq"),
    ],
)
def test_batches_that_are_no_texts(task: LanguageModel, batch: Any, said: str) -> None:
    with pytest.raises(ad.DataError, match=said):
        task.inputs(batch)


LABELS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("output", "labels", "said"),
    [
        (torch.rand(1, 3, 9), torch.full((1, 3), -100), r"no next token that counts, labels \[1, 3\]: all are padding"),
        (torch.rand(4, 1, 9), torch.ones(4, 1).long(), r"no next token that counts.*or texts of one token; leave such"),
        (
            torch.rand(1, 3, 3),
            LABELS,
            r"labels from 2 to 3, but the network's vocabulary has 3 .*embeddings\(4\)",
        ),
        (torch.rand(1, 3, 9), -LABELS, r"labels from -3 to -2, .*LanguageModel\(ignore_index=-3\)"),
        (torch.rand(1, 1, 9), LABELS, r"labels \[1, 3\] for logits \[1, 1, 9\]: expected token ids \[1, 1\]"),
        (torch.rand(1, 3, 9), torch.tensor([1]), r"labels \[1\] for logits \[1, 3, 9\]: expected token ids \[1, 3\]"),
        (torch.rand(1, 3, 9), LABELS.float(), "labels of float32: expected token ids, integers"),
        (torch.rand(1, 3, 9), LABELS > 1, "labels of bool: expected token ids, integers"),
        (torch.rand(1, 3, 9), None, "the target is a NoneType: expected one tensor; token ids"),
        (
            torch.rand(3, 9),
            LABELS,
            r"the network returned \[3, 9\] of float32: expected logits \[batch, tok",
        ),
        (
            {"last_hidden_state": torch.rand(1, 3, 9)},
            LABELS,
            r"a dict with 'last_hidden_state'; use the model with",
        ),
        ((torch.rand(1, 3, 9), "cache"), LABELS, r"is a tuple: expected one tensor; .*received a tuple of 2; use"),
    ],
)
def test_outputs_and_labels_that_do_not_fit(output: Any, labels: Any, said: str) -> None:
    with pytest.raises(ad.TrainingError, match=said):
        TASK.loss(output, labels)
    with pytest.raises(ad.TrainingError, match=said):
        TASK.check(output, labels)


def test_a_teacher_of_other_tokens() -> None:
    with pytest.raises(ad.TrainingError, match=r"sub-network returned \[1, 3, 9\] and the super-net \[1, 2, 9\]"):
        TASK.distil(torch.rand(1, 3, 9), torch.rand(1, 2, 9), LABELS)


def test_a_temperature_that_is_none() -> None:
    with pytest.raises(ad.TrainingError, match="temperature=0: expected a number above 0"):
        LanguageModel(temperature=0)


def test_logits_alone_in_an_object_or_beside_a_loss() -> None:
    logits = torch.rand(1, 3, 9)
    for output in (logits, {"logits": logits, "loss": None}, (logits, None), (logits, torch.tensor(1.0))):
        assert TASK.output(output) is logits


# -- perplexity ---------------------------------------------------------------------------------------------------


def test_perplexity_counts_tokens_and_not_batches() -> None:
    """Three tokens with probability 1/4 and one with 1/2: exp of 7 ln 2 / 4, not the mean of 4 and 2."""
    metric = TASK.metric(torch.zeros(1, 4, 4))
    TASK.measure(metric, torch.zeros(1, 4, 4), torch.tensor([[0, 1, 2, 3]]))
    TASK.measure(metric, torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))
    assert TASK.value(metric) == pytest.approx(2 ** (7 / 4), rel=1e-7)


@pytest.mark.usefixtures("at_a_time")
def test_perplexity_is_that_of_torchmetrics() -> None:
    student, _, labels = texts(torch.float32, grad=False)
    ours, theirs = TASK.metric(student), Perplexity(ignore_index=-100)
    for part in (slice(0, 1), slice(1, 3)):
        TASK.measure(ours, student[part], labels[part])
        theirs.update(student[part, :-1], labels[part, 1:])
    assert TASK.value(ours) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_many_tokens_lose_nothing() -> None:
    """In float32 a sum of 2^24 would not see another 1."""
    metric: Any = TASK.metric(torch.zeros(1, 1, 1))
    metric.nats += 2.0**24
    metric.tokens += 2.0**24
    metric.update(torch.tensor([[-1.0, math.log(1 - math.exp(-1))]]), torch.tensor([0]))
    assert float(metric.nats) == pytest.approx(2**24 + 1, abs=1e-6)
    assert float(metric.tokens) == 2**24 + 1


def test_a_metric_of_ones_own_receives_log_probabilities_of_the_tokens_that_count() -> None:
    student, _, labels = texts(torch.float32, grad=False)
    logs, ids = TASK.compared(student, labels)
    counted = labels[:, 1:] != -100
    assert torch.equal(ids, labels[:, 1:][counted])
    torch.testing.assert_close(logs, student[:, :-1].log_softmax(-1)[counted])

    def bits(logs: Tensor, ids: Tensor) -> Tensor:
        return -logs.gather(1, ids[:, None]).mean() / math.log(2)

    in_bits = TASK.with_metric(bits, ad.tasks.Quality("entropy", "bits", higher_is_better=False))
    right = TASK.with_metric(MulticlassAccuracy(VOCABULARY, average="micro"), ad.tasks.Quality("top-1", "%"))
    found = []
    for task in (in_bits, right):
        metric = task.metric(student)
        for part in (slice(0, 1), slice(1, 3)):  # of different lengths, one behind the other
            task.measure(metric, student[part, : 5 - part.start], labels[part, : 5 - part.start])
        found.append(task.value(metric))
    used = torch.cat([student[0, :4], student[1, :1], student[2, :1], student[2, 2:3]])
    wanted = torch.cat([labels[0, 1:], labels[1, 1:2], labels[2, 1:2], labels[2, 3:4]])
    assert found[0] == pytest.approx(float(F.cross_entropy(used, wanted)) / math.log(2), rel=1e-6)
    assert found[1] == pytest.approx(100 * float((used.argmax(1) == wanted).float().mean()))


# -- models of transformers ---------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | changes))


def batches(*lengths: int) -> list[dict[str, Tensor]]:
    """As DataCollatorForLanguageModeling(mlm=False) gives them: two texts, the second one padded."""
    generator, made = torch.Generator().manual_seed(1), []
    for length in lengths:
        ids = torch.randint(3, 50, (2, length), generator=generator)
        ids[1, length // 2 :] = 0
        mask = (ids != 0).long()
        made.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return made


def test_the_loss_is_the_one_that_the_model_returns() -> None:
    model = llama()
    [batch] = batches(9)
    x, labels = TASK.inputs(batch)
    output = model(**batch)
    torch.testing.assert_close(TASK.loss(TASK.output(output), labels), output.loss)
    own = TASK.inputs({name: tensor for name, tensor in batch.items() if name != "labels"})[1]
    assert torch.equal(own, labels)
    assert "labels" not in x


def test_evaluate_gives_the_perplexity_of_every_depth() -> None:
    """With shared prefixes and texts of several lengths; against each sub-network's own loss, weighted by tokens."""
    network = ad.adapt(llama(), example={"input_ids": torch.arange(6)[None]})
    data = batches(9, 4, 6)
    found = ad.evaluate(network, data)
    assert str(found.quality) == "perplexity (lower is better)"
    for skip in network.skips:
        nats, tokens = 0.0, 0
        for batch in data:
            number = int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad():
                nats, tokens = nats + number * float(network.subnet(skip)(**batch).loss), tokens + number
        assert tokens == 8 + 3 + 3 + 1 + 5 + 2
        assert found[skip] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert ad.evaluate(network, [data[0]["input_ids"][:1]]).keys() == found.keys()


def test_the_lowest_perplexity_is_the_best_and_is_named() -> None:
    network = ad.adapt(llama(), example={"input_ids": torch.arange(6)[None]})
    measured = ad.evaluate(network, batches(9))
    measured.update(FF=20.0, FT=22.0, TF=25.0, TT=24.0)
    costs = {skip: Cost(skip, 10, 5, ms, ms, ms) for skip, ms in {"FF": 4.0, "FT": 3.0, "TF": 3.0, "TT": 2.0}.items()}
    table = ad.tradeoffs(measured, Profile(costs, 4, {"type": "cpu"}, {}))
    assert [row.skip for row in table.front("latency_ms")] == ["TT", "FT", "FF"]
    assert table.best(latency_ms=3) == "FT"
    assert table.best(quality=24.5) == "TT"
    assert "perplexity" in str(table)
    assert "perplexity" in str(table.choose(latency_ms=3))
    assert plot_tradeoffs(table).axes[0].get_ylabel() == "perplexity (lower is better)"


@pytest.mark.parametrize(
    "where", ["Passes", "SelfDistillation", "train", "algorithm 1", "analyze", "supervise", "a plain model"]
)
def test_a_causal_model_of_transformers_needs_no_task(where: str) -> None:
    model, data = llama(), batches(9, 4)
    network = ad.adapt(model, example={"input_ids": torch.arange(6)[None]})
    if where in ("Passes", "SelfDistillation"):
        made = getattr(ad, where)(network)
        assert isinstance(made.task, LanguageModel)
        return
    if where == "analyze":
        network.eval()
        with torch.no_grad():
            expected = float(model.eval()(**data[0]).loss)
        assert ad.analyze(network, data[:1]).losses["FF"] == pytest.approx(expected, rel=1e-5)
        return
    if where == "supervise":
        seen = supervise(model)(*TASK.inputs(data[0]), Tensor.backward)
        torch.testing.assert_close(seen.loss, model(**data[0]).loss.detach())
        return
    if where == "a plain model":
        first, *_, last = ad.train(llama(), data, epochs=8, lr=0.01).epochs
        assert last.loss < first.loss
        return
    before = ad.evaluate(network, data)
    passes = {"passes": where} if where == "algorithm 1" else {}
    history = ad.train(network, data, epochs=8, lr=0.01, validation=data, **passes)
    after = ad.evaluate(network, data)
    assert all(after[skip] < before[skip] for skip in network.skips)
    assert history.epochs[-1].validation == {"FF": after["FF"], "TT": after["TT"]}


PADDED = torch.tensor([[5, 6, 7, 8], [9, 5, 3, 3]])


@pytest.mark.parametrize("ids", [PADDED, PADDED.flip(1), PADDED[1:]], ids=["behind", "before", "one text"])
@pytest.mark.parametrize("where", ["evaluate", "Passes", "train"])
def test_padding_without_a_mask_is_not_learned(where: str, ids: Tensor) -> None:
    network = ad.adapt(llama(pad_token_id=3, eos_token_id=1))
    calls = {
        "evaluate": lambda: ad.evaluate(network, [ids]),
        "Passes": lambda: next(ad.Passes(network)(ids)),
        "train": lambda: ad.train(network, [ids], epochs=1),
    }
    with pytest.raises(ad.DataError, match=r"1 of \d texts begin or end with the padding token 3, but .*with its mask"):
        calls[where]()


@pytest.mark.parametrize(
    ("ids", "changes"),
    [
        (PADDED, {"eos_token_id": [1, 3]}),  # the end of each text
        (PADDED, {"pad_token_id": None}),
        (torch.tensor([[3, 5, 6, 7], [3, 8, 9, 5]]), {}),  # all begin with it
        (torch.tensor([[5, 3, 6, 3], [9, 5, 3, 3]]), {}),  # it stands between others
    ],
)
def test_what_may_be_text_is_learned(ids: Tensor, changes: dict[str, Any]) -> None:
    network = ad.adapt(llama(**{"pad_token_id": 3, "eos_token_id": 1} | changes))
    assert ad.evaluate(network, [ids]).keys() == {*network.skips}


def test_padding_that_is_told_is_left_out() -> None:
    network = ad.adapt(llama(pad_token_id=3, eos_token_id=1))
    mask, labels = (PADDED != 3).long(), PADDED.masked_fill(PADDED == 3, -100)
    found = ad.evaluate(network, [{"input_ids": PADDED, "attention_mask": mask}])
    assert found == pytest.approx(ad.evaluate(network, [{"input_ids": PADDED, "labels": labels}]), rel=1e-5)


BEYOND = torch.arange(6)[None].repeat(4, 1)


@pytest.mark.parametrize(
    ("changes", "ids", "said"),
    [
        ({}, BEYOND + 45, "token ids from 45 to 50, but the model knows 0 to 49: expected the ids of"),
        ({}, BEYOND - 100, "token ids from -100 to -95, .*; padding needs an id, too, only labels may be -100"),
        ({"max_position_embeddings": 5}, BEYOND, "texts of 6 tokens, but the model's context is 5"),
    ],
)
@pytest.mark.parametrize(
    "where",
    ["evaluate", "Passes", "over", "SelfDistillation", "backward", "train", "algorithm 1", "analyze", "a plain model"],
)
def test_texts_that_the_model_cannot_take(where: str, changes: dict[str, Any], ids: Tensor, said: str) -> None:
    model, labels = llama(**changes), torch.full_like(ids, 7)
    network, batch = ad.adapt(model), {"input_ids": ids, "labels": labels}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calls = {
        "evaluate": lambda: ad.evaluate(network, [batch]),
        "Passes": lambda: next(ad.Passes(network)({"input_ids": ids}, labels)),
        "over": lambda: next(iter(ad.Passes(network).over([batch]))),
        "SelfDistillation": lambda: ad.SelfDistillation(network)({"input_ids": ids}, labels),
        "backward": lambda: ad.SelfDistillation(network).backward({"input_ids": ids}, labels),
        "train": lambda: ad.train(network, [batch], epochs=1),
        "algorithm 1": lambda: ad.train(network, [batch], epochs=1, passes="algorithm 1"),
        "analyze": lambda: ad.analyze(network, [batch]),
        "a plain model": lambda: ad.train(model, [batch], epochs=1),
    }
    with pytest.raises(ad.DataError, match=said):
        calls[where]()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_context_is_what_the_config_says_of_it() -> None:
    network = ad.adapt(llama(max_position_embeddings=5))
    network.model.config.max_position_embeddings = 6  # as the error says
    assert len(ad.evaluate(network, [BEYOND])) == 4
    with pytest.raises(ad.DataError, match="texts of 6 tokens"):
        ad.evaluate(ad.adapt(llama(max_position_embeddings=5)), [(BEYOND, {"": BEYOND})], task={"": LanguageModel()})


def test_the_objective_softens_by_its_own_temperature_or_the_tasks() -> None:
    network = ad.adapt(llama(), example={"input_ids": torch.arange(6)[None]})
    for task in (LanguageModel(temperature=3), Classification(temperature=3)):
        assert ad.SelfDistillation(network, task).task.temperature == 3  # type: ignore[attr-defined]
        assert ad.SelfDistillation(network, task, temperature=2).task.temperature == 2  # type: ignore[attr-defined]
        assert task.temperature == 3


ENCODER = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
BERT = {**ENCODER, "vocab_size": 50}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "config", "changes", "said"),
    [
        (
            "T5ForConditionalGeneration",
            "T5Config",
            T5,
            r"T5For.*adaptive_depth.tasks.LanguageModel\(shift=False\)",
        ),
        ("BertForMaskedLM", "BertConfig", BERT, r"BertForMaskedLM fills in tokens: expected .*\(shift=False\), .*mlm"),
        ("BertLMHeadModel", "BertConfig", BERT, "BertLMHeadModel sees the tokens that come next.*is_decoder=True"),
        ("BertLMHeadModel", "BertConfig", {**BERT, "is_decoder": True}, None),
        ("BertForSequenceClassification", "BertConfig", BERT, "Classification"),
        ("LlamaModel", "LlamaConfig", SMALL, "Classification"),
    ],
)
def test_what_a_model_of_transformers_is_for(name: str, config: str, changes: dict[str, Any], said: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)(**changes))
    if said in (None, "Classification"):
        assert type(as_task(None, model)) is (LanguageModel if said is None else Classification)
    else:
        with pytest.raises(ad.TrainingError, match=said):
            as_task(None, model)
    named = LanguageModel(shift=False)
    assert as_task(named, model) is named


def test_other_classes_of_the_same_name_or_behind_a_wrapper() -> None:
    class LlamaForCausalLM(nn.Module):
        config = llama().config

    assert isinstance(as_task(None, LlamaForCausalLM()), Classification)
    own = type("Own", (type(llama()),), {})
    assert isinstance(as_task(None, nn.DataParallel(own(llama().config))), LanguageModel)


def test_a_teachers_logits_that_do_not_fit_into_the_buffer_are_refused() -> None:
    """Two batches of 2 * 9 * 50 logits in float32 are 7,200 bytes."""
    network, given = ad.adapt(llama(), example={"input_ids": torch.arange(6)[None]}).train(), TASK.inputs(batches(9)[0])
    schedule = ad.Schedule("SB", delay=1, teacher_share=0.5, teacher_start=0)
    next(ad.Passes(network, schedule=schedule, buffer_mb=0.0072)(*given))
    said = (
        "outputs for 2 batches take 0 MB, but buffer_mb is 0: expected a larger limit, a shorter delay, or teacher_sha"
    )
    with pytest.raises(ad.TrainingError, match=said):
        next(ad.Passes(network, schedule=schedule, buffer_mb=0.0071)(*given))
