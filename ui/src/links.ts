// SPDX-License-Identifier: Apache-2.0

/** Where things are in Airflow's UI; paths are those of its router. */
const HOME = "/plugin/workpools";

export const TABS = ["queues", "jobs", "workers", "template", "tokens"] as const;
export type Tab = (typeof TABS)[number];

export function listLink(): string {
  return HOME;
}

/**
 * A pool, or a tab of its page, filtered or not.
 *
 * What is not a page of its own is behind the question mark: Airflow builds a page anew for every other path.
 */
export function poolLink(pool: string, tab?: Tab, filter: Readonly<Record<string, string>> = {}): string {
  const search = new URLSearchParams({ ...(tab && tab !== TABS[0] && { tab }), ...filter }).toString();
  return `${HOME}/${encodeURIComponent(pool)}${search && `?${search}`}`;
}

/** The tab that an address names. */
export function readTab(search: URLSearchParams): Tab {
  return TABS.find((one) => one === search.get("tab")) ?? TABS[0];
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
