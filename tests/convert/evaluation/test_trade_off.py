"""Which networks another one beats."""

from convert.evaluation.rows import ClassMeasures, PricedRow
from convert.evaluation.trade_off import _marked


def _row(events: float, error: float | None) -> PricedRow:
    return PricedRow(0.0, 4, 0, 4, ClassMeasures(None, 1.0, error), events, False)


def test_dominated() -> None:
    rows = [
        _row(0.5, 0.3),
        _row(0.6, 0.3),  # more events for the same error
        _row(0.7, 0.1),
        _row(0.7, 0.1),  # equals don't beat each other
        _row(0.8, 0.2),
        _row(0.9, None),
        _row(1.0, 0.05),
    ]
    found = [row.dominated for row in _marked(rows, "logit_rmse")]
    assert found == [False, True, False, False, True, True, False]
