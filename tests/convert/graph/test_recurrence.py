"""What of recurrent layers can't be captured, and that others aren't touched meanwhile."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import convert
from convert.capture.capture import capture
from convert.errors import CaptureError, InputError
from convert.graph.recurrence import kept_whole


class _Packs(nn.Module):
    """Packs its input by lengths that come with it, or by a length that it counts."""

    def __init__(self, given: bool) -> None:
        super().__init__()
        self.rnn, self.given = nn.GRU(4, 4, batch_first=True), given

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.given:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        else:
            packed = pack_sequence(list(x.unbind(0)))
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1)


@pytest.mark.parametrize("given", (True, False))
def test_a_model_that_packs_is_told_what_to_do(given: bool) -> None:
    batch = {"x": torch.randn(8, 5, 4), "lengths": torch.randint(1, 6, (8,))}
    with pytest.raises(CaptureError, match=r"PackedSequence.*padded.*gather the last step"):
        capture(_Packs(given).eval(), batch)


def test_packed_sequences_are_refused_as_batches_and_as_inputs() -> None:
    packed: Any = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    model = nn.GRU(4, 4, batch_first=True).eval()
    for data in (packed, [packed], [(packed, torch.zeros(2))]):
        with pytest.raises(InputError, match=r"padded sequences \[N, T, F\].*last step"):
            convert.to_spiking(model, data, progress=False)
    x = torch.randn(6, 3, 4)
    snn = convert.to_spiking(model, x, steps=8, method="binary", progress=False)
    with pytest.raises(InputError, match=r"PackedSequence among them: pad it.*\[batch, 3, 4\]"):
        snn(packed)


def test_a_length_that_varies_is_refused_with_the_way_round() -> None:
    # The time steps taken for the batch.
    with pytest.raises(CaptureError, match=r"a length that varies; put convert.stepwise\(layer\)"):
        capture(nn.GRU(4, 4), torch.randn(5, 6, 4), batch_axis=0)


def test_only_what_is_exported_stays_whole() -> None:
    rnn, x = nn.LSTM(4, 4), torch.randn(3, 2, 4)
    expected = rnn(x)[0]
    own = torch.lstm, torch._VF.gru_cell
    found = []
    with kept_whole():
        assert torch.lstm is not own[0]
        found.append(rnn(x)[0])
        thread = threading.Thread(target=lambda: found.append(rnn(x)[0]))
        thread.start()
        thread.join()
    assert (torch.lstm, torch._VF.gru_cell) == own
    assert all(torch.equal(each, expected) for each in found) and len(found) == 2


def test_dropout_that_stays_on_is_refused() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 4, 2, batch_first=True, dropout=0.5)

        def forward(self, x: Tensor) -> Tensor:
            self.rnn.training = True
            return self.rnn(x)[0]

    with pytest.raises(CaptureError):
        capture(Drops(), torch.randn(6, 3, 4))
