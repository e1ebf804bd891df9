"""The discrete tokenizers of the zoo by name; VAR's own and the KL autoencoder are not in here."""

from .bsq import BSQ
from .fsq import FSQ
from .ibq import IBQ
from .lfq import LFQ
from .multiscale_bsq import MultiScaleBSQ
from .open_magvit2 import OpenMAGVIT2
from .rq_vae import RQVAE
from .titok import TiTok
from .tokenizer import ImageTokenizer
from .vit_vqgan import ViTVQGAN
from .vqgan import VQGAN
from .vqvae import VQVAE

TOKENIZERS: dict[str, type[ImageTokenizer]] = {
    cls.kind: cls
    for cls in (
        VQVAE, VQGAN, ViTVQGAN, RQVAE, LFQ, OpenMAGVIT2, BSQ, FSQ, IBQ, TiTok, MultiScaleBSQ,
    )
}  # fmt: skip
"""Class of each; its configuration is `config_class`, with the live bed's defaults."""
