# SPDX-License-Identifier: Apache-2.0
"""The base image of disposable nodes: built from Debian packages, without root, and cached."""
