// SPDX-License-Identifier: Apache-2.0
// Shows our runs on Gerrit's change page, by the checks API of its plugins.
//
// Where a page loads this file from our site, the script's address says the rest:
//   https://OUR-SITE/static/gerrit-checks.js?connection=NAME
// A copy among a server's own plugins needs the two constants; OUR-SITE/checks/NAME/
// gerrit-checks.js is such a copy.
"use strict";

/** @typedef {import("@gerritcodereview/typescript-api/checks").ChangeData} ChangeData */
/** @typedef {import("@gerritcodereview/typescript-api/checks").FetchResponse} FetchResponse */

(() => {
  const SITE = "";
  const CONNECTION = "";
  const POLL_S = 60;
  const PATIENCE_MS = 10_000;
  const TIMES = ["scheduledTimestamp", "startedTimestamp", "finishedTimestamp"];

  const script = document.currentScript;
  const own = new URL(script instanceof HTMLScriptElement ? script.src : location.href);
  const site = new URL(SITE || new URL("/", own));
  const connection = CONNECTION || own.searchParams.get("connection") || "";

  /** @param {string} words @returns {FetchResponse} */
  function trouble(words) {
    const responseCode = /** @type {any} */ ("ERROR");
    return { responseCode, errorMessage: `Hypervouch: ${words}` };
  }

  // JSON has no dates: Gerrit wants Date objects.
  /** @param {any} answer @returns {FetchResponse} */
  function revive(answer) {
    for (const run of answer.runs ?? []) {
      for (const name of TIMES) {
        if (run[name]) run[name] = new Date(run[name]);
      }
    }
    return answer;
  }

  /** @param {ChangeData} change @returns {Promise<FetchResponse>} */
  async function ask({ changeNumber, patchsetNumber, patchsetSha }) {
    if (!connection) return trouble("the plugin does not know the name of the connection");
    const name = encodeURIComponent(connection);
    const url = new URL(`checks/${name}/${changeNumber}/${patchsetNumber}.json`, site);
    if (patchsetSha) url.searchParams.set("sha", patchsetSha);
    try {
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const reply = await fetch(url, { credentials: "omit", signal });
      if (!reply.ok) return trouble(`${site.host} answered ${reply.status}`);
      return revive(await reply.json());
    } catch (error) {
      return trouble(`${site.host} did not answer (${error})`);
    }
  }

  window.Gerrit.install((plugin) => {
    plugin.checks().register({ fetch: ask }, { fetchPollingIntervalSeconds: POLL_S });
  });
})();
