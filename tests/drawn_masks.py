"""The dropout masks that a module of the program draws, for tests that put them into the formula written out."""

from types import ModuleType

import pytest
import torch


def drawn_masks(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """A list that receives every mask that `module` draws from now on, in the order in which they are drawn."""
    drawn: list[torch.Tensor] = []
    draw = module.draw_kept

    def noted(out: torch.Tensor, probability: float) -> torch.Tensor:
        drawn.append(draw(out, probability).clone())
        return out

    monkeypatch.setattr(module, "draw_kept", noted)
    return drawn
