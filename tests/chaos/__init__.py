# SPDX-License-Identifier: Apache-2.0
"""Faults at random, repeatable by their seed, over a whole installation; see `__main__.py`."""
