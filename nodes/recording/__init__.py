# SPDX-License-Identifier: Apache-2.0
"""What an API said, kept in a file without secrets, and said again without the API."""
