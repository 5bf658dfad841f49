# SPDX-License-Identifier: Apache-2.0
"""Measures this CI beside the least that a review CI can be, on one real Gerrit.

`python -m tests.bench --help` says how to run it; `__main__.py` is where to start reading.
"""
