"""Perplexity of a small causal language model, computed by hand beside it."""

from __future__ import annotations

import json
import math
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import Evaluation, InputError, Perplexity, SpikingModel, evaluate, to_spiking
from convert.evaluation.measures import outputs_of

VOCABULARY, LENGTH, TEXTS = 11, 7, 12


class Language(nn.Module):
    """Each position gives the next token from the sum of what it may see."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 16)
        self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, VOCABULARY)
        self.form = form

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        seen = attention_mask[:, :, None].to(self.table.weight.dtype)
        x = self.table(input_ids) * seen
        x = torch.cumsum(x, 1) / LENGTH
        logits = 6 * self.head(torch.nn.functional.silu(self.hidden(x)))
        return {"hidden": x, "logits": logits} if self.form == "dict" else logits


class Encoding(UserDict[str, Any]):
    """As the batches of a tokenizer are."""


@pytest.fixture(scope="module")
def model() -> Language:
    torch.manual_seed(2)
    return Language().eval()


def _texts(side: str) -> dict[str, Tensor]:
    """Texts of several lengths; padding is token 0 on one side."""
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(1, VOCABULARY, (TEXTS, LENGTH), generator=random)
    lengths = torch.randint(2, LENGTH + 1, (TEXTS,), generator=random)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = ids * mask
    if side == "left":
        places = (torch.arange(LENGTH) - LENGTH + lengths[:, None]) % LENGTH
        ids, mask = ids.gather(1, places), mask.flip(1)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def snn(model: Language) -> SpikingModel:
    batches = [_texts("right"), _texts("left")]
    return to_spiking(model, batches, steps=[4, 2], method="binary", progress=False)


def _log_likelihoods(network: nn.Module, texts: dict[str, Tensor]) -> list[Tensor]:
    """Of every text without its padding: the log-probabilities ``[length - 1, vocabulary]``."""
    with torch.no_grad():
        logits = network(**texts)
    kept = texts["attention_mask"].bool()
    return [
        rows[keep].double().log_softmax(1)[:-1] for rows, keep in zip(logits, kept, strict=True)
    ]


def _by_hand(network: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    losses = []
    for texts in batches:
        kept = texts["attention_mask"].bool()
        for text, keep, log_p in zip(
            texts["input_ids"], kept, _log_likelihoods(network, texts), strict=True
        ):
            losses += [-float(log_p[t, token]) for t, token in enumerate(text[keep][1:])]
    return math.exp(sum(losses) / len(losses))


def _result(snn: SpikingModel, model: nn.Module | None, data: Any, **given: Any) -> Evaluation:
    return evaluate(snn, model, data, **{"metric": "perplexity", "progress": False, **given})


@pytest.mark.parametrize("side", ["right", "left"])
def test_as_by_hand_with_padding(snn: SpikingModel, model: Language, side: str) -> None:
    texts = _texts(side)
    batches = [{name: x[a:b] for name, x in texts.items()} for a, b in ((0, 3), (3, TEXTS))]
    labelled = [
        {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
        for batch in batches
    ]
    result = _result(snn, model, labelled, by_site=5)
    expected = _by_hand(model, batches)
    assert result.original.perplexity == pytest.approx(expected, rel=1e-6)
    assert result.original.tokens == int(texts["attention_mask"].sum()) - TEXTS
    for row in result.by_step:
        with snn.readout(row.step):
            assert row.perplexity == pytest.approx(_by_hand(snn, batches), rel=1e-5)
        with snn.readout(row.step, corrected=False):
            assert row.raw.perplexity == pytest.approx(_by_hand(snn, batches), rel=1e-5)
    with snn.with_steps(2):
        assert result.by_K[0].perplexity == pytest.approx(_by_hand(snn, batches), rel=1e-5)
    # The last step is the whole network.
    whole = result.spiking.measures
    assert result.by_step[-1].measures == whole and whole.perplexity != expected
    # Not the mean of the batches' perplexities.
    means = [_by_hand(model, [batch]) for batch in batches]
    assert abs(sum(means) / 2 - expected) > 1e-3
    # Padding on either side says the same, with labels or the input ids alone.
    assert result.original.perplexity == pytest.approx(_by_hand(model, [_texts("left")]), rel=1e-5)
    unlabelled = _result(snn, model, batches, at=[], by_site=0)
    assert unlabelled.spiking.measures == whole
    assert "the input ids, shifted by one, are the" in unlabelled.notes[-1]
    assert "attention_mask leaves out" in unlabelled.notes[-1]


def test_divergence_and_agreement(snn: SpikingModel, model: Language) -> None:
    texts = _texts("left")
    result = _result(snn, model, [texts], at=[], by_site=TEXTS)
    exact, found = (torch.cat(_log_likelihoods(net, texts)) for net in (model, snn))
    divergence = float((exact.exp() * (exact - found)).sum(1).mean())
    assert result.spiking.divergence == pytest.approx(divergence, rel=1e-4) and divergence > 0
    same = exact.argmax(1) == found.argmax(1)
    assert result.spiking.agreement == pytest.approx(float(same.double().mean()))
    # One site: alone it is the whole network, its padding left out as well.
    (site,) = result.by_site
    assert site.divergence == pytest.approx(divergence, rel=1e-4)
    assert site.accumulated_perplexity == pytest.approx(result.spiking.perplexity, rel=1e-5)


def test_labels_that_are_shifted_already(snn: SpikingModel, model: Language) -> None:
    texts = _texts("right")
    expected = _result(snn, model, [texts], at=[], by_site=0)
    ahead = torch.cat([texts["input_ids"][:, 1:], torch.full((TEXTS, 1), -100)], 1)
    for metric in ("perplexity", Perplexity(), Perplexity(shift=False)):
        # The padding that follows each text is not what its last token is to give.
        found = _result(snn, model, [{**texts, "labels": ahead}], metric=metric, at=[], by_site=0)
        assert found.original.perplexity == pytest.approx(expected.original.perplexity)
        assert found.original.tokens == expected.original.tokens
        assert "shifted already" in found.notes[-1] and found.metric == "perplexity"
    # A last target beyond the input counts.
    longer, last = ahead.clone(), texts["attention_mask"].sum(1) - 1
    longer[torch.arange(TEXTS), last] = 5
    found = _result(snn, model, [{**texts, "labels": longer}], at=[], by_site=0)
    assert found.original.tokens == expected.original.tokens + TEXTS


@pytest.mark.parametrize("form", ["dict", "encoding", "pair", "triple", "nested", "numpy"])
def test_batches_as_loaders_yield_them(snn: SpikingModel, model: Language, form: str) -> None:
    texts = _texts("right")
    ids, mask = texts["input_ids"], texts["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    batch: Any = {
        "dict": {**texts, "labels": labels},
        "encoding": Encoding(input_ids=ids, attention_mask=mask, labels=labels),
        "pair": (texts, labels),
        "triple": (ids, mask, labels),
        "nested": ((ids, mask), {"labels": labels, "id": torch.arange(TEXTS)}),
        "numpy": {name: x.numpy() for name, x in {**texts, "labels": labels}.items()},
    }[form]
    found = _result(snn, model, [batch], at=[], by_site=0)
    assert found.original.perplexity == pytest.approx(_by_hand(model, [texts]), rel=1e-6)
    assert found.labelled_images == TEXTS


def test_written_printed_and_drawn(
    snn: SpikingModel, model: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _result(snn, model, [_texts("right")], by_site=4)
    result.to_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["metric"] == "perplexity" and set(found["original"]) == {"perplexity", "tokens"}
    measures = {"perplexity", "divergence", "agreement"}
    assert measures <= set(found["spiking"]) and set(found["by_step"][0]["raw"]) == measures
    assert measures <= set(found["by_K"][0]) and "accumulated_divergence" in found["by_site"][0]
    printed = str(result)
    assert f"(original {result.original.perplexity:.4f})" in printed
    assert "perplexity  divergence  agreement" in printed
    saved: list[Any] = []
    import matplotlib.figure

    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: saved.append(self)
    )
    monkeypatch.setattr("convert.evaluation.plots.atomic_path", _Nowhere)
    result.plot(tmp_path / "steps.png")
    own, shares, _ = saved[0].axes
    assert own.get_ylabel() == "perplexity (lower is better)"
    assert shares.get_ylabel() == "share" and own.get_yscale() == "log"
    lines = {line.get_label(): list(line.get_ydata()) for line in own.lines}
    assert lines["original's perplexity"][0] == result.original.perplexity
    assert lines["perplexity"] == [row.perplexity for row in result.by_step]


class _Nowhere:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __enter__(self) -> Any:
        return self.path

    def __exit__(self, *found: object) -> None: ...


def test_the_logits_among_other_outputs() -> None:
    torch.manual_seed(2)
    model = Language("dict").eval()
    texts = _texts("right")
    snn = to_spiking(model, [texts], steps=4, method="binary", progress=False)
    found = _result(snn, model, [texts], at=[], by_site=0)
    plain = Language().eval()
    plain.load_state_dict(model.state_dict())
    assert found.original.perplexity == pytest.approx(_by_hand(plain, [texts]), rel=1e-6)
    assert any("output['logits'] is measured" in note for note in found.notes)


def test_outputs_and_batches_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="its classes are what is read")
    from transformers.modeling_outputs import CausalLMOutput

    class Hugging(Language):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            logits = super().forward(input_ids, attention_mask)
            return CausalLMOutput(logits=logits, hidden_states=(logits[:, :, :4],))

    torch.manual_seed(2)
    model, texts = Hugging().eval(), _texts("left")
    labels = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
    batch = transformers.BatchEncoding({**texts, "labels": labels})
    snn = to_spiking(model, [batch], steps=4, method="binary", progress=False)
    found = _result(snn, model, [batch], by_site=5)
    plain = Language().eval()
    plain.load_state_dict(model.state_dict())
    assert found.original.perplexity == pytest.approx(_by_hand(plain, [texts]), rel=1e-6)
    assert any("output['logits'] is measured" in note for note in found.notes)

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        assert isinstance(outputs, CausalLMOutput)
        return outputs.logits.mean()

    assert _result(snn, model, [batch], metric=loss, by_site=5, at=[]).metric == "loss"


def test_logits_of_one_position_behind_the_other() -> None:
    class Flat(Language):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            logits: Tensor = super().forward(input_ids, attention_mask)
            return logits.flatten(0, 1)

    torch.manual_seed(2)
    model, texts = Flat().eval(), _texts("right")
    snn = to_spiking(model, [texts], steps=4, method="binary", progress=False)
    plain = Language().eval()
    plain.load_state_dict(model.state_dict())
    found = _result(snn, model, [texts], by_site=5)
    assert found.original.perplexity == pytest.approx(_by_hand(plain, [texts]), rel=1e-6)
    assert found.by_step[-1].measures == found.spiking.measures


def test_texts_without_labels_get_their_outputs_error(snn: SpikingModel, model: Language) -> None:
    found = evaluate(snn, model, [_texts("right")], at=[], by_site=0, progress=False)
    assert found.metric == "output" and found.spiking.relative_error > 0
    assert "come without labels" in found.notes[0] and "'perplexity'" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "metric", "named"),
    [
        ({"labels": torch.full((TEXTS, LENGTH), 11)}, "perplexity", "to 11.*has 11 tokens"),
        (
            {"labels": torch.full((TEXTS, LENGTH), -7)},
            "perplexity",
            "from -7.*-100 stands for none",
        ),
        ({"labels": torch.ones(TEXTS, LENGTH)}, "perplexity", "float32; give token ids"),
        (
            {"labels": torch.ones(TEXTS).long()},
            "perplexity",
            r"\(12,\).*token id for each position",
        ),
        ({"labels": torch.ones(TEXTS, LENGTH - 1).long()}, "perplexity", r"\(12, 6\).*\(12, 7\)"),
        ({"labels": ["a"] * TEXTS}, "perplexity", "labels are text"),
        ({"labels": torch.full((TEXTS, LENGTH), -100)}, "perplexity", "no token to be predicted"),
        (
            {"labels": torch.arange(LENGTH).expand(TEXTS, -1)},
            "perplexity",
            "shift=True.*shift=False",
        ),
        ({}, Perplexity(shift=False), "no labels"),
        (
            {"attention_mask": torch.full((TEXTS, LENGTH), 3)},
            "perplexity",
            "1 for tokens and 0 for",
        ),
    ],
)
def test_bad_targets_are_one_line(
    snn: SpikingModel, model: Language, change: dict[str, Any], metric: Any, named: str
) -> None:
    with pytest.raises(InputError, match=named) as caught:
        _result(snn, model, [{**_texts("right"), **change}], metric=metric, by_site=0)
    assert "\n" not in str(caught.value)


def test_batches_in_two_forms_are_refused(snn: SpikingModel, model: Language) -> None:
    texts = _texts("right")
    ids = texts["input_ids"]
    ahead = torch.cat([ids[:, 1:], torch.full((TEXTS, 1), -100)], 1)
    data = [{**texts, "labels": ids}, {**texts, "labels": ahead}]
    with pytest.raises(InputError, match="those of others are shifted by one"):
        _result(snn, model, data, by_site=0)


def test_other_outputs_and_other_shifts_are_refused(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(InputError, match=r"logits \[N, T, vocabulary\].*returns \[48, 4\]"):
        _result(converted, small, [(images, labels)])
    with pytest.raises(InputError, match="shift= must be True, False or None, found 1"):
        Perplexity(shift=1)  # type: ignore[arg-type]


def _added(logits: Tensor, exact: Tensor, targets: Tensor) -> Perplexity:
    measure = Perplexity(shift=False)
    measure.add(outputs_of(logits), outputs_of(exact), measure.labels(targets, outputs_of(exact)))
    return measure


def test_what_has_no_value() -> None:
    exact = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    found = exact.clone()
    found[1, 2, 0] = math.nan
    targets = torch.tensor([[1, 2, 3], [-100, 1, 2]])
    values = _added(found, exact, targets).values
    assert values.perplexity is None and values.divergence is None
    assert values.without_prediction == 1 and values.agreement == pytest.approx(4 / 5)
    # A position that doesn't count may hold anything.
    found = exact.clone()
    found[1, 0] = math.nan
    assert "without_prediction" not in _added(found, exact, targets).values
    # The original may rule tokens out; the other one may not rule out what it gives.
    masked = exact.clone()
    masked[:, :, 4] = -math.inf
    assert _added(masked, masked, targets).values.divergence == 0
    assert _added(exact, masked, targets).values.divergence > 0
    assert _added(masked, exact, targets).values.divergence is None
    # Too large for a number.
    wrong = torch.zeros(1, 1, 2)
    wrong[0, 0, 0] = 2000
    assert _added(wrong, wrong, torch.tensor([[1]])).values.perplexity is None


def test_large_vocabularies_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    exact, found = (torch.randn(3, 4, 6, generator=random) for _ in range(2))
    targets = torch.randint(6, (3, 4), generator=random)
    whole = _added(found, exact, targets).values
    monkeypatch.setattr("convert.evaluation.perplexity._PIECE", 30)
    assert _added(found, exact, targets).values.to_dict() == pytest.approx(whole.to_dict())


def test_half_precision_is_summed_in_double() -> None:
    exact = torch.randn(4, 50, 30, generator=torch.Generator().manual_seed(0)).half()
    targets = torch.zeros(4, 50).long()
    loss = torch.nn.functional.cross_entropy(exact.double().flatten(0, 1), targets.flatten())
    found = _added(exact, exact, targets).original.perplexity
    assert found == pytest.approx(math.exp(float(loss)), rel=1e-12)
