# SPDX-License-Identifier: Apache-2.0
"""Steps from one version of the schema to the next, as Alembic revisions.

A revision's name is the version of the schema that it leads to. A released one is never
changed again. `ci/store/upgrade.py` runs them, all in one transaction.
"""
