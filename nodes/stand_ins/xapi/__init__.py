# SPDX-License-Identifier: Apache-2.0
"""A pool of XenServer hosts, modelled by us: `python -m nodes.stand_ins.xapi`.

Real in it: the XML-RPC envelope, sessions, error codes, which operation a power state allows,
tasks. No guest runs, no storage is there; what it answers is our reading of the API's reference.
"""
