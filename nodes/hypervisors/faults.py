# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and a hypervisor, named by whose fault it is.

```
NodeUnavailable
  TransientFault    nobody's: the same call may work in a moment
  NodeFault         the node's: its daemon, disk or hypervisor is broken
    LoginRefused        the operator's: another user, password, token or role
    CertificateRefused  the operator's: another ca-file or pin, or somebody stands between
ConfigError
  CallerFault       ours, or the operator's: there is no such guest, image or URL
Unsupported         nobody's: the hypervisor cannot do that; data, not an error
```
None of them is ever a patch's: a build that ends with one is infra and votes nothing.
"""

from ci.errors import ConfigError, NodeUnavailable
from ci.model.feature import Feature


class TransientFault(NodeUnavailable):
    """The same call may work in a moment: busy, locked, a connection that broke."""


class NodeFault(NodeUnavailable):
    """The node is broken, or its hypervisor is: it has to be cleaned or mended."""


class LoginRefused(NodeFault):
    """It does not take our user, password, token or role; that was tried once, for accounts lock.

    Nobody tries it again by itself: another password or another role has to be given.
    """


class CertificateRefused(NodeFault):
    """It showed another certificate than was expected, and was told nothing."""


class CallerFault(ConfigError):
    """What was asked for is wrong: an unknown guest, an image of another format, a bad URL."""


class Unsupported(Exception):
    """This hypervisor, or its driver, cannot do that.

    Args:
        feature: What it cannot do.
        reason: Why, one sentence that stands in the matrix.
    """

    def __init__(self, feature: Feature, reason: str) -> None:
        super().__init__(f"{feature}: {reason}")
        self.feature = feature
        self.reason = reason
