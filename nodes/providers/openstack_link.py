# SPDX-License-Identifier: Apache-2.0
"""A connection to an OpenStack cloud, and what its refusals mean in our words."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ci import plugins
from ci.errors import ConfigError, NodeUnavailable

EXTRA = "openstack"
MAX_SAID = 300


@contextmanager
def connected(provider: str, access: Mapping[str, Any]) -> Iterator[Any]:
    """A connection, closed at the end.

    Args:
        provider: Its name, for errors.
        access: For `openstack.connect`.

    Raises:
        ConfigError: clouds.yaml or an entry of it is missing.
        NodeUnavailable: The cloud refused something, or does not answer.
    """
    sdk = plugins.need("openstack", extra=EXTRA, what="an openstack provider")
    wrong = plugins.need("openstack.exceptions", extra=EXTRA, what="it")
    lower = plugins.need("keystoneauth1.exceptions", extra=EXTRA, what="it")
    cloud = None
    try:
        cloud = sdk.connect(**access)
        yield cloud
    except wrong.ConfigException as error:
        raise ConfigError(
            f"provider {provider}: {error}", hint="see clouds.yaml, or OS_CLIENT_CONFIG_FILE"
        ) from error
    except (wrong.SDKException, lower.ClientException, OSError) as error:
        raise NodeUnavailable(
            f"provider {provider}: the cloud: {said(error)}", hint=_hint(error), retryable=True
        ) from error
    finally:
        if cloud is not None:
            cloud.close()


def find(provider: str, kind: str, name: str, ask: Callable[..., Any]) -> Any:
    """An image, flavor or network by name or id.

    Raises:
        ConfigError: There is none, or more than one of that name.
    """
    wrong = plugins.need("openstack.exceptions", extra=EXTRA, what="it")
    try:
        return ask(name, ignore_missing=False)
    except wrong.NotFoundException as missing:
        raise ConfigError(
            f"provider {provider}: the cloud has no {kind} {name}",
            hint=f"see: openstack {kind} list",
        ) from missing
    except wrong.DuplicateResource as twice:
        raise ConfigError(
            f"provider {provider}: the cloud has more than one {kind} {name}",
            hint=f"name it by its id: openstack {kind} list",
        ) from twice


def said(error: Exception) -> str:
    """What the cloud itself said, without the address that it was asked at; one line."""
    told = getattr(error, "details", None) or error
    return " ".join(str(told).split())[:MAX_SAID]


def _hint(error: Exception) -> str:
    """What to do about it."""
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    if status == 401:  # noqa: PLR2004 - of HTTP
        return "check the account's name, password, project and domains"
    if status == 400:  # noqa: PLR2004 - of HTTP
        return "mend what the provider's configuration says"
    if "quota" in said(error).lower():
        return "lower slots, or ask for a larger quota: openstack quota show"
    return "try: openstack server list"
