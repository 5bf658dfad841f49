# SPDX-License-Identifier: Apache-2.0
"""Step 9 of 9, page: what people read of the flow, as HTML and JSON."""
