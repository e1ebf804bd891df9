"""Losses over model size and compute, and the laws fitted to them."""
