# SPDX-License-Identifier: Apache-2.0
"""Calls that must end in time, although libvirt's own may not: each in a thread of its own.

A call into libvirt cannot be interrupted. One that does not end is left to its thread, which
dies with the process; who called goes on with an error.
"""

import functools
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_errors
from nodes.hypervisors.faults import TransientFault

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Any)
GRACE_S = 15.0
"""A call looks at its own deadline; this much later it is given up."""

_inside = threading.local()


def bounded(call: Callable[[], T], timeout_s: float) -> T:
    """What `call` returns or raises.

    Raises:
        TimeoutError: It did not end in time.
    """
    outcome: list[T] = []
    trouble: list[BaseException] = []
    context = copy_context()

    def run() -> None:
        _inside.call = True
        try:
            outcome.append(context.run(call))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            trouble.append(error)

    thread = threading.Thread(target=run, name="libvirt-call", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if trouble:
        raise trouble[0]
    if not outcome:
        raise TimeoutError
    return outcome[0]


def operation(
    feature: Feature | None = None,
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Make a method one operation: refused where missing, bounded, and with our errors.

    Args:
        feature: What it would show; None for what every hypervisor has.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        verb = method.__name__.replace("_", " ")

        @functools.wraps(method)
        def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if feature is not None and feature in self.missing:
                self.cannot(feature)
            subject = next((f" {arg}" for arg in args if isinstance(arg, str)), "")
            doing = f"{verb}{subject} on {self.url}"

            def call() -> T:
                return method(self, *args, **kwargs)

            try:
                if getattr(_inside, "call", False):
                    return call()
                return bounded(call, self.timeout_s + GRACE_S)
            except TimeoutError as late:
                raise TransientFault(
                    f"cannot {doing}: no answer within {self.timeout_s:g} s",
                    hint="look whether libvirtd or its hypervisor hangs there",
                    retryable=True,
                ) from late
            except libvirt.libvirtError as error:
                raise libvirt_errors.fault(error, doing, feature) from error

        return cast("Callable[Concatenate[S, P], T]", wrapped)

    return decorate
