// SPDX-License-Identifier: Apache-2.0
import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";

import { WorkPools } from "../src/pages/WorkPools";
import { answering, POOL, QUEUE, show, STATISTICS, type Sent, user } from "./pages";

const HIGH = { ...QUEUE, name: "high", priority: 2 };
const BOTH = { ...POOL, queues: [QUEUE, HIGH] };
const AT = "/plugin/workpools/etl";

function page(pool: object, more: Record<string, object> = {}, at = AT): Sent[] {
  const asked = answering({ "GET pools/etl": pool, "GET pools/etl/statistics": STATISTICS, ...more });
  show(<WorkPools />, at);
  return asked;
}

test("the switch pauses a queue after a question", async () => {
  const asked = page(BOTH, { "POST pools/etl/queues/high/pause": { queue: HIGH, moved: [], as_of: POOL.as_of } });
  const delivers = await screen.findByRole<HTMLInputElement>("checkbox", { name: "Queue high delivers jobs" });
  await user.click(delivers);
  const question = within(await screen.findByRole("alertdialog"));
  expect(delivers.checked).toBe(true);
  await user.click(question.getByRole("button", { name: "Pause" }));

  expect(asked.filter((one) => one.method === "POST").map((one) => one.path)).toEqual(["pools/etl/queues/high/pause"]);
});

test("who moves a queue reads which other makes room, before and after", async () => {
  const moved = [{ name: "default", old_priority: 1, new_priority: 2 }];
  const asked = page(BOTH, {
    "PATCH pools/etl/queues/high": { queue: { ...HIGH, priority: 1 }, moved, as_of: POOL.as_of },
  });
  await user.click(await screen.findByRole("button", { name: "Edit queue high" }));
  const form = within(await screen.findByRole("dialog"));
  await user.clear(form.getByLabelText(/^Priority/));
  await user.type(form.getByLabelText(/^Priority/), "1");
  expect(form.getByText(/default has 1: it will move to 2/)).toBeTruthy();
  await user.type(form.getByLabelText("Concurrency limit"), "3");
  await user.click(form.getByRole("button", { name: "Save" }));

  expect(await screen.findByText(/default moved from 1 to 2/)).toBeTruthy();
  expect(asked.find((one) => one.method === "PATCH")?.body).toEqual({
    priority: 1,
    concurrency_limit: 3,
    description: null,
  });
});

test("of what is edited in a pool only what was changed is sent, and no JSON is said in the form", async () => {
  const pool = { ...BOTH, job_variables: { env: { A: "1" }, old: 1 } };
  const asked = page(pool, { "PATCH pools/etl": pool });
  await user.click(await screen.findByRole("button", { name: "Edit" }));
  const form = within(await screen.findByRole("dialog"));
  const variables = form.getByLabelText<HTMLTextAreaElement>("Job variables");
  const fill = async (text: string) => {
    await user.clear(variables);
    await user.click(variables);
    await user.paste(text);
  };
  await fill('{"env": {"A": "1"},\n"memory": 2,}');
  await user.click(form.getByRole("button", { name: "Save" }));
  expect(await form.findByText(/Job variables: line 2: this is no JSON/)).toBeTruthy();
  await fill("[1]");
  await user.click(form.getByRole("button", { name: "Save" }));
  expect(await form.findByText(/must be a JSON object/)).toBeTruthy();
  expect(asked.some((one) => one.method === "PATCH")).toBe(false);

  await fill('{"env": {"A": "1"}, "memory": 2}');
  await user.click(form.getByRole("button", { name: "Save" }));
  expect(asked.find((one) => one.method === "PATCH")?.body).toEqual({
    set_job_variables: { memory: 2 },
    unset_job_variables: ["old"],
  });
});

test("what others change in a pool while it is edited is not undone", async () => {
  let pool = { ...BOTH, description: "old", job_variables: { image: "etl:1" }, infrastructure_conn_id: "here" };
  const asked = page({}, { "GET pools/etl": () => pool, "PATCH pools/etl": () => pool });
  await user.click(await screen.findByRole("button", { name: "Edit" }));
  const form = within(await screen.findByRole("dialog"));
  const theirs = { description: "new", job_variables: { image: "etl:1", memory: 2 }, infrastructure_conn_id: "there" };
  pool = { ...pool, ...theirs };
  document.dispatchEvent(new Event("visibilitychange"));
  await screen.findByText("there");
  await user.clear(form.getByLabelText("Start attempts"));
  await user.type(form.getByLabelText("Start attempts"), "5");
  await user.click(form.getByRole("button", { name: "Save" }));

  expect(asked.find((one) => one.method === "PATCH")?.body).toEqual({ start_attempts: 5 });
});

