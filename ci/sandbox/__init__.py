# SPDX-License-Identifier: Apache-2.0
"""A small review server on the loopback address that behaves to a CI as Gerrit does.

It is what `hypervouch demo` pushes to; the tests run one contract over it and a real Gerrit.
"""

from ci.sandbox.server import Sandbox

__all__ = ["Sandbox"]
