# SPDX-License-Identifier: Apache-2.0
"""The compute suite puts its images onto a host that is far away once, not for each guest."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.jobs.compute import run
from ci.jobs.compute.bench import Bench
from ci.jobs.compute.plugin import ComputePlugin
from ci.jobs.compute.record import Said
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, Hypervisor
from nodes.hypervisors.faults import NodeFault
from nodes.hypervisors.table import connect


class Kept:
    """Which images a host keeps; wraps a dummy's two calls."""

    def __init__(self, host: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        self.gone = False
        monkeypatch.setattr(host, "cache_image", self.cache)
        monkeypatch.setattr(host, "forget_image", self.forget)

    def cache(self, image: GuestImage) -> bool:
        self.ids.append(image.id)
        return True

    def forget(self, image: GuestImage) -> None:
        if self.gone:
            raise NodeFault("the host is gone")
        self.ids.remove(image.id)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Hypervisor]:
    made = connect("dummy://far", Access(work=tmp_path, grade=Grade.EMULATOR))
    yield made
    made.close()


def bench_of(host: Hypervisor, tmp_path: Path) -> Bench:
    return Bench(host, None, work=tmp_path, boot_s=1.0, progress=lambda _said: None)


def test_each_image_has_an_id_of_its_own_and_goes_again(
    host: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept, bench = Kept(host, monkeypatch), bench_of(host, tmp_path)
    bench.keep_images()
    assert kept.ids == [bench.image.id, bench.other_image.id]
    assert len(set(kept.ids)) == 2
    bench.forget_images()
    assert kept.ids == []


def test_a_host_that_keeps_no_images_is_left_alone(
    host: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(type(host), "missing", {Feature.CACHE_IMAGES: "it has none"})
    bench = bench_of(host, tmp_path)
    bench.keep_images()
    bench.forget_images()
    assert (bench.image.id, bench.other_image.id) == ("", "")


def test_what_was_shown_is_written_down_though_the_host_goes_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Tidying up behind an interrupted test, pytest lets through what the adapter raises."""

    def broken_off(_arguments: object, plugins: list[ComputePlugin]) -> int:
        said = Said(
            test_id="t", feature=Feature.LAUNCH, outcome="passed", reason="", duration_s=1.0
        )
        plugins[0]._record.add(said)
        raise NodeFault("the host is gone")

    monkeypatch.setattr(run.pytest, "main", broken_off)
    report, told = tmp_path / "report.json", list[str]()
    order = run.Order(hypervisor="dummy://far", report=report)
    assert run.run(order, told.append) == run.NOT_TRIED
    assert "the host is gone" in told[-1] + told[-2]
    (shown,) = json.loads(report.read_text())["evidence"]
    assert (shown["feature"], shown["shown"]) == ("operation.launch", "works")


def test_a_host_that_went_away_is_told_and_costs_no_result(
    host: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept, bench, said = Kept(host, monkeypatch), bench_of(host, tmp_path), list[str]()
    bench.keep_images()
    kept.gone = True
    run._forget_images(bench, said.append)
    assert said == ["our images may still be on the host: the host is gone"]
