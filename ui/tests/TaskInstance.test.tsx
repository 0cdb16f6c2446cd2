// SPDX-License-Identifier: Apache-2.0
import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";

import { Dashboard } from "../src/pages/Dashboard";
import { TaskInstance } from "../src/pages/TaskInstance";
import { answering, refusing, show } from "./pages";

const PROBE = "<img src=x onerror=alert(1)>";
const HELD = {
  dag_id: "daily",
  run_id: "r 1",
  task_id: "load",
  map_index: -1,
  try_number: 1,
  state: "scheduled",
  stage: "scheduled",
  holding: "queue_limit",
  explanation: `work queue 'etl/${PROBE}' has 1 of 1 slots in use`,
  way_out: "wait, or `airflow workpools queue set-concurrency-limit etl/high 2`",
  gates: [
    { gate: "paused", status: "passed", explanation: null, way_out: null, numbers: {} },
    { gate: "queue_limit", status: "holding", explanation: "1 of 1", way_out: null, numbers: { limit: 1, held: 1, holders: [] } },
  ],
  job: null,
  as_of: "2026-01-01T00:00:00Z",
};

test("a task that waits is told the gate, its numbers and what would free it, as plain text", async () => {
  const asked = answering({ "GET explain": HELD });
  show(<TaskInstance dagId="daily" mapIndex="-1" runId="r 1" taskId="load" />);

  expect(await screen.findByText("It waits at gate queue limit")).toBeTruthy();
  expect(screen.getByText(/1 of 1 slots in use/).textContent).toContain(PROBE);
  expect(document.querySelector("img")).toBeNull();
  expect(screen.getByText("airflow workpools queue set-concurrency-limit etl/high 2").tagName).toBe("CODE");
  const way = within(screen.getByRole("region", { name: "Gates on the way of the task" }));
  expect(way.getByText("limit: 1 · held: 1")).toBeTruthy();
  expect(asked[0]?.query.get("run_id")).toBe("r 1");
});

test("the panel hides from who may not see work pools", async () => {
  const asked = answering({ "GET dashboard": refusing(403, "you may not see pools") });
  const { container } = show(<Dashboard />);
  await expect.poll(() => asked.length).toBe(1);
  await expect.poll(() => container.textContent).toBe("");
});

test("the panel tells of all pools in a few numbers", async () => {
  answering({
    "GET dashboard": {
      pools: 2, ready: 1, not_ready: 1, paused: 0, invalid: 0, slots_used: 3, running: 3, waiting: 7, workers_online: 1,
      rows: [{ name: "gpu", status: "NOT_READY", reason: "no worker", slots_used: 0, concurrency_limit: 2, waiting: 7, workers_online: 0 }],
      as_of: "2026-01-01T00:00:00Z",
    },
  });
  show(<Dashboard />);
  expect(await screen.findByText("1 of 2 pools ready · 3 running · 7 waiting · 1 worker online")).toBeTruthy();
  expect(screen.getByText("no worker")).toBeTruthy();
});
