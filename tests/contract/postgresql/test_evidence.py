# SPDX-License-Identifier: Apache-2.0
"""tests/unit/test_evidence.py, over PostgreSQL."""

from tests.kit.again import again

globals().update(again("tests.unit.test_evidence"))
