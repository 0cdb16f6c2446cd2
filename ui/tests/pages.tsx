// SPDX-License-Identifier: Apache-2.0
import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { render } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import type { ReactElement } from "react";
import { MemoryRouter, Route, Routes } from "react-router-dom";
import { vi } from "vitest";

import type { PoolDetail, Queue } from "../src/api/calls";

/** Somebody in a hurry, who need not look whether something lies over a button: that is for a real browser. */
export const user = userEvent.setup({ delay: null, pointerEventsCheck: 0 });

export interface Sent {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: unknown;
}

type Answer = object | ((sent: Sent) => object);

/** An API of a few answers, by method and path. It notes what it was asked. */
export function answering(answers: Record<string, Answer>): Sent[] {
  const asked: Sent[] = [];
  vi.stubGlobal("fetch", (address: string, init: RequestInit) => {
    const url = new URL(address);
    const path = url.pathname.replace("/workpools/api/v1/", "");
    const sent = {
      method: init.method ?? "GET",
      path,
      query: url.searchParams,
      body: init.body ? (JSON.parse(init.body as string) as unknown) : undefined,
    };
    asked.push(sent);
    const found = answers[`${sent.method} ${path}`];
    const answer = typeof found === "function" ? found(sent) : found;
    const refused = answer as { status?: number; problem?: object } | undefined;
    if (answer === undefined) return Promise.resolve(Response.json({ code: "not_found", detail: `no ${path}`, faults: [] }, { status: 404 }));
    if (refused?.problem) return Promise.resolve(Response.json(refused.problem, { status: refused.status ?? 422 }));
    return Promise.resolve(Response.json(answer));
  });
  return asked;
}

export function refusing(status: number, detail: string): object {
  return { status, problem: { code: "forbidden", detail, faults: [] } };
}

/** Show a part as Airflow would, at an address. */
export function show(part: ReactElement, at = "/plugin/workpools", path = "/plugin/:page/*") {
  return render(
    <ChakraProvider value={defaultSystem}>
      <MemoryRouter initialEntries={[at]}>
        <Routes>
          <Route element={part} path={path} />
        </Routes>
      </MemoryRouter>
    </ChakraProvider>,
  );
}

export const QUEUE: Queue = {
  name: "default",
  priority: 1,
  concurrency_limit: null,
  description: null,
  paused: false,
  status: "READY",
  waiting: 2,
  running: 1,
  slots_used: 1,
  last_polled_at: null,
  job_variables: {},
  airflow_pool: "workpool-etl-default",
  airflow_slots: 4,
};

export const POOL: PoolDetail = {
  name: "etl",
  type: "process",
  description: null,
  status: "READY",
  reason: null,
  source: "database",
  declared_in: "the metadata database",
  read_only: false,
  team_name: null,
  paused: false,
  delivery: "push",
  concurrency_limit: 4,
  slots_used: 1,
  running: 1,
  waiting: 2,
  workers_online: 1,
  workers: 1,
  queue_count: 1,
  sparkline: [0, 1, 2, 1],
  may_edit: true,
  may_operate: true,
  start_timeout_seconds: 600,
  start_attempts: 3,
  infrastructure_conn_id: null,
  job_variables: {},
  capacity: null,
  capacity_free: null,
  slots_free: 3,
  queues: [QUEUE],
  as_of: "2026-01-01T00:00:00Z",
};

export const STATISTICS = {
  pool: "etl",
  window: "1h",
  since: "2026-01-01T00:00:00Z",
  until: "2026-01-01T01:00:00Z",
  bucket_seconds: 1800,
  concurrency_limit: 4,
  queues: [
    {
      name: "default",
      concurrency_limit: null,
      slots: [1, 3],
      claimed: [1, 0],
      wait_p50_seconds: [2, null],
      wait_p95_seconds: [12, null],
      window_wait_p50_seconds: 2,
      window_wait_p95_seconds: 90,
    },
  ],
  wait_sample: 1,
};

export function listOf(...pools: PoolDetail[]): object {
  return { pools, total: pools.length, next_cursor: null, as_of: POOL.as_of, may_create: true, teams: [] };
}
