# SPDX-License-Identifier: Apache-2.0
"""A patch's own feature results on its build's page: what it breaks and mends, and no evidence."""

import re

import pytest

from ci.model.feature import Feature
from ci.model.result import Outcome, Status
from ci.store.reads import all_evidence
from tests.kit.evidence_rows import QEMU, fill_evidence
from tests.kit.feature_rows import (
    CHANGE,
    GONE,
    compute_build,
    outcome,
    troubled_nodes,
    with_patch,
    without_patch,
)
from tests.kit.lab import client_of, make_lab
from tests.kit.review_rows import dependency


@pytest.fixture
def lab(tmp_path):
    made = make_lab(tmp_path)
    yield made
    made.database.close()


def read(lab, build):
    """The page and its JSON twin's features."""
    with client_of(lab.app) as client:
        page = client.get(f"/builds/{build}")
        assert page.status_code == 200, page.text
        return page.text, client.get(f"/builds/{build}.json").json()["features"]


def rows_of(features):
    return {row["feature"]: row for row in features["rows"]}


def section(text):
    """The features' part of a page, as text without marks."""
    part = text[text.index('id="features"') : text.index('id="compared"')]
    return " ".join(re.sub(r"<[^>]*>", " ", part).split())


def test_what_a_patch_breaks_and_mends_stands_first(lab):
    made = compute_build(lab.rows)
    text, features = read(lab, made.build)
    assert [(row["feature"], row["change"]) for row in features["rows"] if row["change"]] == [
        (Feature.PAUSE, "worse"),
        (Feature.RESUME, "worse"),
        (Feature.RESIZE, "better"),
    ]
    assert [row["change"] for row in features["rows"][3:]] == [""] * 7
    found = rows_of(features)
    assert (features["attempt_id"], features["baseline_id"]) == (made.last, made.baseline)
    assert (features["system"], features["grade"]) == (QEMU.key, "nested")
    assert {row["against"] for row in found.values()} == {"baseline", ""}
    resume = found[Feature.RESUME]
    assert (resume["state"], resume["baseline"], resume["reason"]) == ("failing", "complete", GONE)
    pause = found[Feature.PAUSE]
    assert (pause["state"], pause["tests"], pause["passed"]) == ("partial", 2, 1)
    shown = section(text)
    assert "Breaks it" in shown
    assert "Breaks a part" in shown
    assert "Mends it" in shown
    assert "7 more features, neither worse nor better than before" in shown
    assert "<script>alert" not in text


def test_what_the_lab_could_not_try_is_neither_good_nor_bad(lab):
    made = compute_build(lab.rows)
    evacuate = rows_of(read(lab, made.build)[1])[Feature.EVACUATE]
    assert (evacuate["state"], evacuate["change"]) == ("unknown", "")
    assert evacuate["reason"] == "no second host"


def test_a_feature_whose_tests_are_gone_from_the_run_is_still_named(lab):
    shorter = [one for one in without_patch() if one.feature != Feature.RESCUE]
    made = compute_build(lab.rows, patch=shorter)
    rescue = rows_of(read(lab, made.build)[1])[Feature.RESCUE]
    assert (rescue["state"], rescue["baseline"], rescue["change"]) == ("unknown", "complete", "")
    assert rescue["reason"] == "did not run"


def test_without_a_baseline_it_is_compared_with_the_matrix(lab):
    fill_evidence(lab.database)
    made = compute_build(
        lab.rows,
        patch=[outcome(Feature.RESCUE), outcome(Feature.LAUNCH, Status.FAIL, "no disk")],
        tip=[],
    )
    text, features = read(lab, made.build)
    found = rows_of(features)
    assert features["baseline_id"] is None
    launch, rescue = found[Feature.LAUNCH], found[Feature.RESCUE]
    assert (launch["change"], launch["against"]) == ("worse", "matrix")
    assert (launch["matrix"], launch["matrix_grade"]) == ("complete", "bare")
    assert (rescue["change"], rescue["matrix"]) == ("better", "failing")
    assert f"/matrix/operation.launch/{QEMU.key}" in text


def test_a_patchs_own_run_is_shown_and_is_no_evidence(lab):
    made = compute_build(lab.rows)
    text, features = read(lab, made.build)
    assert not features["counted"]
    assert "Not evidence" in section(text)
    assert "counts in the matrix only once it has merged" in section(text)
    assert all_evidence(lab.database) == ()


