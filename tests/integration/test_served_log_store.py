# SPDX-License-Identifier: Apache-2.0
"""`hypervouch serve` with a log store: votes as ever, and its log is readable elsewhere."""

from pathlib import Path

import httpx
import pytest

from ci.layout import Service
from ci.log_mirror import Mirror
from ci.log_shelf import open_shelf
from tests.kit.faulty_http import FaultyHttp
from tests.kit.installation import GOOD
from tests.kit.s3 import S3Server
from tests.kit.sandbox_host import SandboxHost
from tests.kit.stage import Stage
from webui.logs import LogFiles

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_build_is_voted_while_the_store_is_down_and_published_after(
    sandbox_host: SandboxHost, s3: S3Server, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("S3_KEY", "k")
    with FaultyHttp(s3.url) as http:
        key = {"from-env": "S3_KEY"}
        options = {"endpoint": http.url, "access-key-id": key, "secret-access-key": key}
        keys = {"log-store": f"s3://{s3.make_bucket()}/logs", "log-store-options": options}
        stage = Stage(sandbox_host, tmp_path, service=keys)  # type: ignore[arg-type]
        stage.ci.start()
        try:
            http.down()
            change = stage.push(GOOD)
            assert stage.ci.wait_for_comments(stage.author, change).vote == 1
            build = stage.ci.builds(change)[0]["id"]
            page = stage.ci.get(f"builds/{build}.json")
            attempt = page["detail"]["attempts"][0]["id"]
            own = httpx.get(page["files"][0]["console_url"], trust_env=False).text
            assert "case launch" in own
            http.up()
            given = {"state-dir": str(tmp_path / "elsewhere"), **keys}
            shelf = open_shelf(Service.model_validate(given))
            assert shelf is not None
            stage.ci.wait(
                lambda: shelf.read(f"{build}/{attempt}/published.json") is not None,
                45,
                "the log to be published",
            )
            pages = LogFiles(tmp_path / "reader", Mirror(tmp_path / "reader", shelf, 1 << 30))
            found = pages.console(build, attempt)
            assert found is not None
            assert found.read_text() == own
            assert [one.path for one in pages.artifacts(build, attempt)] == ["junit.xml"]
        finally:
            stage.ci.kill()
