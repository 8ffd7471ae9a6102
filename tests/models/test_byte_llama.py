"""The language model on bytes: what it is, how it is trained, and what its weights know."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import models
from models.byte_llama import ByteLlama, generate, rotations
from models.errors import DataError, ModelError
from models.text_training import TextRecipe, loss_of, pieces, read_bytes, train_text

# From the last act of The Tempest, which isn't in the text that the weights were trained on.
_VERSE = (
    b"Now my charms are all o'erthrown,\nAnd what strength I have's mine own,\n"
    b"Which is most faint: now, 'tis true,\nI must be here confined by you,\n"
    b"Or sent to Naples. Let me not,\nSince I have my dukedom got\n"
)


def _ids(n: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, length), generator=torch.Generator().manual_seed(seed))


def _small(**changed: int) -> ByteLlama:
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 2, "heads": 4, "key_heads": 2, "hidden": 24, "positions": 64}
    return ByteLlama(**{**sizes, **changed}).eval()


@torch.no_grad()
def test_a_byte_hears_only_what_came_before() -> None:
    model, ids = _small().double(), _ids()
    whole = model(ids)
    assert whole.shape == (2, 12, 256)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    other = model(changed)
    assert torch.equal(other[:, :7], whole[:, :7])
    assert (other[:, 7:] - whole[:, 7:]).abs().amin(dim=(0, 2)).shape == (5,)
    assert not torch.allclose(other[:, 7:], whole[:, 7:])
    torch.testing.assert_close(model(ids[:, :5]), whole[:, :5])


@torch.no_grad()
def test_products_of_rotated_values_depend_on_their_distance() -> None:
    cos, sin = (t.double() for t in rotations(8, 32))
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def rotated(x: Tensor, at: int) -> Tensor:
        first, second = x.chunk(2)
        return x * cos[at] + torch.cat((-second, first)) * sin[at]

    near = rotated(query, 9) @ rotated(key, 4)
    torch.testing.assert_close(near, rotated(query, 25) @ rotated(key, 20), atol=1e-6, rtol=0)
    assert abs(near - rotated(query, 9) @ rotated(key, 5)) > 1e-3
    torch.testing.assert_close(rotated(query, 9).norm(), query.norm(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_equal_to_llama_of_transformers() -> None:
    """The same weights in Hugging Face's network give the same logits."""
    transformers = pytest.importorskip("transformers", reason="transformers isn't installed")
    model = _small().double()
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval().double()
    renamed = {
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj", "attention.out": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
    }  # fmt: skip
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            state[f"model.layers.{layer}.{renamed[rest.removesuffix('.weight')]}.weight"] = value
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = model.embedding.weight
    state["model.norm.weight"] = model.norm.weight
    theirs.load_state_dict(state)
    ids = _ids()
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_generate() -> None:
    model = _small()
    said = generate(model, b"To be", 9, seed=3)
    assert said[:5] == b"To be" and len(said) == 14
    assert said == generate(model, b"To be", 9, seed=3) != generate(model, b"To be", 9, seed=4)
    likeliest = generate(model, b"To be", 1, temperature=0)
    assert likeliest[-1] == int(model(torch.tensor([list(b"To be")]))[0, -1].argmax())
    # The window moves along.
    assert len(generate(model, b"x" * 80, 2, window=64)) == 82
    assert generate(model, b"To be", 9, window=16, padded=True, seed=3) == said
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(model, b"", 1)


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(100)))
    text, held_out = read_bytes(path)
    assert text.tolist() == list(range(90)) and held_out.tolist() == list(range(90, 100))
    assert pieces(text, 40).tolist() == [list(range(40)), list(range(40, 80))]
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_bytes(tmp_path / "none.txt")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_bytes(path)


def test_training_learns_and_goes_on_where_it_was(tmp_path: Path) -> None:
    text = torch.tensor(list(b"few spikes are enough. " * 40))
    recipe = TextRecipe(epochs=3, steps=20, batch_size=4, length=16, learning_rate=0.01, warmup=0.5)
    model = _small()
    rows = train_text(model, text[:800], text[800:], recipe, tmp_path / "whole")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and not model.training
    assert rows[-1]["held_out_loss"] < 0.7 * 5.5
    assert rows[-1]["held_out_loss"] == pytest.approx(loss_of(model, text[800:], 16))

    halted = _small()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.text_training.write_log", _raise_after(2))
        with pytest.raises(KeyboardInterrupt):
            train_text(halted, text[:800], text[800:], recipe, tmp_path / "halted")
    resumed = _small()
    assert len(train_text(resumed, text[:800], text[800:], recipe, tmp_path / "halted")) == 3
    for (name, a), b in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(ModelError, match="another recipe"):
        train_text(_small(), text, text, TextRecipe(epochs=4), tmp_path / "whole")
    with pytest.raises(DataError, match="10 bytes, fewer than a piece of 16"):
        train_text(_small(), text[:10], text, recipe, tmp_path / "short")
    with pytest.raises(ModelError, match="two bytes a piece"):
        TextRecipe(length=1)


def _raise_after(count: int):
    """A writer of logs during whose last call the user stops the training."""
    calls = []

    def write(rows: object, path: object) -> None:
        calls.append(path)
        if len(calls) == count:
            raise KeyboardInterrupt

    return write


@torch.no_grad()
def test_shipped_weights_know_verse() -> None:
    model = models.get("byte_llama")
    ids = torch.tensor([list(_VERSE)])
    loss = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])
    assert loss < 2.0, "bytes of English text have about 3.3 nats without what came before"
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6
    other = models.get("byte_llama", "random", seed=1)
    assert F.cross_entropy(other(ids[:, :-1])[0], ids[0, 1:]) > 5
    with pytest.raises(ModelError, match="no weights"):
        models.get("byte_llama", "nowhere.pt")
    with pytest.raises(ModelError, match="SiLU"):
        models.get("byte_llama", activation="relu")
    with pytest.raises(ModelError, match="256"):
        models.get("byte_llama", "random", classes=10)
    texts = models.preprocessing("byte_llama")
    assert isinstance(texts, models.TextPreprocessing) and texts.causal
