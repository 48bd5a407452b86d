"""Helper modules of tests whose asserts say what they compared, as the asserts of test modules do."""

import pytest

pytest.register_assert_rewrite("conformance", "conformance_runs", "logfiles_conformance", "queue_conformance")
