"""Lengths that vary beside the batch: which they are, their bounds, and what can't vary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from convert import CaptureError, InputError, SpikingModel, refit, to_spiking
from convert.capture.capture import capture
from convert.common.batches import others_of


class Rotary(nn.Module):
    """A decoder layer as Llama's: RMS norm, rotary embedding, causal attention, gated units."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 8), nn.Linear(8, 30, bias=False)
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.before, self.behind = nn.RMSNorm(8), nn.RMSNorm(8)
        self.gate, self.up = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)
        self.down = nn.Linear(12, 8, bias=False)

    def turned(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
        angles = places[:, None] * torch.tensor([1.0, 0.1], device=x.device)
        even, odd = x[..., ::2], x[..., 1::2]
        turned = even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()
        return torch.cat(turned, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        images, length, _ = x.shape
        y = self.before(x)
        q, k, v = (
            layer(y).view(images, length, 2, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(images, length, 8)
        y = self.behind(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Masked(nn.Module):
    """Adds a mask to what it knows of tokens; positions come from a table."""

    def __init__(self, rows: int = 20) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(30, 6), nn.Embedding(rows, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        return self.head(F.gelu(x) * attention_mask[..., None])


def tokens(images: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 30, (images, length), generator=generator)


def texts(images: int, length: int) -> dict[str, Tensor]:
    ids = tokens(images, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def converted(model: nn.Module, data: Any, **settings: Any) -> SpikingModel:
    torch.manual_seed(0)
    return to_spiking(model.eval(), data, steps=3, method="binary", progress=False, **settings)


def bounds(snn: SpikingModel) -> dict[str, tuple[int, int | None, int]]:
    return {
        s.name: (s.bounds.smallest, s.bounds.most, s.bounds.divisor) for s in snn.signature.varying
    }


def check(snn: SpikingModel, model: nn.Module, *inputs: Tensor) -> None:
    """The graph gives what the model gives, and the fast run what the plain graph gives."""
    exact = model(*inputs)
    assert torch.allclose(snn.original()(*inputs), exact, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(snn(*inputs), snn.network(*inputs)[0])


def test_a_decoder_at_other_lengths() -> None:
    torch.manual_seed(0)
    model = Rotary()
    snn = converted(model, [tokens(4, 8), tokens(4, 11), tokens(3, 6)])
    assert bounds(snn) == {"length": (1, None, 1)}
    assert str(snn.signature.inputs[0]) == "tokens [batch, length]"
    for images, length in ((1, 1), (5, 5), (5, 13), (3, 8), (1, 40)):
        check(snn, model, tokens(images, length))
    again = refit(snn, [tokens(4, 9), tokens(4, 5)], steps=4, progress=False)
    check(again, model, tokens(2, 14))


@pytest.mark.parametrize("one_shot", [False, True])
def test_a_length_that_a_later_batch_shows(one_shot: bool) -> None:
    seen: list[int] = []

    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            for length in (8, 8, 8, 8, 12):
                seen.append(length)
                yield tokens(3, length)

    torch.manual_seed(0)
    model = Rotary()
    snn = converted(model, iter(Batches()) if one_shot else Batches())
    check(snn, model, tokens(2, 9))
    assert snn.report is not None and snn.report.calibration_images == 15
    # What can be read only once is read once.
    assert seen.count(12) == 1 if one_shot else seen.count(12) > 1


def test_a_loader_gives_what_it_would_have_given() -> None:
    """Looking at some batches draws no random numbers that the others would get."""

    def collate(some: list[Tensor]) -> Tensor:
        return torch.stack(some) + torch.rand(1)

    loader = DataLoader([torch.rand(4) for _ in range(12)], batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    looked = others_of(loader)
    assert len(looked) == 2 and torch.equal(torch.get_rng_state(), before)
    assert others_of(batch for batch in looked) == []
    assert len(others_of(list(range(200)))) == 63


def test_asked_for_by_name_the_mask_follows() -> None:
    model = Masked()
    snn = converted(model, [texts(4, 7)], dynamic={"input_ids": {0: "batch", 1: "words"}})
    assert [str(i) for i in snn.signature.inputs] == [
        "input_ids [batch, words]",
        "attention_mask [batch, words]",
    ]
    # The table of positions has 20 rows, of which torch.export says nothing.
    assert bounds(snn) == {"words": (1, 20, 1)}
    for length in (1, 9, 20):
        check(snn, model, *texts(2, length).values())
    assert snn.report is not None and snn.report.settings is not None
    asked = snn.report.settings.to_dict()["dynamic"]
    assert asked == {"input_ids": {"0": "batch", "1": "words"}}


@pytest.mark.parametrize("axes", [1, [1], {-1}, {1: "length"}])
def test_forms_in_which_axes_are_asked_for(axes: Any) -> None:
    torch.manual_seed(0)
    model = Rotary()
    snn = converted(model, [tokens(4, 7)], dynamic={"tokens": axes})
    check(snn, model, tokens(2, 5))


def test_an_example_of_length_one() -> None:
    snn = converted(Masked(), [texts(4, 1)], dynamic={"input_ids": [1]})
    assert snn(**texts(2, 9)).shape == (2, 9, 3) and snn(**texts(2, 1)).shape == (2, 1, 3)


def test_images_of_any_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    snn = converted(model, [torch.rand(3, 3, 16, 16), torch.rand(3, 3, 24, 20)])
    # torch.export asks for more than one row behind the convolutions; the graph does without.
    assert bounds(snn) == {"height": (1, None, 1), "width": (1, None, 1)}
    for height, width in ((16, 16), (33, 18), (3, 5), (1, 1)):
        images = torch.rand(2, 3, height, width)
        assert torch.allclose(snn.original()(images), model(images), atol=1e-5)


class Halves(nn.Module):
    """Wants a multiple of 4 rows."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.view(x.shape[0], -1, 4, x.shape[2])
        return F.silu(parts).sum(2)


def test_a_multiple() -> None:
    snn = converted(Halves(), [torch.randn(3, 8, 3), torch.randn(3, 16, 3)])
    assert bounds(snn) == {"length": (4, None, 4)}
    assert snn(torch.randn(2, 20, 3)).shape == (2, 5, 3)
    with pytest.raises(
        InputError, match=r"axis 1; the network takes length a multiple of 4: pad.* to 8 "
    ):
        snn(torch.randn(2, 6, 3))


class Short(nn.Module):
    """Does something else with more than 16 rows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if x.shape[1] <= 16 else F.silu(x)


def test_a_bound_of_forward_is_kept() -> None:
    snn = converted(Short(), [torch.randn(3, 8, 3), torch.randn(3, 12, 3)])
    assert bounds(snn) == {"length": (1, 16, 1)}
    with pytest.raises(InputError, match=r"most 16: cut it to 16.*set at .*x.shape\[1\] <= 16"):
        snn(torch.randn(2, 17, 3))


class Branching(nn.Module):
    """Another function for one row alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if x.shape[1] == 1 else F.gelu(x)


def test_what_torch_decides_of_one_without_a_word() -> None:
    snn = converted(Branching(), [torch.randn(3, 8, 3), torch.randn(3, 12, 3)])
    assert bounds(snn) == {"length": (2, None, 1)}
    with pytest.raises(InputError, match=r"length at least 2: pad it to 2"):
        snn(torch.randn(2, 1, 3))


class Fixed(nn.Module):
    """Has as many positions as it was trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.positions)


def test_what_cannot_vary() -> None:
    with pytest.raises(
        CaptureError, match=r"length must be 8: the model takes no other.*leave out"
    ):
        converted(Fixed(), [torch.randn(3, 8, 3)], dynamic={"x": {1: "length"}})
    batches = [torch.randn(3, 8, 3), torch.randn(3, 9, 3)]
    with pytest.raises(CaptureError, match=r"must be 8.*calibration batches have others"):
        converted(Fixed(), batches)


class Two(nn.Module):
    """Adds two inputs of one length."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.silu(a) + b


def test_names_tie_lengths_together() -> None:
    data = [{"a": torch.randn(3, 8, 2), "b": torch.randn(3, 8, 2)}]
    names = {"a": {1: "first"}, "b": {1: "second"}}
    # The model wants them equal, whatever they are called.
    snn = converted(Two(), data, dynamic=names)
    assert len(bounds(snn)) == 1
    with pytest.raises(InputError, match=r"different lengths for .*: a: 5 .axis 1., b: 6"):
        snn(torch.randn(2, 5, 2), torch.randn(2, 6, 2))
    uneven = [{"a": torch.randn(3, 8, 2), "b": torch.randn(3, 1, 2)}]
    with pytest.raises(InputError, match=r"one name, 'n', to different lengths: a .axis 1.: 8"):
        converted(Two(), uneven, dynamic={"a": {1: "n"}, "b": {1: "n"}})


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": {1: "n"}}, "dynamic names an input 'y'; the network takes tokens"),
        ({"tokens": {2: "n"}}, r"dynamic: tokens \[4, 7\] has no axis 2"),
        ({"tokens": {1: 3}}, "must name lengths by words"),
        ({"tokens": {1: "_n"}}, "begin the name with a letter"),
        ({"tokens": "n"}, "dynamic must give axes by the name of an input"),
        (["tokens"], "dynamic must give axes by the name of an input"),
    ],
)
def test_dynamic_that_says_nothing(dynamic: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        converted(Rotary(), [tokens(4, 7)], dynamic=dynamic)


def test_another_shape_is_one_line_that_can_be_copied() -> None:
    snn = converted(Masked(), [texts(4, 7)])
    with pytest.raises(InputError) as caught:
        snn(**texts(2, 9))
    line = str(caught.value)
    assert "input_ids has shape (2, 9): 9 along axis 1" in line and "\n" not in line
    asked = line[line.index("dynamic=") :].removeprefix("dynamic=")
    again = converted(Masked(), [texts(4, 7)], dynamic=eval(asked))
    assert again(**texts(2, 9)).shape == (2, 9, 3)


def test_bad_texts() -> None:
    snn = converted(Masked(), [texts(4, 7), texts(4, 9)])
    with pytest.raises(InputError, match=r"axis 1; the network takes length at most 20.*20 rows"):
        snn(**texts(2, 21))
    with pytest.raises(InputError, match=r"input_ids is empty: its axis 1 has length 0; give at"):
        snn(**texts(2, 0))
    for number in (30, -1):
        wrong = torch.full((2, 5), number)
        with pytest.raises(InputError, match=f"input_ids holds the number {number}.*30 rows"):
            snn(wrong, torch.ones_like(wrong))
    with pytest.raises(InputError, match=r"missing inputs \['attention_mask'\]"):
        snn(tokens(2, 5))
    model = Masked()
    with pytest.raises(CaptureError, match=r"positions has 20 rows, and is asked for .* to 24"):
        converted(model, [texts(4, 25)])
    with pytest.raises(CaptureError, match=r"tokens has 30 rows, and is asked for .* to 40"):
        wrong = torch.full((2, 5), 40)
        converted(model, [{"input_ids": wrong, "attention_mask": torch.ones_like(wrong)}])
    with pytest.raises(InputError, match=r"input_ids has length 25 .* at most 20"):
        converted(model, [texts(4, 7), texts(4, 25), texts(4, 8)])


def test_a_fixed_network_is_captured_as_before() -> None:
    captured = capture(Rotary().eval(), tokens(4, 7))
    assert captured.signature.varying == ()
    assert captured.signature.inputs[0].shape == (None, 7)  # type: ignore[union-attr]
