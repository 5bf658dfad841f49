# SPDX-License-Identifier: Apache-2.0
"""An emulator of Windows' remote shells (WinRS): our reading of MS-WSMV; no Windows is in it."""
