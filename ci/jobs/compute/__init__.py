# SPDX-License-Identifier: Apache-2.0
"""The suite `compute`: Nova's support matrix as tests of one hypervisor, told by its guests."""
