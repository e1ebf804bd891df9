"""The paper: scales, quantizer, autoencoder, transformer, sampler."""
