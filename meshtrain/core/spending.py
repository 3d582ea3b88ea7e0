"""What a sweep has used, and may use: the record that the store keeps."""

from __future__ import annotations

import msgspec


class Spending(msgspec.Struct, frozen=True):
    """Of one sweep: GPU time and money of what has ended, and the limits if there are any."""

    sweep_id: str
    gpu_s: float = 0.0
    """Seconds that GPUs were held, summed over GPUs."""
    money: float = 0.0
    """What they cost, at the price when they were given out."""
    gpu_hours_max: float | None = None
    """None is no limit."""
    money_max: float | None = None

    @property
    def has_limit(self) -> bool:
        """Whether there is a budget at all."""
        return self.gpu_hours_max is not None or self.money_max is not None

    @property
    def is_spent(self) -> bool:
        """Whether one of the limits is reached."""
        hours_over = self.gpu_hours_max is not None and self.gpu_s / 3600 >= self.gpu_hours_max
        return hours_over or (self.money_max is not None and self.money >= self.money_max)

    def plus(self, gpu_s: float, money: float) -> Spending:
        """This, and so much more used."""
        if not gpu_s and not money:
            return self
        return msgspec.structs.replace(self, gpu_s=self.gpu_s + gpu_s, money=self.money + money)
