"""Quick forms of `varmini.model`, swapped in from outside."""
