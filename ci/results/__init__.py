# SPDX-License-Identifier: Apache-2.0
"""What a suite leaves behind, read with distrust: result files and secrets in output."""
