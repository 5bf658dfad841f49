# SPDX-License-Identifier: Apache-2.0
"""What answers in the place of hypervisors that no machine of ours can run.

Programs of their own, started as processes by `nodes.lab`; nothing of the product imports them.
What they show is graded `simulator` where somebody else modelled the system, and `emulator`
where we did: see docs/explanation/evidence.md.
"""
