"""The methods that VAR is compared with, each in one short file, all trained by one loop.

raster_ar.py    token by token, row by row (LlamaGen's blocks)
maskgit.py      masked tokens, several at once (MaskGIT)
dit.py, kl.py   diffusion by a transformer on continuous latents (DiT, DDIM)
plain_var.py    VAR without AdaLN, for the ablation
parts.py, training.py    what they share
"""
