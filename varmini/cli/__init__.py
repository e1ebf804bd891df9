"""The `varmini` command: `main` finds the sub-command, each in a file of its own.

The options of a sub-command are a frozen dataclass, which tyro turns into a parser and its help.
Every public function takes the words after the sub-command, and the program's name for messages.
"""
