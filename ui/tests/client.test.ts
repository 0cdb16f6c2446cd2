// SPDX-License-Identifier: Apache-2.0
import { afterEach, expect, test, vi } from "vitest";

import { ApiError, apiUrl, path, read } from "../src/api/client";
import { explainLink, poolLink, readTab, taskLink } from "../src/links";

afterEach(() => document.querySelector("base")?.remove());

test("the API is found under whatever Airflow names as its base", () => {
  const base = document.createElement("base");
  base.href = "https://example.org/data/airflow/";
  document.head.append(base);
  expect(apiUrl(path`pools/${"a/b c"}`, { state: ["a", "b"], queue: "", cursor: undefined })).toBe(
    "https://example.org/data/airflow/workpools/api/v1/pools/a%2Fb%20c?state=a&state=b",
  );
});

test.each([
  [401, { detail: "x" }, /not logged in/],
  [403, { detail: "you may not change pools" }, /^you may not change pools$/],
  [422, { detail: "it is wrong", faults: [{ pointer: "/a", detail: "b" }] }, /^it is wrong$/],
  [500, "Internal Server Error", /answered with status 500/],
  [502, "<html>", /answered with status 502/],
])("status %i is told in words", async (status, body, said) => {
  vi.stubGlobal("fetch", () => Promise.resolve(Response.json(body, { status })));
  const error = await read("pools").catch((thrown: unknown) => thrown as ApiError);
  expect(error).toBeInstanceOf(ApiError);
  expect((error as ApiError).message).toMatch(said);
  expect((error as ApiError).faults.length).toBe(status === 422 ? 1 : 0);
});

test("a server that is gone", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
  await expect(read("pools")).rejects.toThrow(/does not answer/);
});

test("addresses lead to Airflow's pages and ours", () => {
  const task = { dag_id: "d", run_id: "manual__2026-01-01T00:00:00+00:00", task_id: "g.t", map_index: 2 };
  expect(taskLink(task, 3)).toBe("/dags/d/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00/tasks/g.t/mapped/2?try_number=3");
  expect(explainLink({ ...task, map_index: -1 })).toMatch(/tasks\/g\.t\/plugin\/workpool$/);
  expect(poolLink("a b", "queues")).toBe("/plugin/workpools/a%20b");
  expect(poolLink("a b", "jobs", { queue: "c&d" })).toBe("/plugin/workpools/a%20b?tab=jobs&queue=c%26d");
  expect(readTab(new URLSearchParams("tab=jobs"))).toBe("jobs");
  expect(readTab(new URLSearchParams("tab=nonsense"))).toBe("queues");
});
