# SPDX-License-Identifier: Apache-2.0
"""The words and rules that items of the configuration share: names, policies, filters."""

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator

from ci.model.change import valid_project
from ci.model.feature import Feature


class Model(BaseModel):
    """Common rules: frozen, kebab-case keys, no unknown ones."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


def _regex(text: str) -> str:
    """A regular expression that compiles, or a clear complaint."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def _word(text: str) -> str:
    """A name without blanks or slashes: it stands in comments, paths and URLs."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", text):
        raise ValueError("use letters, digits, dot, dash and underscore, at most 81")
    return text


def _project(text: str) -> str:
    if not valid_project(text):
        raise ValueError("not a Gerrit project name")
    return text


def _feature(text: str) -> str:
    if text not in {feature.value for feature in Feature}:
        raise ValueError("no such row of the matrix: see docs/reference/compute-suite.md")
    return text


Regex = Annotated[str, AfterValidator(_regex)]
Name = Annotated[str, AfterValidator(_word)]


ProjectName = Annotated[str, AfterValidator(_project)]
FeatureKey = Annotated[str, AfterValidator(_feature)]
NodePath = Annotated[str, Field(pattern=r"^/[^/\x00][^\x00]*$")]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")]


class TriggerKind(StrEnum):
    """What can start a pipeline."""

    PATCHSET_CREATED = "patchset-created"
    RECHECK = "recheck"


class VotePolicy(StrEnum):
    """The ladder that a new CI climbs, per pipeline.

    `silent` posts nothing; `sandbox` votes on projects marked `sandbox: true` and is silent on
    all others; `comment` posts without a label; `plus-one-only` keeps a review with a negative
    vote back until an operator releases or drops it; `vote` posts both.
    """

    SILENT = "silent"
    SANDBOX = "sandbox"
    COMMENT = "comment"
    PLUS_ONE_ONLY = "plus-one-only"
    VOTE = "vote"


class ConflictPolicy(StrEnum):
    """What to do when a patch set does not merge."""

    SILENT = "silent"
    COMMENT = "comment"
    VOTE = "vote"


class StalePolicy(StrEnum):
    """What becomes of a review whose patch set is no longer current."""

    DROP = "drop"
    COMMENT = "comment"


class SuiteKind(StrEnum):
    """What kind of thing a job runs, and so where its results come from."""

    SHELL = "shell"
    DRIVER = "driver"
    TESTINFRA = "testinfra"
    COMPUTE = "compute"


class ApprovalRule(Model):
    """A vote that must stand, or must not, on the current patch set.

    A vote that Gerrit copied from an earlier patch set does not count: it was given to
    another commit.
    """

    label: Name
    value: tuple[int, ...] = Field(min_length=1, description="Any of these values")
    by: tuple[Regex, ...] = Field(
        default=(), description="Username or e-mail of who voted, whole; anybody by default"
    )

    @field_validator("value", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


class Filters(Model):
    """Which changes: every key that is given must match, by any of its expressions.

    Expressions match the whole text, but for `message`, which is searched.
    """

    branch: tuple[Regex, ...] = ()
    topic: tuple[Regex, ...] = ()
    hashtag: tuple[Regex, ...] = ()
    owner: tuple[Regex, ...] = Field(default=(), description="Username or e-mail of the owner")
    message: tuple[Regex, ...] = Field(default=(), description="Searched in the commit message")
    approval: tuple[ApprovalRule, ...] = ()

    @property
    def given(self) -> bool:
        """Whether any key is given."""
        return bool(
            self.branch or self.topic or self.hashtag or self.owner or self.message or self.approval
        )


class Trust(Model):
    """Whose patches may run jobs that require trust: an owner named here, or a vote here."""

    owner: tuple[Regex, ...] = Field(default=(), description="Username or e-mail of the owner")
    approval: tuple[ApprovalRule, ...] = ()


class RecheckLimit(Model):
    """How many rechecks one account may have in a time."""

    count: PositiveInt = 20
    per_s: PositiveInt = 3600
