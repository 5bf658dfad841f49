# SPDX-License-Identifier: Apache-2.0
"""acme-virt: a small driver that runs tiny QEMU guests."""

from acme_virt.driver import DriverError, GuestExists, GuestMissing, VirtDriver, WrongState

__all__ = ["DriverError", "GuestExists", "GuestMissing", "VirtDriver", "WrongState"]
