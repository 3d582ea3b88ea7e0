"""What sweeps have used, and may use, as rows."""

from __future__ import annotations

from typing import Any

from meshtrain.core.spending import Spending

SAVE_SPENDING = """
    INSERT INTO spending (sweep, gpu_s, money, gpu_hours_max, money_max)
    SELECT row, ?, ?, ?, ? FROM sweeps WHERE sweep_id = ?
    ON CONFLICT (sweep) DO UPDATE SET
        gpu_s = excluded.gpu_s, money = excluded.money,
        gpu_hours_max = excluded.gpu_hours_max, money_max = excluded.money_max
"""
SELECT_SPENDING = """
    SELECT sweep_id, gpu_s, money, gpu_hours_max, money_max
    FROM spending JOIN sweeps ON sweeps.row = sweep ORDER BY sweep
"""


def spending_values(spending: Spending) -> tuple[Any, ...]:
    return (
        spending.gpu_s,
        spending.money,
        spending.gpu_hours_max,
        spending.money_max,
        spending.sweep_id,
    )


def spending_of(row: tuple[Any, ...]) -> Spending:
    return Spending(*row)
