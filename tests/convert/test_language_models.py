"""Hugging Face's networks at lengths and image sizes other than the calibration's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, load, to_spiking

transformers = pytest.importorskip("transformers", reason="the networks are Hugging Face's")

# Binary tables are poor at the inverse of a causal row's sum, and networks say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*which is POOR:UserWarning")

_WORDS = 60
_SMALL = {
    "vocab_size": _WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}


def bert(attention: str) -> nn.Module:
    config = transformers.BertConfig(**_SMALL, attn_implementation=attention)
    return transformers.BertModel(config, add_pooling_layer=False)


def gpt2(attention: str) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=_WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=24, use_cache=True,
        initializer_range=0.2, attn_implementation=attention,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(attention: str) -> nn.Module:
    config = transformers.LlamaConfig(
        **_SMALL, num_key_value_heads=1, attn_implementation=attention
    )
    return transformers.LlamaForCausalLM(config)


def qwen2(attention: str) -> nn.Module:
    config = transformers.Qwen2Config(
        **_SMALL, num_key_value_heads=1, attn_implementation=attention
    )
    return transformers.Qwen2ForCausalLM(config)


def t5(attention: str) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=_WORDS, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config)


def texts(images: int, length: int, side: str) -> dict[str, Tensor]:
    """Tokens, of which each text but the first has some padding on one side."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, _WORDS, (images, length), generator=generator)
    mask = torch.ones_like(ids)
    for i in range(images):
        hidden = min(2 * i, length - 2) if length > 2 else 0
        part = slice(length - hidden, length) if side == "right" else slice(0, hidden)
        ids[i, part], mask[i, part] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@cache
def converted(make: Callable[[str], nn.Module], attention: str) -> tuple[SpikingModel, nn.Module]:
    """A network and its original, which several tests look at and none changes."""
    torch.manual_seed(0)
    model = make(attention).eval()
    data = [texts(4, 7, "right"), texts(4, 10, "left")]
    snn = to_spiking(model, data, steps=12, method="binary", sequential=False, progress=False)
    return snn, model


_CASES = [
    (bert, "sdpa"), (bert, "eager"), (gpt2, "sdpa"), (gpt2, "eager"),
    (llama, "sdpa"), (qwen2, "eager"), (t5, "eager"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "attention"), _CASES)
def test_texts_of_other_lengths(
    make: Callable[[str], nn.Module], attention: str, tmp_path: Path
) -> None:
    snn, model = converted(make, attention)
    assert str(snn.signature.inputs[0]) == "input_ids [batch, length]"
    snn.save(tmp_path / "net.fsnn")
    loaded = load(tmp_path / "net.fsnn")
    for images, length, side in ((5, 14, "right"), (5, 9, "left"), (1, 5, "right"), (1, 3, "left")):
        given = texts(images, length, side)
        kept = given["attention_mask"].bool()
        with torch.no_grad():
            exact, copied, found = model(**given), snn.original()(**given), snn(**given)
        assert type(found) is type(exact) and "past_key_values" not in found
        exact, copied, found = (outputs[0][kept] for outputs in (exact, copied, found))
        assert torch.allclose(copied, exact, atol=1e-4)
        # The binary table is poor at the inverse of a causal row's sum, of whatever K; see below.
        assert make not in (bert, t5) or (found - exact).norm() < 0.3 * exact.norm()
        assert torch.equal(loaded(**given)[0][kept], found)


@pytest.mark.parametrize(("make", "attention"), [(gpt2, "eager")])
def test_causal_networks_at_eight_steps(make: Callable[[str], nn.Module], attention: str) -> None:
    torch.manual_seed(0)
    model = make(attention).eval()
    data = [texts(16, 7, "right"), texts(16, 10, "left")]
    snn = to_spiking(model, data, steps=8, sequential=False, progress=False)
    for images, length, side in ((5, 14, "right"), (5, 9, "left"), (1, 5, "right")):
        given = texts(images, length, side)
        kept = given["attention_mask"].bool()
        with torch.no_grad():
            exact, found = (network(**given)[0][kept] for network in (model, snn))
        assert 0 < (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(("make", "attention"), [(bert, "eager"), (gpt2, "sdpa"), (gpt2, "eager")])
@pytest.mark.parametrize("side", ["right", "left"])
def test_masked_positions_have_no_influence(
    make: Callable[[str], nn.Module], attention: str, side: str
) -> None:
    snn, _ = converted(make, attention)
    given = texts(5, 12, side)
    kept = given["attention_mask"].bool()
    others = torch.where(kept, given["input_ids"], 1 + torch.arange(12))
    assert not torch.equal(others, given["input_ids"])
    changed = given | {"input_ids": others}
    assert torch.equal(snn(**given)[0][kept], snn(**changed)[0][kept])
    # And without padding they are as alone, but for rounding, which may move a spike.
    for i in range(5):
        alone = {name: value[i : i + 1, kept[i]] for name, value in given.items()}
        if side == "right":
            gap = (snn(**alone)[0][0] - snn(**given)[0][i][kept[i]]).norm()
            assert gap < 0.02 * snn(**alone)[0].norm()


def test_what_a_mask_writes_is_left_out_of_histograms() -> None:
    snn, _ = converted(bert, "eager")
    (exp,) = [name for name in snn.histograms if name.endswith("exp")]
    histogram = snn.histograms[exp]
    assert histogram.low > -100 and histogram.minus_infinite > 0 and histogram.hides
    hidden = torch.tensor([-float("inf"), torch.finfo(torch.float32).min, -1e20, -1.2e12])
    assert not snn.sites[exp](hidden).any()


def test_padding_has_no_weight() -> None:
    """What the padded positions hold changes no importance of any site's values."""

    def masses(fill: int) -> dict[str, Any]:
        torch.manual_seed(0)
        data = [texts(4, 7, "right"), texts(4, 10, "right")]
        for batch in data:
            batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, fill)
        snn = to_spiking(
            bert("sdpa").eval(), data, steps=2, method="binary", sequential=False, progress=False
        )
        return {
            name: (float(h.mass @ h.centres) / float(h.mass.sum()), float(h.counts @ h.centres))
            for name, h in snn.histograms.items()
        }

    first, second = masses(0), masses(9)
    for name, (mean, counted) in first.items():
        assert mean == pytest.approx(second[name][0], rel=1e-3)
        assert counted != second[name][1] or name.endswith("exp")


def test_images_of_other_sizes() -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        image_size=32, patch_size=8, num_labels=4, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    data = [
        {"pixel_values": torch.randn(3, 3, h, w), "interpolate_pos_encoding": True}
        for h, w in ((32, 32), (40, 56))
    ]
    snn = to_spiking(model, data, steps=8, method="binary", progress=False)
    assert str(snn.signature.inputs[0]) == "pixel_values [batch, 3, height, width]"
    for height, width in ((32, 32), (48, 24), (17, 65)):
        given = data[0] | {"pixel_values": torch.randn(2, 3, height, width)}
        with torch.no_grad():
            exact = model(**given).logits
        assert torch.allclose(snn.original()(**given).logits, exact, atol=1e-4)
        assert (snn(**given).logits - exact).norm() < 0.3 * exact.norm()
