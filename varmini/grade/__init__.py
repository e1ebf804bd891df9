"""The grader of the assignments; docs/grading.md says what it promises.

marking.py      what a user calls: one submission, a whole class, the checks in a notebook
submission.py   a notebook or a .py file -> blocks of source, nothing executed
runner.py       the parent: starts, feeds, watches and restarts the child
worker.py       the child process: runs the blocks, then answers calls; sees no reference
calls.py        a call of one function; stubs.py, toy.py: what stands in for what is not there
lockdown.py     what the kernel forbids the child (lockdown.toml: the system calls)
exam.py         random inputs, and answers against references
credit.py       points and sentences: what is right given an earlier mistake, known mistakes
compare.py      what was seen, and the kind of a mistake that is not known
checks.py       an assignment; reference.py: what the references are made of
a1.py ... a4.py references and random inputs; a1.toml ... a4.toml: the known mistakes
"""

from .marking import Checker, grade, grade_class

__all__ = ["Checker", "grade", "grade_class"]
