"""Generators: raster AR, MaskGIT, DiT, and VAR without AdaLN."""
