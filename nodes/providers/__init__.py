# SPDX-License-Identifier: Apache-2.0
"""Where machines come from; a name in the table is imported only when it is chosen."""
