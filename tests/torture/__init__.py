"""Kills, starves and feeds rubbish to varmini, and counts: `make torture`."""
