# SPDX-License-Identifier: Apache-2.0
"""The comments of a configuration, shown before anybody gets one."""

import json
from pathlib import Path

import pytest

from ci import settings
from ci.comment import problems
from ci.layout import Layout
from ci.preview import previews, show

CONFIG = """
- hypervouch: {{state-dir: state, url: {url}}}
- connection:
    name: review
    server: review.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://review.example.org/
    password: {{from-env: HYPERVOUCH_TEST_PASSWORD}}
- pipeline: {{name: check, connection: review, {rules}}}
- job: {{name: unit, suite: shell, run: "true", node-label: lab}}
- job: {{name: extra, suite: shell, run: "true", node-label: lab, voting: false}}
- project: {{name: acme/virt, check: {{jobs: [unit, extra]}}}}
- project: {{name: acme/docs, check: {{jobs: [unit, extra]}}}}
- project: {{name: acme/lab, sandbox: true, check: {{jobs: [unit], {own}}}}}
- provider: {{name: lab, driver: dummy, label: lab}}
"""
GOOD = "{{ header }}\n{{ url }}\n{% for row in rows %}{{ row.line }}\n{% endfor %}"


@pytest.fixture
def make(tmp_path: Path, ssh_key: Path):
    def make(
        rules: str, own: str = "label: Verified", url: str = "https://ci.example.org/"
    ) -> Layout:
        (tmp_path / "hosts").touch()
        (tmp_path / "key").write_bytes(ssh_key.read_bytes())
        file = tmp_path / "c.yaml"
        file.write_text(CONFIG.format(rules=rules, own=own, url=url))
        return settings.load(file)

    return make


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory) -> Path:
    import paramiko  # noqa: PLC0415 - slow, and for this alone

    file = tmp_path_factory.mktemp("key") / "key"
    paramiko.RSAKey.generate(2048).write_private_key_file(str(file))
    return file


def said(layout: Layout, project: str) -> dict[str, str]:
    return {one.sample: one.said for one in previews(layout) if project in one.projects}


def test_each_rung_of_the_ladder_says_what_it_would_do(make):
    votes = said(make("policy: vote, success: 2, failure: -2, label: Lab"), "acme/virt")
    assert votes["succeeded"] == "would vote Lab +2"
    assert votes["a regression and a known failure"] == "would vote Lab -2"
    assert votes["trouble of a node"] == "would comment without a vote"
    held = said(make("policy: plus-one-only"), "acme/virt")
    assert held["succeeded"] == "would vote Verified +1"
    assert held["a regression and a known failure"] == (
        "would be held until an operator releases it, then vote Verified -1"
    )
    assert set(said(make("policy: comment"), "acme/virt").values()) == {
        "would comment without a vote"
    }
    assert set(said(make("policy: silent"), "acme/virt").values()) == {"nothing is posted"}


def test_a_project_may_differ_and_alike_ones_stand_together(make):
    layout = make("policy: sandbox", own="label: Try, success: 2")
    assert set(said(layout, "acme/virt").values()) == {"nothing is posted"}
    assert said(layout, "acme/lab")["succeeded"] == "would vote Try +2"
    assert {one.projects for one in previews(layout)} == {
        ("acme/virt", "acme/docs"),
        ("acme/lab",),
    }


def test_trouble_that_is_silent_is_not_shown(make):
    quiet = said(
        make("policy: vote, merge-conflict: silent, dependency-trouble: silent"), "acme/virt"
    )
    assert not [sample for sample in quiet if "conflict" in sample or "depend" in sample]
    loud = said(
        make("policy: vote, merge-conflict: vote, dependency-trouble: comment"), "acme/virt"
    )
    assert loud["a merge conflict"] == "would vote Verified -1"
    assert loud["a dependency that cannot be followed"] == "would comment without a vote"


def test_texts_are_what_would_be_posted(make, capsys):
    layout = make("policy: vote, merge-conflict: comment")
    for one in previews(layout):
        assert problems(one.text) == ()
        assert one.complaints == ()
    assert show(layout, as_json=False)
    printed = capsys.readouterr().out
    assert "check for acme/virt, acme/docs: succeeded: would vote Verified +1\n" in printed
    assert (
        "\n    - unit https://ci.example.org/builds/sample-unit/ : SUCCESS in 12m 34s\n" in printed
    )
    assert show(layout, as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["said"] == "would vote Verified +1"


def test_the_linter_has_its_word(make, capsys):
    assert not show(make("policy: comment", url="https://failsafe.example.org/"), as_json=False)
    assert "BAD  scoreboard: it succeeded but holds the word 'fail'" in capsys.readouterr().out


def test_the_operators_template_is_shown(make, tmp_path):
    (tmp_path / "mine.j2").write_text(GOOD + "Ask us.")
    layout = make("policy: comment, comment-template: mine.j2")
    assert all(one.text.endswith("Ask us.") for one in previews(layout))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "mine.j2 cannot be read: No such file or directory"),
        ("a\n{% if %}", "mine.j2:2: "),
        ("{{ header }}", "it has to hold {{ url }}"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_mistake_of_the_configuration(
    make, tmp_path, source, words
):
    if source is not None:
        (tmp_path / "mine.j2").write_text(source)
    with pytest.raises(settings.InvalidConfig) as caught:
        make("policy: comment, comment-template: mine.j2")
    (problem,) = caught.value.problems
    assert problem.line == 11
    assert problem.path == "pipeline[check].comment-template"
    assert words in problem.message
