# SPDX-License-Identifier: Apache-2.0
"""Everything that knows Gerrit's own formats: SSH stream, REST, and what their words mean."""
