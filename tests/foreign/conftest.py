"""What asserts outside of the tests' own files says what it compared, too."""

import pytest

pytest.register_assert_rewrite("foreign.hands", "foreign.work")
