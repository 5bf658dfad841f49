# SPDX-License-Identifier: Apache-2.0
"""Step 8, how to tell: a reporter takes one Outbox row to where it belongs."""
