"""Options: what is written down twice is equal; a lone option has its value."""

from typing import get_args

from fewspikes.commands import conversion_options, file_facts, kinds, options


def test_what_is_written_down_twice_is_equal() -> None:
    import convert
    import models
    from convert.fitting.methods import DEFAULT, EFFORTS, METHODS
    from convert.fitting.problem import MOST_GATES, MOST_STEPS
    from convert.network import report
    from models.preprocessing import INTERPOLATIONS

    assert (kinds.MOST_STEPS, kinds.MOST_GATES) == (MOST_STEPS, MOST_GATES)
    assert set(get_args(options.Method)) == set(METHODS) and options.DEFAULT_METHOD == DEFAULT
    assert get_args(options.Effort) == tuple(EFFORTS)
    assert set(get_args(options.Metric)) == set(convert.METRICS)
    assert set(get_args(conversion_options.Activation)) == set(models.ACTIVATIONS)
    assert set(get_args(conversion_options.Interpolation)) == set(INTERPOLATIONS)
    assert (file_facts.POOR_SITE, file_facts.POOR_OUTPUT) == (
        report._POOR_SITE, report._POOR_OUTPUT,
    )  # fmt: skip
