# SPDX-License-Identifier: Apache-2.0
"""One adapter a hypervisor; see `nodes.hypervisors.base` for what they promise."""
