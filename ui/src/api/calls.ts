// SPDX-License-Identifier: Apache-2.0
import { path, read, send } from "./client";
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Dashboard = Schemas["DashboardAnswer"];
export type Explanation = Schemas["ExplainAnswer"];
export type Fault = Schemas["Fault"];
export type Gate = Schemas["GateAnswer"];
export type InfrastructureTypes = Schemas["InfrastructureTypeList"];
export type Job = Schemas["JobSummary"];
export type JobDetail = Schemas["JobDetail"];
export type JobList = Schemas["JobList"];
export type JobState = Schemas["JobState"];
export type NewPool = Schemas["NewPool"];
export type NewQueue = Schemas["NewQueue"];
export type NewToken = Schemas["NewToken"];
export type Pool = Schemas["PoolSummary"];
export type PoolChange = Schemas["PoolChange"];
export type PoolDetail = Schemas["PoolDetail"];
export type PoolList = Schemas["PoolList"];
export type Preview = Schemas["PreviewAnswer"];
export type Queue = Schemas["QueueSummary"];
export type QueueAnswer = Schemas["QueueAnswer"];
export type QueueChange = Schemas["QueueChange"];
export type Statistics = Schemas["StatisticsAnswer"];
export type TemplateAnswer = Schemas["TemplateAnswer"];
export type Token = Schemas["TokenSummary"];
export type TokenList = Schemas["TokenList"];
export type TokenMade = Schemas["TokenMade"];
export type Validation = Schemas["ValidateAnswer"];
export type Window = Schemas["StatisticsAnswer"]["window"];
export type Worker = Schemas["WorkerSummary"];
export type WorkerList = Schemas["WorkerList"];

type Signal = AbortSignal | undefined;
type Object = Record<string, unknown>;

export interface JobFilter {
  readonly state?: readonly JobState[];
  readonly queue?: string;
  readonly dag_id?: string;
}

export interface TaskRef {
  readonly dag_id: string;
  readonly run_id: string;
  readonly task_id: string;
  readonly map_index: number;
}

/** Every call of the pool API that the pages make; the document of the API says what each does. */
export const api = {
  pools: (cursor?: string, signal?: Signal) => read<PoolList>("pools", { cursor }, signal),
  createPool: (pool: Partial<NewPool> & Pick<NewPool, "name" | "type">) =>
    send<PoolDetail>("POST", "pools", { body: pool }),
  pool: (pool: string, signal?: Signal) => read<PoolDetail>(path`pools/${pool}`, {}, signal),
  updatePool: (pool: string, body: Partial<PoolChange>) => send<PoolDetail>("PATCH", path`pools/${pool}`, { body }),
  deletePool: (pool: string) => send<void>("DELETE", path`pools/${pool}`),
  pausePool: (pool: string, paused: boolean) =>
    send<PoolDetail>("POST", path`pools/${pool}/${paused ? "pause" : "resume"}`),

  createQueue: (pool: string, body: Partial<NewQueue> & Pick<NewQueue, "name">) =>
    send<QueueAnswer>("POST", path`pools/${pool}/queues`, { body }),
  updateQueue: (pool: string, queue: string, body: Partial<QueueChange>) =>
    send<QueueAnswer>("PATCH", path`pools/${pool}/queues/${queue}`, { body }),
  deleteQueue: (pool: string, queue: string) => send<void>("DELETE", path`pools/${pool}/queues/${queue}`),
  pauseQueue: (pool: string, queue: string, paused: boolean) =>
    send<QueueAnswer>("POST", path`pools/${pool}/queues/${queue}/${paused ? "pause" : "resume"}`),

  workers: (pool: string, stopped: boolean, cursor?: string, signal?: Signal) =>
    read<WorkerList>(path`pools/${pool}/workers`, { stopped, cursor }, signal),
  drainWorker: (pool: string, worker: string, drain: boolean) =>
    send<Worker>("POST", path`pools/${pool}/workers/${worker}/${drain ? "drain" : "resume"}`),

  tokens: (pool: string, cursor?: string, signal?: Signal) =>
    read<TokenList>(path`pools/${pool}/tokens`, { cursor }, signal),
  createToken: (pool: string, body: Partial<NewToken>) =>
    send<TokenMade>("POST", path`pools/${pool}/tokens`, { body }),
  revokeToken: (pool: string, id: string) => send<void>("DELETE", path`pools/${pool}/tokens/${id}`),

  jobs: (pool: string, filter: JobFilter, cursor?: string, signal?: Signal) =>
    read<JobList>(path`pools/${pool}/jobs`, { ...filter, cursor, limit: 25 }, signal),
  job: (id: string, signal?: Signal) => read<JobDetail>(path`jobs/${id}`, {}, signal),
  cancelJob: (id: string, reason: string | null) =>
    send<JobDetail>("POST", path`jobs/${id}/cancel`, { body: { reason } }),

  explain: (task: TaskRef, signal?: Signal) => read<Explanation>("explain", { ...task }, signal),
  statistics: (pool: string, window: Window, signal?: Signal) =>
    read<Statistics>(path`pools/${pool}/statistics`, { window }, signal),
  dashboard: (signal?: Signal) => read<Dashboard>("dashboard", {}, signal),

  types: (signal?: Signal) => read<InfrastructureTypes>("infrastructure-types", {}, signal),
  template: (pool: string, signal?: Signal) => read<TemplateAnswer>(path`pools/${pool}/template`, {}, signal),
  putTemplate: (pool: string, template: Object | null) =>
    send<TemplateAnswer>("PUT", path`pools/${pool}/template`, { body: { base_job_template: template } }),
  validate: (type: string, template: Object, signal?: Signal) =>
    send<Validation>("POST", "templates/validate", {
      body: { type, base_job_template: template },
      ...(signal && { signal }),
    }),
  preview: (
    pool: string,
    body: { queue: string; job_variables: Object; base_job_template: Object | null },
    signal?: Signal,
  ) => send<Preview>("POST", path`pools/${pool}/preview`, { body, ...(signal && { signal }) }),
};