test("a read-only pool says where it is declared, and can be paused all the same", async () => {
  page({ ...BOTH, read_only: true, declared_in: "the environment: AIRFLOW_CONN_ETL" });

  expect(await screen.findByText(/This pool is read-only here/)).toBeTruthy();
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Edit queue high" }).disabled).toBe(true);
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Pause" }).disabled).toBe(false);
  expect(screen.getByRole<HTMLInputElement>("checkbox", { name: "Queue high delivers jobs" }).disabled).toBe(false);
});

test("jobs are filtered by what is in the address", async () => {
  const none = { jobs: [], next_cursor: null, as_of: POOL.as_of };
  const asked = page(BOTH, { "GET pools/etl/jobs": none }, `${AT}?tab=jobs&state=starting`);
  expect(await screen.findByText("No jobs")).toBeTruthy();
  await user.selectOptions(screen.getByLabelText("Queue"), "high");
  await user.type(screen.getByLabelText("DAG"), "daily{Enter}");

  const last = asked.filter((one) => one.path === "pools/etl/jobs").at(-1)?.query;
  expect(last?.getAll("state")).toEqual(["claimed", "submitted"]);
  expect([last?.get("queue"), last?.get("dag_id")]).toEqual(["high", "daily"]);
});

test("charts say in words what they draw", async () => {
  page(BOTH);
  const chart = await screen.findByRole("img", { name: /Slots in use, by queue/ });
  expect(chart.getAttribute("aria-label")).toBe("Slots in use, by queue, default 3, limit 4");
  expect(within(screen.getByRole("region", { name: "Wait by queue" })).getByText("1 min 30 s")).toBeTruthy();
  expect(screen.getByRole("img", { name: "Wait for a slot, 95th percentile, default –" })).toBeTruthy();
  await user.selectOptions(screen.getByLabelText("Wait times shown"), "p50");
  expect(screen.getByRole("img", { name: "Wait for a slot, median, default –" })).toBeTruthy();
});

test("what is wrong with a template is shown in its line, and not saved", async () => {
  const template = { variables: { properties: { image: { type: "string" } } }, job_configuration: { image: "{{ image }}" } };
  const fault = { pointer: "/job_configuration/image", detail: "no variable is called 'imgae'" };
  const asked = page(
    BOTH,
    {
      "GET pools/etl/template": { pool: "etl", type: "docker", base_job_template: template, is_default: true, default_template: template, masked: false },
      "POST pools/etl/preview": { job_configuration: { image: "x" }, faults: [], variables: [], fields: [{ pointer: "/image", locked: false, variables: ["image"] }], masked: false },
      "POST templates/validate": { valid: false, faults: [fault] },
    },
    `${AT}?tab=template`,
  );
  const editor = await screen.findByLabelText<HTMLTextAreaElement>(/Base job template/);
  await user.click(editor);
  await user.paste(" ");

  const line = editor.value.split("\n").findIndex((one) => one.includes("{{ image }}")) + 1;
  expect(await screen.findByText(`Line ${line}: no variable is called 'imgae'`)).toBeTruthy();
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Save template" }).disabled).toBe(true);
  expect(asked.some((one) => one.method === "PUT")).toBe(false);
  expect(await screen.findByText(/"image": "x"/)).toBeTruthy();
});

test("a token is shown once", async () => {
  const list = { tokens: [], total: 0, next_cursor: null, as_of: POOL.as_of };
  const asked = page(
    BOTH,
    { "GET pools/etl/tokens": list, "POST pools/etl/tokens": { id: "abc", token: "wpt_secret", pools: ["etl"] } },
    `${AT}?tab=tokens`,
  );
  await user.click(await screen.findByRole("button", { name: "Make token" }));
  await user.click(within(await screen.findByRole("dialog")).getByRole("button", { name: "Make token" }));
  expect(await screen.findByText("wpt_secret")).toBeTruthy();
  expect(asked.find((one) => one.method === "POST")?.body).toEqual({ description: null, expires_in_seconds: 90 * 86_400 });
  await user.click(screen.getByRole("button", { name: "I have it" }));
  expect(screen.queryByText("wpt_secret")).toBeNull();
});
