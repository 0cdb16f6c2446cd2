// SPDX-License-Identifier: Apache-2.0
import type { components } from "./schema";

type Problem = components["schemas"]["Problem"];
type Fault = components["schemas"]["Fault"];

/** What the API said when it did not do what it was asked. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    /** Each thing that is wrong with what was sent, where there may be several. */
    readonly faults: readonly Fault[] = [],
  ) {
    super(message);
    this.name = "ApiError";
  }

  get forbidden(): boolean {
    return this.status === 403;
  }
}

const ROOT = "workpools/api/v1";

/** Where the API is: Airflow may be served under any path, which its pages name as their base. */
export function apiUrl(path: string, query: Query = {}): string {
  const url = new URL(`${ROOT}/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== "") url.searchParams.append(name, String(one));
    }
  }
  return url.href;
}

type Plain = string | number | boolean | undefined;
export type Query = Record<string, Plain | readonly Plain[]>;

/** Join names to a path; names may hold anything. */
export function path(parts: TemplateStringsArray, ...names: string[]): string {
  return String.raw({ raw: parts }, ...names.map(encodeURIComponent));
}

export async function read<T>(where: string, query?: Query, signal?: AbortSignal): Promise<T> {
  return send<T>("GET", where, { ...(query && { query }), ...(signal && { signal }) });
}

interface Sent {
  query?: Query;
  body?: unknown;
  signal?: AbortSignal;
}

export async function send<T>(method: string, where: string, { query, body, signal }: Sent = {}): Promise<T> {
  let response: Response;
  try {
    response = await fetch(apiUrl(where, query), {
      method,
      credentials: "same-origin",
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal && { signal }),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "Airflow's API server does not answer; it is asked again.");
  }
  const text = await response.text();
  const answer = parsed(text);
  if (!response.ok) throw refusal(response.status, answer);
  return answer as T;
}

function parsed(text: string): unknown {
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function refusal(status: number, answer: unknown): ApiError {
  if (status === 401) return new ApiError(status, "You are not logged in any more; load the page again.");
  const { detail, faults } = (typeof answer === "object" && answer !== null ? answer : {}) as Partial<Problem>;
  const said = typeof detail === "string" ? detail : `Airflow's API server answered with status ${status}.`;
  return new ApiError(status, said, Array.isArray(faults) ? faults : []);
}
