"""Quick forms of `varmini.model`, swapped in from outside; `quicken.py` holds the table."""
