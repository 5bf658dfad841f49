# SPDX-License-Identifier: Apache-2.0
"""Our tables and the only code that reads and writes them."""
