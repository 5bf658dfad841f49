# SPDX-License-Identifier: Apache-2.0
"""What one process may do: listen, work, relay, web, and the chores that one of all does.

Each role is assembled from the shared `Core`, knows nothing of the others, and meets them
in the database; `ci.app` starts and stops those that a process has.
"""
