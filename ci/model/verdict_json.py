# SPDX-License-Identifier: Apache-2.0
"""Judgement and Verdict as JSON for the database, and back."""

from dataclasses import asdict
from typing import Any

from ci.model.result import FailureClass, Judgement, Result, TestFinding, Verdict, Vote


def judgement_to_json(judgement: Judgement) -> dict[str, Any]:
    """A Judgement as JSON types."""
    return asdict(judgement)


def judgement_from_json(data: dict[str, Any]) -> Judgement:
    """What `judgement_to_json` wrote."""
    return Judgement(
        result=Result(data["result"]),
        failure_class=FailureClass(data["failure_class"]),
        vote=data["vote"],
        reason=data["reason"],
        findings=tuple(
            TestFinding(
                test_id=f["test_id"],
                failure_class=FailureClass(f["failure_class"]),
                reason=f["reason"],
                message=f["message"],
            )
            for f in data["findings"]
        ),
        attempts_compared=tuple(data["attempts_compared"]),
    )


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """A Verdict as JSON types."""
    return asdict(verdict)


def verdict_from_json(data: dict[str, Any]) -> Verdict:
    """What `verdict_to_json` wrote."""
    vote = data["vote"]
    return Verdict(
        vote=Vote(label=vote["label"], value=vote["value"]) if vote else None,
        succeeded=data["succeeded"],
        reason=data["reason"],
        report=data["report"],
        held=data.get("held", False),
    )
