// SPDX-License-Identifier: Apache-2.0
import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";

import { WorkPools } from "../src/pages/WorkPools";
import { answering, listOf, POOL, refusing, show, user } from "./pages";

test("each pool is a row with its state in words and numbers", async () => {
  answering({
    "GET pools": listOf(POOL, { ...POOL, name: "gpu", status: "INVALID", reason: "concurrency_limit must be a number" }),
  });
  show(<WorkPools />);

  const row = (await screen.findByRole("link", { name: "etl" })).closest("tr") as HTMLElement;
  expect(within(row).getByText("ready")).toBeTruthy();
  expect(within(row).getByRole("meter").getAttribute("aria-valuetext")).toBe("1 of 4");
  expect(within(row).getByRole("img").getAttribute("aria-label")).toContain("at most 2");
  expect(screen.getByText("concurrency_limit must be a number")).toBeTruthy();
  expect(screen.getByRole("link", { name: "gpu" }).getAttribute("href")).toBe("/plugin/workpools/gpu");
});

test("a pool is paused after a question, and read anew", async () => {
  const asked = answering({ "GET pools": listOf(POOL), "POST pools/etl/pause": POOL });
  show(<WorkPools />);
  await user.click(await screen.findByRole("button", { name: "Pause" }));
  expect(asked.some((one) => one.method === "POST")).toBe(false);

  await user.click(within(await screen.findByRole("alertdialog")).getByRole("button", { name: "Pause" }));

  expect(asked.map((one) => `${one.method} ${one.path}`)).toEqual(["GET pools", "POST pools/etl/pause", "GET pools"]);
});

test("a refusal is told in the question, which stays", async () => {
  answering({ "GET pools": listOf(POOL), "POST pools/etl/pause": refusing(403, "you may not change pools; ask for Op") });
  show(<WorkPools />);
  await user.click(await screen.findByRole("button", { name: "Pause" }));
  await user.click(within(await screen.findByRole("alertdialog")).getByRole("button", { name: "Pause" }));

  expect(await screen.findByText("you may not change pools; ask for Op")).toBeTruthy();
});

test("who only looks has nothing to press", async () => {
  answering({ "GET pools": { ...listOf({ ...POOL, may_edit: false, may_operate: false }), may_create: false } });
  show(<WorkPools />);

  const pause = await screen.findByRole<HTMLButtonElement>("button", { name: "Pause" });
  expect(pause.disabled).toBe(true);
  expect(pause.title).toContain("not change");
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Create work pool" }).disabled).toBe(true);
});

test("a pool is created with what was typed, and shown", async () => {
  const asked = answering({
    "GET pools": listOf(),
    "GET infrastructure-types": { types: [{ type: "process" }, { type: "docker" }] },
    "POST pools": { ...POOL, name: "new" },
    "GET pools/new": { ...POOL, name: "new" },
  });
  show(<WorkPools />);
  expect(await screen.findByText("There are no work pools yet")).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Create work pool" }));
  const form = within(await screen.findByRole("dialog"));
  await user.type(form.getByLabelText(/^Name/), "new");
  await form.findByRole("option", { name: "docker" });
  await user.selectOptions(form.getByLabelText("Type"), "docker");
  await user.type(form.getByLabelText("Concurrency limit"), "0");
  await user.click(form.getByRole("button", { name: "Create" }));

  expect(await screen.findByRole("heading", { name: "new" })).toBeTruthy();
  expect(asked.find((one) => one.method === "POST")?.body).toMatchObject({
    name: "new",
    type: "docker",
    concurrency_limit: 0,
    description: null,
    job_variables: {},
  });
});

test("an answer that fails says so, and can be asked for again", async () => {
  const answers: Record<string, object> = { "GET pools": { status: 503, problem: { detail: "the database does not answer" } } };
  answering(answers);
  show(<WorkPools />);
  expect(await screen.findByText(/the database does not answer/)).toBeTruthy();
  answers["GET pools"] = listOf(POOL);
  await user.click(screen.getByRole("button", { name: "Try again" }));
  expect(await screen.findByRole("link", { name: "etl" })).toBeTruthy();
});
