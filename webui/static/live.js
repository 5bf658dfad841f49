// SPDX-License-Identifier: Apache-2.0
// Pages read well without this. It keeps what is live up to date and marks ranges of log lines.
"use strict";

// Take the parts marked data-live out of a fresh copy of this page.
async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.isEqualNode(part) || part.contains(document.activeElement)) continue;
    const open = [...part.querySelectorAll("details")].map((item) => item.open);
    part.replaceWith(document.adoptNode(other));
    other.querySelectorAll("details").forEach((item, index) => {
      if (index < open.length) item.open = open[index];
    });
  }
  document.title = fresh.title;
}

function poll(seconds) {
  setInterval(() => {
    if (!document.hidden) refresh().catch(() => undefined);
  }, seconds * 1000);
}

function line(base, attempt, [number, time, segments, kind]) {
  const row = document.createElement("div");
  row.className = `l ${kind}`;
  row.id = `L${number}`;
  const link = document.createElement("a");
  link.className = "n";
  link.href = `${base}?attempt=${encodeURIComponent(attempt)}&line=${number}#L${number}`;
  link.textContent = number;
  const at = document.createElement("time");
  at.textContent = time;
  const text = document.createElement("span");
  text.className = "t";
  for (const [style, words] of segments) {
    const part = document.createElement("span");
    part.className = style;
    part.textContent = words;
    text.append(part);
  }
  row.append(link, at, text);
  return row;
}

const KEPT_LINES = 2000;

function addLines(log, { attempt, lines }) {
  if (log.dataset.attempt !== attempt) {
    if ("window" in log.dataset) return;
    log.replaceChildren();
    log.dataset.attempt = attempt;
  }
  const view = "window" in log.dataset ? document.scrollingElement : log;
  const follows = view.scrollTop + view.clientHeight >= view.scrollHeight - 40;
  log.append(...lines.map((item) => line(log.dataset.base, attempt, item)));
  while (log.childElementCount > KEPT_LINES) log.firstElementChild.remove();
  if (follows) view.scrollTop = view.scrollHeight;
}

function follow(address) {
  const log = document.getElementById("log");
  const mark = document.getElementById("livemark");
  const { attempt, next } = log.dataset;
  if (!("window" in log.dataset)) log.scrollTop = log.scrollHeight;
  const from = new URLSearchParams({ attempt, line: next });
  const stream = new EventSource(`${address}?${from}`);
  const again = () => refresh().catch(() => undefined);
  stream.onopen = () => { mark.hidden = false; };
  stream.onerror = () => {
    mark.hidden = true;
    if (stream.readyState === EventSource.CLOSED) poll(5);
  };
  stream.addEventListener("log", (event) => addLines(log, JSON.parse(event.data)));
  stream.addEventListener("state", again);
  stream.addEventListener("done", () => {
    stream.close();
    mark.hidden = true;
    // The vote is delivered a moment after the build ends.
    for (const delay of [200, 3000, 10000]) setTimeout(again, delay);
  });
}

// #L12 and #L12-L20: show the range, and ask for another window where it lies outside.
function showRange() {
  const found = /^#L(\d{1,9})(?:-L?(\d{1,9}))?$/.exec(location.hash);
  const log = document.querySelector("[data-window]");
  document.querySelectorAll(".l.marked").forEach((row) => row.classList.remove("marked"));
  if (!found || !log) return;
  const [low, high] = [Number(found[1]), Number(found[2] || found[1])].sort((a, b) => a - b);
  if (low < Number(log.dataset.first) || low > Number(log.dataset.last)) {
    const query = new URLSearchParams({ attempt: log.dataset.attempt, line: low });
    const wanted = `?${query}`;
    if (location.search !== wanted) location.replace(`${location.pathname}${wanted}${location.hash}`);
    return;
  }
  for (let number = low; number <= high; number += 1) {
    const row = document.getElementById(`L${number}`);
    if (!row) break;
    row.classList.add("marked");
  }
  document.getElementById(`L${low}`)?.scrollIntoView({ block: "center" });
}

// Shift-click on a second line number makes a range of the two.
function pickRange(event) {
  const number = event.target.closest?.("[data-window] .n");
  const start = /^#L(\d+)/.exec(location.hash);
  if (!number || !event.shiftKey || !start) return;
  event.preventDefault();
  const ends = [Number(start[1]), Number(number.textContent)].sort((a, b) => a - b);
  location.hash = `#L${ends[0]}-L${ends[1]}`;
}

const { stream, poll: every } = document.body.dataset;
if (stream) follow(stream);
else if (every) poll(Number(every));
addEventListener("hashchange", showRange);
addEventListener("click", pickRange);
showRange();
