"""`varmini demo`: trains both stages, draws, and leaves a page."""
