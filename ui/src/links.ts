// SPDX-License-Identifier: Apache-2.0

/** Where things are in Airflow's UI; paths are those of its router. */
const HOME = "/plugin/workpools";

export const TABS = ["queues", "jobs", "workers", "template", "tokens"] as const;
export type Tab = (typeof TABS)[number];

export function listLink(): string {
  return HOME;
}

export function poolLink(pool: string, tab?: Tab): string {
  return `${HOME}/${encodeURIComponent(pool)}${tab ? `/${tab}` : ""}`;
}

/** The pool and the tab that the rest of the address names. */
export function readPlace(rest: string): { pool?: string; tab: Tab } {
  const [pool, tab] = rest.split("/");
  const found = TABS.find((one) => one === tab) ?? "queues";
  return pool ? { pool, tab: found } : { tab: found };
}

interface Task {
  readonly dag_id: string;
  readonly run_id: string;
  readonly task_id: string;
  readonly map_index: number;
}

export function taskLink({ dag_id, run_id, task_id, map_index }: Task, tryNumber?: number): string {
  const names = [dag_id, run_id, task_id].map(encodeURIComponent);
  const mapped = map_index < 0 ? "" : `/mapped/${map_index}`;
  const log = tryNumber === undefined ? "" : `?try_number=${tryNumber}`;
  return `/dags/${names[0]}/runs/${names[1]}/tasks/${names[2]}${mapped}${log}`;
}

/** The tab of a task instance that says why it waits. */
export function explainLink(task: Task): string {
  return `${taskLink(task)}/plugin/workpool`;
}
