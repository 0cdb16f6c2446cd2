// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useRef, useState } from "react";

import { ApiError } from "../api/client";

export interface Action<A extends unknown[]> {
  readonly run: (...args: A) => Promise<boolean>;
  readonly busy: boolean;
  readonly error: Error | undefined;
  readonly clear: () => void;
}

/** Does something that changes Airflow, once at a time. `run` says whether it was done. */
export function useAction<A extends unknown[]>(act: (...args: A) => Promise<unknown>, after?: () => void): Action<A> {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const latest = useRef({ act, after });
  latest.current = { act, after };
  const mounted = useRef(true);
  useEffect(() => {
    mounted.current = true;
    return () => {
      mounted.current = false;
    };
  }, []);

  const run = useCallback(async (...args: A) => {
    setBusy(true);
    setError(undefined);
    try {
      await latest.current.act(...args);
      latest.current.after?.();
      return true;
    } catch (thrown) {
      if (mounted.current) setError(thrown instanceof Error ? thrown : new ApiError(0, String(thrown)));
      return false;
    } finally {
      if (mounted.current) setBusy(false);
    }
  }, []);
  return { run, busy, error, clear: useCallback(() => setError(undefined), []) };
}
