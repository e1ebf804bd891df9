"""Each input that a user may bring works, or meets one clear line (tests/user_inputs.py)."""

import pytest
from user_inputs import CASES, happened


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_users_bring(case, tmp_path):
    found = happened(case, tmp_path)
    assert case.expected in found and "\n" not in found
