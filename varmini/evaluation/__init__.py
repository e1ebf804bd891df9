"""Metrics, evaluators, FID and sampling runs."""
