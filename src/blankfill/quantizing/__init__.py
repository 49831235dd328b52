"""Quantisation of a model: the choice of the integers, the new folder, and what the model loses.

`run` is the entry. Not here: the formats and their arithmetic (`kernels.integers`), the layers that compute with them
(`model.quantized`), and which layers of a stored model are quantised (`checkpoint.quantization`).
"""
