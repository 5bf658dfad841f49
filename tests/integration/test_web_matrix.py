# SPDX-License-Identifier: Apache-2.0
"""The pages of the matrix: states with words, hostile text, filters, exports, history."""

import configparser
import re

import pytest

from ci.matrix import nova
from ci.matrix.cells import Column
from ci.model.result import Grade
from tests.kit.evidence_rows import fill_evidence
from tests.kit.lab import client_of, make_lab
from webui.app import create_app
from webui.matrix_views import column_groups

SNAPSHOT = "/matrix/operation.snapshot/libvirt-qemu-x86"


@pytest.fixture
def lab(tmp_path):
    made = make_lab(tmp_path)
    fill_evidence(made.database, source=f"{made.story.running_attempt}")
    yield made
    made.database.close()


@pytest.fixture
def client(lab):
    with client_of(lab.app) as made:
        yield made


def cells(text):
    """The cells of the table, as text without marks."""
    table = text[text.index('<table class="features"') : text.index("</table>")]
    found = re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", one).split()) for one in found]


def test_each_cell_says_in_words_what_is_known(client):
    text = client.get("/matrix").text
    found = cells(text)
    assert len(found) == 65 * 16
    assert "Works bare Nova: complete" in found
    assert "Not supported nested Nova: complete" in found
    assert "Fails bare Nova: complete" in found
    assert "Works in part bare Nova: complete" in found
    assert "Works nested old Nova: complete" in found
    assert "not tested Nova: missing" in found
    assert "no node Nova: complete" in found
    assert text.count(" differs") == 3
    assert "<b>5</b> systems with evidence" in text
    assert "<b>3</b> differences to Nova" in text
    assert 'title="fails, bare, one test, 2026-11-22: guest did not answer in 120 s"' in text
    assert "<script>alert" not in text


def test_without_evidence_every_system_is_without_a_node(tmp_path):
    made = make_lab(tmp_path)
    with client_of(made.app) as client:
        text = client.get("/matrix").text
        head = text[text.index("<thead") : text.index("</thead>")]
        assert not [title for title in nova.drivers().values() if title not in head]
        assert "<b>0</b> systems with evidence" in text
        assert all(cell.startswith("no node") for cell in cells(text))
        assert "Nothing fits." in client.get("/matrix?evidence=1").text
        assert "Nothing that was tested differs" in client.get("/matrix?differences=1").text
    made.database.close()


def test_filters_hold_for_page_twin_and_exports(client):
    wanted = "?group=console&system=libvirt-xen"
    document = client.get(f"/matrix.json{wanted}").json()
    assert [column["key"] for column in document["columns"]] == ["libvirt-xen"]
    assert {line["group"] for line in document["lines"]} == {"console"}
    text = client.get(f"/matrix{wanted}").text
    assert len(cells(text)) == len(document["lines"])
    assert 'href="/matrix.ini?group=console&amp;system=libvirt-xen"' in text
    found = configparser.ConfigParser()
    found.read_string(client.get(f"/matrix.ini{wanted}").text)
    assert found.sections()[0] == "driver.libvirt-xen"
    sheet = client.get(f"/matrix.csv{wanted}")
    assert sheet.headers["content-disposition"] == 'attachment; filename="matrix.csv"'
    assert len(sheet.text.splitlines()) == 1 + len(document["lines"])


def test_only_differences(client):
    document = client.get("/matrix.json?differences=1").json()
    assert [line["feature"] for line in document["lines"]] == [
        "operation.attach-volume",
        "operation.rescue",
        "guest.disk.autoconfig",
    ]
    assert len(document["columns"]) == 2
    assert len(client.get("/matrix.json?differences=1&against=2026").json()["lines"]) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/matrix?against=2019",
        "/matrix?group=x",
        "/matrix?system=<script>",
        "/matrix?differences=2",
        "/matrix.ini?group=x",
        "/matrix.csv?system=x",
        f"{SNAPSHOT}?against=x",
    ],
)
def test_wrong_parameters_are_named(client, path):
    assert client.get(path).status_code == 400


@pytest.mark.parametrize("path", ["/matrix/operation.fly/libvirt-xen", "/matrix/operation.pause/x"])
def test_what_is_no_cell_is_not_found(client, path):
    assert client.get(path).status_code == 404
    assert client.get(f"{path}.json").status_code == 404


def test_the_page_of_a_cell_tells_every_test_and_where_it_ran(lab, client):
    text = client.get(SNAPSHOT).text
    assert "works in part</span></h1>" in text
    assert "2 of 3 tests passed" in text
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert f'href="/builds/{lab.story.running}"' in text
    assert "report: nightly" in text
    assert "libvirt 9.0.0" in text
    words = client.get(f"{SNAPSHOT}.json").json()["words"]
    assert [word["test_id"].rpartition("_")[2] for word in words] == ["live", "memory", "snapshot"]
    assert words[-1]["build_id"] == lab.story.running


def test_a_difference_is_told_in_a_sentence(client):
    text = client.get("/matrix/operation.rescue/libvirt-qemu-x86").text
    assert "Nova 2026 declares this complete; here it does not work." in text
    proved = client.get("/matrix/guest.disk.autoconfig/libvirt-qemu-x86").text
    assert "Nova 2026 declares this missing; here it is shown to work." in proved


def test_the_page_of_a_cell_without_a_node_says_so(client):
    text = client.get("/matrix/operation.launch/powervm").text
    assert "No node: nobody has shown us this system" in text
    assert "<dt>2020" in text


def test_evidence_outlives_the_build_that_gave_it(tmp_path):
    made = make_lab(tmp_path)
    fill_evidence(made.database, source="gone")
    app = create_app(made.database, made.logs_dir, "http://ci.example.org/", clock=made.clock)
    with client_of(app) as client:
        assert "a build that is no longer kept" in client.get(SNAPSHOT).text
    made.database.close()


def test_columns_can_be_jumped_to_by_what_stands_behind_them(client):
    text = client.get("/matrix").text
    jump = text[text.index('<nav class="columns"') : text.index('<div class="frame"')]
    links = re.findall(r'href="#(column-[^"]+)"', jump)
    assert len(links) == len(set(links)) == 16
    assert all(f'<th scope="col" id="{link}"' in text for link in links)
    assert re.findall(r"<dt>(.*?)</dt>", jump) == ["Real", "Simulated", "No node"]
    assert "16 columns. Those that do not fit stand to the right" in jump
    assert '<nav class="columns"' not in client.get("/matrix?system=libvirt-xen").text


def test_a_column_whose_grade_nobody_told_is_not_called_simulated():
    columns = [
        Column(key=grades[0], title="", grades=grades)
        for grades in ((Grade.EMULATOR, Grade.NONE), (Grade.NONE,), (Grade.NESTED, Grade.NONE))
    ]
    groups = {name: [one.key for one in found] for name, found in column_groups(columns)}
    assert groups == {"Real": ["nested"], "Simulated": ["emulator"], "Grade not told": ["none"]}


def test_what_only_a_stand_in_showed_is_not_said_of_the_system_itself(client):
    text = client.get("/matrix").text
    found = re.findall(
        r'<a class="plain" href="(/matrix/[^"]+)"(?:(?!</td>).)*?class="grade emulator"', text
    )
    page = client.get(found[0]).text
    assert "works, on our emulator only</span></h1>" in page
    assert '<section class="verdict warn">' in page
    assert "It says nothing of " in page
    assert "emulator only" not in client.get(SNAPSHOT).text
