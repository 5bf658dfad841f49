# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium from the system's packages, driven by selenium."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,900",
)
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Text whose contrast with what lies behind it is below WCAG AA, as "ratio: text".
FAINT = r"""
const parse = (text) => {
  const numbers = text.match(/[\d.]+(e-?\d+)?/g).map(Number);
  const scale = text.startsWith("color(") ? 255 : 1;
  const [r, g, b, a = 1] = numbers;
  return [r * scale, g * scale, b * scale, a];
};
const over = (top, under) =>
  [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    layers.push(parse(getComputedStyle(at).backgroundColor));
  }
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const words = [...element.childNodes].filter((node) => node.nodeType === 3)
    .map((node) => node.textContent.trim()).join(" ").trim();
  if (!words || !element.checkVisibility() || element.closest("svg")) continue;
  const style = getComputedStyle(element);
  const under = behind(element);
  const [one, two] = [light(over(parse(style.color), under)), light(under)].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  const large = parseFloat(style.fontSize) >= 24;
  if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${words.slice(0, 40)}`);
}
return faint;
"""


def missing() -> str:
    """What this machine lacks for a browser test, or nothing."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return ", ".join(absent)


class Browser:
    """One browser window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Load a page in a window of that width."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._do("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(url)

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; what it returns."""
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the browser's console said since the last time, at any level above info."""
        said = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in said if entry["level"] in {"SEVERE", "WARNING"}]

    def picture(self, path: Path, *, tallest: int | None = None) -> None:
        """The page as PNG, or its upper part, at most so many pixels tall."""
        tall = self.run("return document.documentElement.scrollHeight")
        tall = min(tall, tallest or tall)
        wide = self.run("return document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": wide, "height": tall, "scale": 1}
        shot = self._do("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def _do(self, command: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, parameters)
        return answer


@contextmanager
def browser(profile: Path, *, javascript: bool = True) -> Iterator[Browser]:
    """A browser with a profile directory of its own, closed at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        blocked = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", blocked)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.set_page_load_timeout(30)
        yield Browser(driver)
    finally:
        driver.quit()
