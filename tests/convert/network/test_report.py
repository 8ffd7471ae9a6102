"""What the report prints: its words are explained where they stand."""

from torch import Tensor, nn

from convert import evaluate, to_spiking
from convert.network.report import Correction


def test_words_are_explained(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=2, method="binary", progress=False)
    text = str(snn.report)
    head, _, below = text.partition(
        "site: one place where the network applies a nonlinear function"
    )
    assert head.count("\n") == 5  # two sites, the table's head, and an empty line
    for column in ("low, high:", "relative MSE:", "start:"):
        assert column in below.partition("synaptic")[0]
    assert "raw: nothing stands for the steps that are cut off" in str(
        evaluate(snn, small, images, progress=False)
    )


def test_corrections_that_help_and_that_do_not() -> None:
    helps = Correction(8, layers=7, images=512, before=0.138, after=0.137, kept=True)
    assert str(helps) == (
        "K = 8: the mean errors of 7 layers are taken out of their biases; relative output error "
        "on 512 calibration images 0.138 -> 0.137"
    )
    doesnt = Correction(8, layers=7, images=512, before=0.137, after=0.138, kept=False)
    assert str(doesnt) == (
        "K = 8: biases stay as trained: taking each layer's mean error out of its bias doesn't "
        "help (the relative output error on 512 calibration images would be 0.138 instead of 0.137)"
    )
