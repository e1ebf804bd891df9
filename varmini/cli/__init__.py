"""The `varmini` command: `main` finds the sub-command, each a frozen dataclass in a file here.

Its fields are the options, which tyro turns into a parser and its help; its call does the work.
"""
