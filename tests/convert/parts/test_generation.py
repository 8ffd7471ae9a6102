"""Hugging Face's language models: generation around converted parts, with and without a cache."""

from typing import Any

import pytest
import torch
from support.models_with_parts import converted, same

from convert import InputError

transformers = pytest.importorskip("transformers", reason="language models are Hugging Face's")

TOKENS = torch.randint(3, 50, (4, 10), generator=torch.Generator().manual_seed(0))
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WRITE: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


def _gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=64, n_embd=16, n_layer=1, n_head=2, **ENDS
    )
    return transformers.GPT2LMHeadModel(config).eval()


def _llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **ENDS,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("make", "parts"),
    [(_gpt2, ["transformer.h.*.mlp"]), (_llama, ["model.layers.*.mlp"])],
    ids=["gpt2", "llama"],
)
@pytest.mark.filterwarnings("ignore:.*POOR")
def test_with_a_cache_where_parts_dont_get_it(make: Any, parts: list[str]) -> None:
    torch.manual_seed(0)
    model = make()
    snn = converted(model, [TOKENS], parts, dynamic={"input_ids": {1: "length"}})
    prompt = TOKENS[:2, :4]
    for cached in (True, False):
        text = snn.generate(prompt, use_cache=cached, **WRITE)
        assert text.shape == (2, 9) and torch.equal(text[:, :4], prompt)
        with snn.spiking_only(()):
            exact = snn.generate(prompt, use_cache=cached, **WRITE)
        assert torch.equal(exact, model.generate(prompt, use_cache=cached, **WRITE))
    assert snn.config.use_cache and type(snn(prompt)) is type(model(prompt))


@pytest.mark.filterwarnings("ignore:.*POOR")
def test_whole_blocks_without_a_cache() -> None:
    torch.manual_seed(0)
    model = _llama()
    snn = converted(model, [TOKENS, TOKENS[:3, :7]], ["model.layers.*"])
    assert any("config.use_cache was switched off" in note for note in snn.report.notes)
    prompt = TOKENS[:2, :4]
    with torch.no_grad(), snn.spiking_only(()):
        same(snn(prompt).logits, model(prompt).logits)
        exact = snn.generate(prompt, use_cache=False, **WRITE)
    assert torch.equal(exact, model.generate(prompt, use_cache=False, **WRITE))
    assert snn.generate(prompt, use_cache=False, **WRITE).shape == (2, 9)
    with pytest.raises(InputError, match=r"layers.0 gets .*Cache of keys .* use_cache=False"):
        snn.generate(prompt, **WRITE)
    assert model.config.use_cache  # the user's own stays
