"""The grader of the assignments; docs/grading.md says what it promises.

marking.py      what a user calls: one submission, or a whole class
submission.py   a notebook or a .py file -> blocks of source, nothing executed
worker.py       the child process: runs the blocks, then the calls; sees no reference
lockdown.py     what the kernel forbids the child
runner.py       the parent: starts, feeds, watches and restarts the child
checks.py       answers against references: points and sentences
reference.py    float64 building blocks in NumPy, shared by the assignments' references
a1.py ... a4.py the checks of each assignment
"""

from .marking import Checker, grade, grade_class

__all__ = ["Checker", "grade", "grade_class"]
