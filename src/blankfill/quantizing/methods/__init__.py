"""How the integers of a matrix are chosen, beyond the nearest ones (`kernels.integers.quantize`).

`hqq` needs the weights alone, `gptq` also the inputs of the layer. `grid` has what both share. The results are read in
the same way whatever the method.
"""
