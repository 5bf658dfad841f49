# SPDX-License-Identifier: Apache-2.0
"""Hyper-V hosts, modelled by us: `python -m nodes.stand_ins.hyperv`.

Real in it: HTTP and HTTPS, NTLM with sealed messages, WS-Man, PSRP's fragments, typed objects and
error records, which operation a state allows. There is no PowerShell: structured pipelines of the
cmdlets below are answered, script text is refused with a ParserError. No guest runs, disks are
counted and hashed, not kept; what cmdlets answer is our reading of Microsoft's reference.
"""
