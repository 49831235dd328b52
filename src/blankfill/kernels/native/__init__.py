"""Kernels in C, compiled at first use where a compiler is there; never required (`build`, `library`)."""
