# SPDX-License-Identifier: Apache-2.0
"""The Gerrit releases that can be run, each with the only jars that are accepted for it.

A release qualifies when both of its fat jars are in Maven's central repository: 3.10.2 is the
newest one whose classes Java 17 can load, 3.13.5 the newest one of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

GERRIT_GROUP = "com.google.gerrit"
BOUNCYCASTLE_GROUP = "org.bouncycastle"
BOUNCYCASTLE_VERSION = "1.78.1"


@dataclass(frozen=True, kw_only=True)
class Jar:
    """One Maven artifact with the only content that is accepted for it."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name that Maven gives to the file."""
        return f"{self.artifact}-{self.version}.jar"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of the server.

    Attributes:
        version: As the server tells it.
        least_java: The oldest Java that loads its classes.
        jars: In class path order: plugin-api's classes win over the framework's copies.
    """

    version: str
    least_java: int
    jars: tuple[Jar, ...]


def _release(version: str, least_java: int, sums: Mapping[str, str]) -> Release:
    own = tuple(
        Jar(group=GERRIT_GROUP, artifact=artifact, version=version, sha256=sha256)
        for artifact, sha256 in sums.items()
    )
    return Release(version=version, least_java=least_java, jars=(*own, *BOUNCYCASTLE))


BOUNCYCASTLE = tuple(
    Jar(group=BOUNCYCASTLE_GROUP, artifact=artifact, version=BOUNCYCASTLE_VERSION, sha256=sha256)
    for artifact, sha256 in (
        (
            "bcprov-jdk18on",
            "add5915e6acfc6ab5836e1fd8a5e21c6488536a8c1f21f386eeb3bf280b702d7",
        ),
        (
            "bcpkix-jdk18on",
            "4b48ea084e5232b9d79ebca1887b9de037b124931807cd60710748c2aee08cc9",
        ),
        (
            "bcutil-jdk18on",
            "d9fa56f97b0f761ce3bc8d9d74c5d7137a987bf5bd3abfe1003f9bafa45a1d2f",
        ),
        (
            "bcpg-jdk18on",
            "1463bb2cb8737e9ae34f5bd93f48e27711365bb277f4918f44608ed89b68792d",
        ),
    )
)
DEFAULT = _release(
    "3.10.2",
    17,
    {
        "gerrit-plugin-api": "3ee733da1bd1379c61005cde3ac4bced480ab211dc51f62ad7821a7f35b15c43",
        "gerrit-acceptance-framework": (
            "29fd6bf05585ba57490d13e28fd4c5f9f859d3b55f5e1217ca437aa4f8f84c13"
        ),
    },
)
NEWEST = _release(
    "3.13.5",
    21,
    {
        "gerrit-plugin-api": "44d6a5e646ffc1bf9f8322f03046fd381b0cf51c1d4cc7d6bec9c5106dc1304d",
        "gerrit-acceptance-framework": (
            "c301a154e777eb69c9b8904c3dbac1e70b4924ab7aeecf1f874d3cfd45bb5961"
        ),
    },
)
RELEASES = {one.version: one for one in (DEFAULT, NEWEST)}
