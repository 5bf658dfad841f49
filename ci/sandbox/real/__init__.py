# SPDX-License-Identifier: Apache-2.0
"""A real Gerrit server on the loopback address, from its Maven artifacts: no stand-in."""
