"""Tokenizers: the KL autoencoder."""
