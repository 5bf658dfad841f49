# SPDX-License-Identifier: Apache-2.0
"""One module a page: what its address means and which record it shows."""
