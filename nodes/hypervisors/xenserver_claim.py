# SPDX-License-Identifier: Apache-2.0
"""One launch of a name at a time in a XenServer pool, which itself lets many machines have one.

Whoever looks for a name and makes its machine holds a key in the pool's `other_config` meanwhile:
`add_to_other_config` is refused while the key is there. That takes a few calls; a key that stands
much longer was left by somebody who died. It says for which member of the pool, whose cleaning
removes it: names are not used twice, so nobody else would come along.

Source: `pool.add_to_other_config` of the XenAPI reference.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from ci.errors import HypervouchError
from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.xenserver_link import NULL, XapiLink

LAUNCH = "hypervouch-launch"
"""Of a machine's `other_config`: which launch has made it."""
LEFT_S = 60.0
_LOOK_S = 0.1
_THERE = "MAP_DUPLICATE_KEY"
_OF = "/"


@contextmanager
def held(link: XapiLink, name: str, member: str) -> Iterator[str]:
    """Have a name for oneself while it is looked for and taken; gives what this launch is called.

    Args:
        link: To the pool.
        name: The guest's.
        member: For whom it is launched: uuid of a host.

    Raises:
        TransientFault: Others have it all the time.
        HypervouchError: The pool refuses it.
    """
    doing, key = f"take the name {name}", f"{LAUNCH}-{name}"
    token, pool = f"{member}{_OF}{uuid4()}", min(link.records("pool"), default=NULL)
    _take(link, doing, pool, key, token)
    try:
        yield token
    finally:
        with suppress(HypervouchError):  # then the next one finds it left
            link.call(doing, "pool.remove_from_other_config", pool, key)


def forget(link: XapiLink, member: str) -> None:
    """Remove the keys that launches for a member have left.

    Raises:
        HypervouchError: The pool refuses it.
    """
    for pool, told in link.records("pool").items():
        for key, token in told["other_config"].items():
            if key.startswith(f"{LAUNCH}-") and str(token).startswith(f"{member}{_OF}"):
                link.call("remove what a launch left", "pool.remove_from_other_config", pool, key)


def _take(link: XapiLink, doing: str, pool: str, key: str, token: str) -> None:
    since, holder = time.monotonic(), ""
    deadline = since + max(link.timeout_s, 2 * LEFT_S)
    while not _is_added(link, doing, pool, key, token):
        told = str(link.record("pool", pool)["other_config"].get(key, ""))
        now = time.monotonic()
        if now >= deadline:
            raise TransientFault(
                f"cannot {doing}: others launch it all the time",
                hint="look who else launches it, or choose another name",
                retryable=True,
            )
        if told != holder:
            since, holder = now, told
        elif told and now - since >= LEFT_S:
            link.call(doing, "pool.remove_from_other_config", pool, key)
        time.sleep(_LOOK_S)


def _is_added(link: XapiLink, doing: str, pool: str, key: str, token: str) -> bool:
    try:
        link.call(doing, "pool.add_to_other_config", pool, key, token)
    except NodeFault as error:
        details = getattr(error.__cause__, "details", ())
        if str(next(iter(details), "")) != _THERE:
            raise
        return False
    return True
