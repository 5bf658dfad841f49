# SPDX-License-Identifier: Apache-2.0
"""Step 5, what: each suite turns a Job of the layout into a Plan."""
