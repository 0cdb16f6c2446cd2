// SPDX-License-Identifier: Apache-2.0
// @vitest-environment node
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import openapiTS, { astToString } from "openapi-typescript";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const text = (...parts: string[]) => readFileSync(join(ROOT, ...parts), "utf8");

test("the types are those of the API's document", async () => {
  // Otherwise: npm run types
  const document = new URL("../../airflow_workpools/api/openapi/pool-v1.json", import.meta.url);
  const types = astToString(await openapiTS(document));
  expect(text("src/api/schema.ts")).toContain(types.trim());
});

test("nothing becomes HTML but through React", () => {
  const sources = readdirSync(join(ROOT, "src"), { recursive: true, encoding: "utf8" }).filter((name) => /\.tsx?$/.test(name));
  expect(sources.length).toBeGreaterThan(20);
  const bad = sources.filter((name) => /dangerouslySetInnerHTML|innerHTML|insertAdjacentHTML|document\.write|eval\(/.test(text("src", name)));
  expect(bad).toEqual([]);
});

test("every call goes to a path that the API has", () => {
  const document = JSON.parse(text("../airflow_workpools/api/openapi/pool-v1.json")) as { paths: Record<string, object> };
  const shape = (path: string) => path.replace(/\$?\{[^}]*\}/g, "*").replace(/^\/v1\//, "");
  const there = new Set(Object.entries(document.paths).flatMap(([path, calls]) => Object.keys(calls).map((method) => `${method.toUpperCase()} ${shape(path)}`)));
  const source = text("src/api/calls.ts");
  const calls = [...source.matchAll(/(?:read<[^(]*>\(|send<[^(]*>\("([A-Z]+)", )(?:path)?[`"]([^`"]+)[`"]/g)].flatMap(([, method, path]) =>
    // One call may do either of two things.
    (path ?? "").includes("?") ?
      [...(path ?? "").matchAll(/"(\w+)"/g)].map(([, verb]) => `${method} ${shape((path ?? "").replace(/\$\{[^}]*\?[^}]*\}/, verb ?? ""))}`)
    : [`${method ?? "GET"} ${shape(path ?? "")}`],
  );
  expect(calls.length).toBeGreaterThan(20);
  expect(calls.filter((call) => !there.has(call))).toEqual([]);
});
