# SPDX-License-Identifier: Apache-2.0
"""Frozen values that every step shares; no I/O here."""
