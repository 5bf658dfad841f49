# SPDX-License-Identifier: Apache-2.0
"""Where suites run: the node pool, its providers and the hypervisor adapters."""
