"""Learning-rate schedules: pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "inverse_sqrt", "constant"]


def learning_rate(
    step: int, steps: int, peak: float, warmup: int, schedule: Schedule, least: float = 0.0, decay_steps: int = 0
) -> float:
    """The learning rate of step number `step` (0-based) of `steps`.

    Linear warm-up from 0 over `warmup` steps, then decay from the peak to `least` × peak at `decay_steps` (0: the last
    step). "inverse_sqrt" decays as √(warmup/step). Decay begins where warm-up ends, as in XLNet, GLM and fairseq; the
    original BERT lets a decay that began at step 0 take over, a drop of warmup/steps at that point.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(1, warmup) / max(1, step + 1))
    share = min(1.0, (step - warmup) / max(1, (decay_steps or steps) - warmup))
    shape = 0.5 * (1 + math.cos(math.pi * share)) if schedule == "cosine" else 1 - share
    return peak * (least + (1 - least) * shape)
