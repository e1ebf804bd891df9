"""The grader of the assignments; docs/grading.md says what it promises.

marking.py      what a user calls: one submission, or a whole class
submission.py   a notebook or a .py file -> blocks of source, nothing executed
runner.py       the parent: starts, feeds, watches and restarts the child
worker.py       the child process: runs the blocks, then answers calls; sees no reference
calls.py        a call of one function; stubs.py, toy.py: what stands in for what is not there
lockdown.py     what the kernel forbids the child
exam.py         random inputs, and answers against references
credit.py       points and sentences: what is right given an earlier mistake, known mistakes
kinds.py        the kind of a mistake that is not known; compare.py: what was seen
reference.py    float64 building blocks in NumPy, shared by the assignments' references
a1.py ... a4.py the checks of each assignment, with their references beside them
"""

from .marking import Checker, grade, grade_class

__all__ = ["Checker", "grade", "grade_class"]
