# SPDX-License-Identifier: Apache-2.0
"""A lab on one machine: libvirt hosts, and nodes that are hypervisors inside QEMU."""
