# SPDX-License-Identifier: Apache-2.0
"""One module a version, in order; Alembic finds them here."""
