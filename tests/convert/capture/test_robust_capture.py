"""Capture of what users write: attention, tokens, masks, wrappers, half precision."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import CaptureError, SpikingModel, audit, to_spiking
from convert.capture.capture import capture


def _checked(model: nn.Module, batch: object) -> dict:
    """Converts, compares with the model and the audit; the report."""
    snn = to_spiking(model, [batch], steps=8, method="binary")
    found = audit(snn, batch)
    assert found.agrees, found.differences
    return snn.report.to_dict()


class Attended(nn.Module):
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.weights = weights

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.embed(x)
        y, w = self.attention(x, x, x, need_weights=self.weights)
        return {"logits": self.head(y.mean(1))} | ({"weights": w} if self.weights else {})


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(weights: bool) -> None:
    torch.manual_seed(0)
    model, x = Attended(weights).eval(), torch.randn(12, 4, 6)
    snn = to_spiking(model, x, steps=10, method="binary")
    assert [s.function for s in snn.report.sites] == ["exp", "reciprocal"]
    assert audit(snn, x[:2]).agrees
    with torch.no_grad():
        found, expected = snn(x[:3]), model(x[:3])
        assert found.keys() == expected.keys()
        for key, value in snn.original()(x[:3]).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


class Tables(nn.Module):
    """Class token, positions, a relative position table, a buffer that isn't saved, drop path."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.pos = nn.Parameter(torch.randn(1, 5, 8))
        self.table = nn.Parameter(torch.randn(9, 2))
        place = torch.arange(5)
        index = (place[:, None] - place[None] + 4).flatten()
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        n, length, width = x.shape
        if self.training and torch.rand(()) < 0.5:
            x = 2 * x
        parts = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        bias = self.table[self.index].view(length, length, 2).permute(2, 0, 1)
        weights = ((q * (width // 2) ** -0.5) @ k.transpose(-2, -1) + bias).softmax(-1)
        x = (weights @ v).transpose(1, 2).reshape(n, length, width)
        return self.out(F.dropout(x, 0.2, self.training)[:, 0])


def _wrap(name: str, model: nn.Module) -> nn.Module:
    if name == "compile":
        return torch.compile(model, backend="eager")  # type: ignore[return-value]
    if name == "both":
        return nn.DataParallel(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    return nn.DataParallel(model) if name == "parallel" else model


@pytest.mark.parametrize("wrapper", ["none", "compile", "parallel", "both"])
def test_tables_tokens_and_wrappers(wrapper: str) -> None:
    torch.manual_seed(0)
    model, x = Tables().eval(), torch.randn(9, 4, 8)
    snn = to_spiking(_wrap(wrapper, model), x, steps=8, method="binary")
    report = snn.report.to_dict()
    assert [s["function"] for s in report["sites"]] == ["exp", "reciprocal"]
    assert [r["op"] for r in report["remaining"]] == ["amax"]
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(x), model(x), rtol=1e-4, atol=1e-5)


def test_distributed_data_parallel() -> None:
    group = torch.distributed
    if not group.is_available() or group.is_initialized():
        pytest.skip("no process group of its own can be made here")
    group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
    try:
        model = Tables().eval()
        wrapped = nn.parallel.DistributedDataParallel(model)
        captured = capture(wrapped, torch.randn(4, 4, 8))
        assert captured.difference < 1e-5
    finally:
        group.destroy_process_group()


def test_a_compiled_part() -> None:
    body = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    model = nn.Sequential(torch.compile(body, backend="eager"), nn.Linear(8, 3)).eval()
    assert [s["function"] for s in _checked(model, torch.randn(6, 8))["sites"]] == ["relu"]


class Tokens(nn.Module):
    """Token ids, a padding mask made of them, a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8, padding_idx=0), nn.Embedding(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        closed = ids == 0
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.layer(x, src_key_padding_mask=closed)
        kept = (~closed).unsqueeze(-1).to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1).clamp(min=1))


def _ids() -> Tensor:
    ids = torch.randint(1, 20, (9, 5), generator=torch.Generator().manual_seed(0))
    ids[0, 3:] = 0
    ids[4, 1:] = 0
    return ids


@pytest.mark.filterwarnings("ignore:torch's fused attention")
def test_token_ids_and_masks_are_no_signals() -> None:
    torch.manual_seed(0)
    report = _checked(Tokens().eval(), _ids())
    assert [s["function"] for s in report["sites"]][:3] == ["exp", "reciprocal", "gelu"]
    assert {r["op"] for r in report["remaining"]} == {"amax", "layer_norm"}
    assert {"eq", "bitwise_not"} & {r["op"] for r in report["given"]}
    assert any(r["op"] == "embedding" and r["input"] == "analog" for r in report["synaptic"])


class Masked(nn.Module):
    """Attention with a mask of whole numbers beside the input, as language models take it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv, self.out = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        q, k, v = self.qkv(self.words(input_ids)).chunk(3, -1)
        added = (1.0 - attention_mask[:, None, :].to(q.dtype)) * -1e4
        weights = (q @ k.transpose(1, 2) + added).softmax(-1)
        mask = attention_mask[:, None, None, :].bool()
        heads = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask)
        return {"logits": self.out(weights @ v + heads[:, 0])[:, 0], "weights": weights}


def test_masks_beside_the_input() -> None:
    torch.manual_seed(0)
    model, ids = Masked().eval(), _ids()
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    report = _checked(model, batch)
    assert [s["function"] for s in report["sites"]] == ["exp", "reciprocal"] * 2
    assert {r["op"] for r in report["remaining"]} == {"amax"}
    snn = to_spiking(model, [batch], steps=12, method="binary")
    with torch.no_grad():
        found, expected = snn(**batch), model(**batch)
        assert not found["weights"][batch["attention_mask"][:, None].expand(-1, 5, -1) == 0].any()
        torch.testing.assert_close(
            snn.original()(**batch)["logits"], expected["logits"], rtol=1e-4, atol=1e-5
        )


@pytest.fixture(scope="module")
def wide_networks() -> list[tuple[nn.Module, Tensor, SpikingModel]]:
    """Models, inputs, and their networks in single precision."""
    torch.manual_seed(0)
    made = []
    for model, x in ((Tables().eval(), torch.randn(9, 4, 8)), (Tokens().eval(), _ids())):
        made.append((model, x, to_spiking(model, x, steps=10, method="binary")))
    return made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:torch's fused attention")
def test_half_precision(
    wide_networks: list[tuple[nn.Module, Tensor, SpikingModel]], dtype: torch.dtype
) -> None:
    for wide_model, wide_x, wide_snn in wide_networks:
        x = wide_x.to(dtype) if wide_x.is_floating_point() else wide_x
        wide = wide_snn(x.float() if x.is_floating_point() else x)
        model = copy.deepcopy(wide_model).to(dtype)
        snn = to_spiking(model, x, steps=10, method="binary")
        assert audit(snn, x).agrees
        with torch.no_grad():
            found, original, expected = snn(x), snn.original()(x), model(x)
        assert found.dtype == dtype
        assert (original - expected).abs().max() < 0.05 * expected.abs().max()
        # The same network in single precision, but for spikes that flip at rounding.
        assert (found.float() - wide).abs().max() < 0.1 * wide.abs().max()


def test_casting_the_converted_network() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 4, 8)
    snn = to_spiking(Tables().eval(), x, steps=10, method="binary")
    expected = snn(x)
    found = snn.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert (found.float() - expected).abs().max() < 0.2 * expected.abs().max()


class Counting(nn.Module):
    """Keeps state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.relu(self.line(x) + self.calls)


def test_outputs_that_change_are_refused_with_the_difference() -> None:
    with pytest.raises(CaptureError, match=r"largest difference \d\S* of the output's magnitude"):
        capture(Counting().eval(), torch.randn(4, 3))


def test_fused_attention_layers_are_told_of() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor, pad: Tensor) -> Tensor:
            return self.head(self.body(x, src_key_padding_mask=pad).mean(1))

    pad = torch.tensor([[False, False, False, True]]).expand(6, -1)
    enabled = torch.backends.mha.get_fastpath_enabled()
    with pytest.warns(UserWarning, match="fused attention"):
        captured = capture(Padded().eval(), {"x": torch.randn(6, 4, 8), "pad": pad})
    assert captured.difference < 1e-5
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_the_config_of_a_language_model_keeps_no_cache() -> None:
    class Config:
        use_cache = True

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.line = Config(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> object:
            y = torch.relu(self.line(x))
            return (y, Config()) if self.config.use_cache else y

    model = Cached().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured = capture(model, torch.randn(4, 3))
    assert any("use_cache" in note for note in captured.notes)
    assert model.config.use_cache


def test_a_model_that_asserts_is_named_with_its_line() -> None:
    class Asserts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 5
            return torch.relu(x)

    with pytest.raises(CaptureError, match=r"test_robust_capture.py:\d+: assert x.shape\[1\] == 5"):
        capture(Asserts().eval(), torch.randn(8, 4))
