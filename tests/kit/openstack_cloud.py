# SPDX-License-Identifier: Apache-2.0
"""A real OpenStack cloud for the tests of its provider, named by the environment; off by default.

Servers are made and deleted in the account's project, under an installation's name of their own.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

CLOUD = "HYPERVOUCH_OPENSTACK_CLOUD"
"""Its name in clouds.yaml."""

NEEDED = {
    "image": "HYPERVOUCH_OPENSTACK_IMAGE",
    "flavor": "HYPERVOUCH_OPENSTACK_FLAVOR",
    "network": "HYPERVOUCH_OPENSTACK_NETWORK",
}
MORE = "HYPERVOUCH_OPENSTACK_OPTIONS"
"""Further options of the provider, as JSON: `{"user": "debian", "config-drive": true}`."""


def asked() -> bool:
    """Whether the tests are to run against a real cloud too."""
    return bool(os.environ.get(CLOUD))


def options() -> dict[str, Any]:
    """What an `openstack` provider is told of it.

    Raises:
        ValueError: The environment names a cloud, and not what else is needed.
    """
    if absent := [name for name in NEEDED.values() if not os.environ.get(name)]:
        raise ValueError(f"{CLOUD} is set: set {', '.join(absent)} too")
    named = {option: os.environ[name] for option, name in NEEDED.items()}
    return {
        "installation": f"test-{uuid4().hex[:8]}",
        "cloud": os.environ[CLOUD],
        **named,
        **json.loads(os.environ.get(MORE) or "{}"),
    }


def objects_of(told: Mapping[str, Any]) -> Callable[[], int]:
    """Counts servers, their ports, and floating addresses of an installation, as the cloud says."""
    import openstack  # noqa: PLC0415 - only who has asked for it

    ours = str(told["installation"])

    def count() -> int:
        with openstack.connect(cloud=told["cloud"], app_name="hypervouch-tests") as cloud:
            servers = [
                one
                for one in cloud.compute.servers()
                if (one.metadata or {}).get("hypervouch") == ours
            ]
            ports = [p for s in servers for p in cloud.network.ports(device_id=s.id)]
            addresses = [
                one
                for one in cloud.network.ips()
                if (one.description or "").startswith(f"hypervouch {ours} ")
            ]
        return len(servers) + len(ports) + len(addresses)

    return count
