# SPDX-License-Identifier: Apache-2.0
"""An emulator of what OpenSSH on Windows runs commands with; no Windows is in it."""