@pytest.mark.parametrize(
    ("how", "counted", "why"),
    [
        ({"status": "MERGED"}, True, "has merged, so this run counts"),
        ({"status": "ABANDONED"}, False, "abandoned"),
        ({"patchset": 2}, False, "a newer patch set"),
        ({"system": False}, False, "named no hypervisor of the matrix"),
        ({"grade": "none"}, False, "named no hypervisor of the matrix"),
        (
            {"depends": [dependency(4710, "acme/virt-driver")]},
            False,
            "on top of other changes",
        ),
    ],
    ids=["merged", "abandoned", "superseded", "no-system", "no-grade", "stacked"],
)
def test_why_a_run_counts_or_does_not_is_said(lab, how, counted, why):
    made = compute_build(lab.rows, **how)
    text, features = read(lab, made.build)
    assert features["counted"] is counted
    assert why in features["standing"]
    assert why.lower() in section(text).lower()


def test_a_build_that_tries_no_feature_says_nothing_of_them(lab):
    plain = [Outcome(test_id="t", status=Status.PASS)]
    made = compute_build(lab.rows, patch=plain, tip=[])
    text, features = read(lab, made.build)
    assert features is None
    assert "Features" not in section(text)


def test_outcomes_in_the_twin_name_their_feature(lab):
    made = compute_build(lab.rows)
    with client_of(lab.app) as client:
        attempts = client.get(f"/builds/{made.build}.json").json()["detail"]["attempts"]
    named = {one["test_id"]: one["feature"] for one in attempts[0]["outcomes"]}
    assert named["compute::test_resume"] == Feature.RESUME
    assert named["compute::test_helpers"] == ""
    assert len(with_patch()) == len(named)


def test_the_change_counts_features_and_leads_to_them(lab):
    made = compute_build(lab.rows)
    with client_of(lab.app) as client:
        text = client.get(f"/changes/{CHANGE}").text
        counts = client.get(f"/changes/{CHANGE}.json").json()["features"]
    assert counts == [{"build_id": made.build, "tried": 10, "works": 6, "fails": 2}]
    words = " ".join(re.sub(r"<[^>]*>", "", text).split())
    assert "tried 10 features: 6 work, 2 fail, 2 could not be tried or are not supported." in words
    assert "own run counts in the matrix only once it has merged." in words
    assert f'href="/builds/{made.build}#features"' in text


def test_what_a_build_left_is_told_worst_first_and_only_trouble_is_called_trouble(lab):
    made = compute_build(lab.rows)
    with client_of(lab.app) as client:
        text = client.get(f"/builds/{made.build}").text
    part = text[text.index('id="left"') : text.index('id="environment"')]
    fates = re.findall(r"</svg>(Still there|Left alone|Removed)</span>", part)
    assert fates == ["Still there"] + ["Left alone"] * 2 + ["Removed"] * 4
    assert "None of it changes the verdict." in part
    assert "keeps its node out of work" in part
    assert "<script>alert" not in part


def test_a_node_out_of_work_is_not_called_free(lab):
    troubled_nodes(lab.rows)
    with client_of(lab.app) as client:
        text = client.get("/nodes").text
    rows = {
        name: " ".join(re.sub(r"<[^>]*>", " ", row).split())
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
        for name in re.findall(r"libvirt-\d", row)[:1]
    }
    assert "gets no work" in rows["libvirt-2"]
    assert "gets no work" in rows["libvirt-3"]
    assert "Cannot allocate memory" in rows["libvirt-3"]
    assert "failed 5 times" in rows["libvirt-3"]
    assert "Held until 2026-11-22 19:11:00 UTC by ann" in rows["libvirt-1"]
    assert "the next failing build leaves it held" in rows["libvirt-4"]
    assert rows["libvirt-4"].count("free") == 1


def test_a_node_shows_how_real_its_hypervisor_is_also_when_it_is_free(lab):
    told = {"likeness": "simulator, vcenter:/DC0/DC0_C0 (0a1b2c3d)", "vcenter": "6.5.0"}
    lab.rows.node("vc-1", label="vcenter", provider="lab", facts=told)
    lab.rows.node("vc-2", label="vcenter", provider="lab", facts={"vcenter": "6.5.0"})
    with client_of(lab.app) as client:
        text = client.get("/nodes").text
    cells = re.findall(r'<td class="c-job">(.*?)</td>', text)
    grades = {re.findall(r'"id">([^<]*)', one)[0]: "grade simulator" in one for one in cells}
    assert grades["vc-1"]
    assert not grades["vc-2"]
