"""Identity neurons on analog operands."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convert


class Block(nn.Module):
    """One attention with its norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randn(96, 5, 6, generator=torch.Generator().manual_seed(1))


def test_every_multiplication_but_the_image_is_driven_by_spikes(block, tokens):
    plain = convert.to_spiking(block, tokens, steps=6, method="binary", progress=False)
    coded = convert.to_spiking(block, tokens, steps=6, method="binary", encode=True, progress=False)
    new = [row for row in coded.report.sites if row.function == "identity"]
    # norm output, q, k, v, probabilities, attention output, pooled tokens
    assert len(new) == 7
    assert len(coded.sites) == len(plain.sites) + 7
    image = [o for o in coded.report.operations if o.multiply_accumulates and o.signal == "analog"]
    assert [o.where for o in image] == ["embed"]
    assert all(set(row["operands"]) == {"spikes"} for row in coded.report.to_dict()["products"])
    assert plain.report.spike_driven < coded.report.spike_driven < 1.0


def test_all_encodes_the_image_too(block, tokens):
    coded = convert.to_spiking(
        block, tokens, steps=8, method="binary", encode="all", progress=False
    )
    assert coded.report.spike_driven == 1.0
    assert next(iter(coded.sites)) == "x.encode"


def test_agreement_without_the_neurons_is_reported(block, tokens):
    coded = convert.to_spiking(block, tokens, steps=4, method="binary", encode=True, progress=False)
    result = convert.evaluate(coded, block, [tokens], by_site=0, progress=False)
    bare = result.spiking["without_encoding"]
    assert 0 <= bare["agreement"] <= 1
    assert bare["logit_rmse"] < result.spiking["logit_rmse"]
    assert "Without the identity neurons" in str(result)


def test_another_setting_is_refused(block, tokens):
    with pytest.raises(convert.InputError, match="'some'"):
        convert.to_spiking(block, tokens, steps=4, encode="some", progress=False)


class Inputs(nn.Module):
    """Of three inputs one is read, one returned as it is, and one ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor, kept: Tensor, unread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.relu(self.a(x)), kept, x


def test_inputs_that_nothing_computes_with_stay() -> None:
    x = torch.randn(16, 6)
    options = {"steps": 4, "method": "binary", "progress": False}
    snn = convert.to_spiking(Inputs().eval(), [(x, x, x)], encode="all", **options)
    assert set(snn.sites) == {"x.encode", "relu"}
    _, kept, same = snn(x, x, x)
    assert torch.equal(kept, x) and torch.equal(same, x)
