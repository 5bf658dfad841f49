# SPDX-License-Identifier: Apache-2.0
"""What this adapter of PowerVM does not do: all but facts, inventory and power."""

from collections.abc import Mapping

from ci.model.feature import Feature

DONE = frozenset(
    {
        Feature.GET_GUEST_INFO,
        Feature.GET_HOST_INFO,
        Feature.GET_HOST_IP,
        Feature.REBOOT,
        Feature.TERMINATE,
    }
)
"""Read of recorded answers; nothing of it was ever tried on a console."""

_NO_LAUNCH = "this adapter makes no partitions: no console was ever there to try it on"
MISSING: Mapping[Feature, str] = {
    feature: _NO_LAUNCH for feature in Feature if feature not in DONE
} | {
    Feature.GET_HOST_UPTIME: "the console does not tell since when a system runs",
    Feature.REPORT_CPU_TRAITS: "the console does not tell of processors' flags",
}
