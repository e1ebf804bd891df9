"""The paper, in plain PyTorch; docs/reading.md says in which order to read it."""
