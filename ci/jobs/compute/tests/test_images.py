# SPDX-License-Identifier: Apache-2.0
"""Images are kept on the host, so that they need not be copied for each guest."""

from dataclasses import replace
from pathlib import Path

import pytest

from ci.jobs.compute.bench import Bench
from ci.model.feature import Feature
from nodes.images.tiny import marked

_CACHED = "cached"


@pytest.mark.feature(Feature.CACHE_IMAGES)
def test_cached_image(bench: Bench, tmp_path: Path) -> None:
    """It is copied once, and boots a guest although it is gone from where it came."""
    bench.need(Feature.CACHE_IMAGES)
    before = bench.hypervisor.inventory()
    image = replace(marked(bench.image, _CACHED, tmp_path), id=bench.name("image"))
    try:
        assert bench.hypervisor.cache_image(image)
        assert not bench.hypervisor.cache_image(image)
        for path in (image.initrd, image.root):
            if path is not None:
                path.unlink()
        guest = bench.launch(image=image)
        assert guest.info()["image"] == _CACHED
        bench.delete(guest)
    finally:
        bench.hypervisor.forget_image(image)
    bench.hypervisor.forget_image(image)
    assert bench.hypervisor.inventory() == before
