"""Learning-rate schedules: pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "1-sqrt", "inverse_sqrt", "constant"]


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    warmup: int,
    schedule: Schedule,
    least: float = 0.0,
    decay_steps: int = 0,
    constant_steps: int = 0,
    begin_at: float = 0.0,
) -> float:
    """Return the learning rate of step number `step` (0-based) of `steps`.

    Linear warm-up from `begin_at` × peak over `warmup` steps, then the peak for `constant_steps` steps, then decay to
    `least` × peak at `decay_steps` (0: the last step). A warm-up, a constant phase and a decay are together the
    warmup-stable-decay or trapezoidal schedule (`get_wsd_schedule` of transformers), whose `decay_type` is "linear",
    "cosine" or "1-sqrt": 1 − √s at a share s of the decay (Hägele et al. 2024, arXiv 2405.18392; ModernBERT).

    "inverse_sqrt" decays as √(begin/step), where begin is the end of the constant phase: T5's 1/√max(step, 10⁴) is a
    peak of 0.01 for 10⁴ steps. The other schedules decay from there too, as in XLNet, GLM and fairseq; in the original
    BERT, after the warm-up, the rate drops to that of a decay which began at step 0, a drop of warmup/steps.
    """
    if step < warmup:
        return peak * (begin_at * warmup + (1 - begin_at) * (step + 1)) / warmup
    begin = warmup + constant_steps
    if schedule == "constant" or step < begin:
        return peak
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(1, begin) / max(1, step + 1))
    share = min(1.0, (step - begin) / max(1, (decay_steps or steps) - begin))
    if schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * share))
    else:
        shape = 1 - (math.sqrt(share) if schedule == "1-sqrt" else share)
    return peak * (least + (1 - least) * shape)
