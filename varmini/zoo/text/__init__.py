"""Captions, scenes with captions, and what lets a generator read them."""
