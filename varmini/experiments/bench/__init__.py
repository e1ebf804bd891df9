"""Speed and memory, measured: `varmini bench`."""
