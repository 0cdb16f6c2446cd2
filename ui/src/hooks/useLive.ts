// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useRef, useState } from "react";

export interface Live<T> {
  /** The newest answer; what is asked for has changed where it is missing. */
  readonly data: T | undefined;
  /** What went wrong the last time; the data is then as old as the answer before. */
  readonly error: Error | undefined;
  /** Ask again now, for one. */
  readonly reload: () => void;
}

const LONGEST_SECONDS = 30;

/**
 * Asks for something again and again, as long as the page is seen.
 *
 * One request at a time; the next is counted from the answer. After a failure the pauses become longer.
 *
 * @param key says what is asked for: where it changes, all begins anew.
 */
export function useLive<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  { seconds = 4, enabled = true }: { seconds?: number; enabled?: boolean } = {},
): Live<T> {
  const [state, setState] = useState<{ key: string; data?: T | undefined; error?: Error | undefined }>({ key });
  const loader = useRef(load);
  loader.current = load;
  const ask = useRef<() => void>(() => undefined);

  useEffect(() => {
    if (!enabled) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let running: AbortController | undefined;
    let failures = 0;
    let over = false;

    const later = () => {
      clearTimeout(timer);
      if (over || document.hidden) return;
      const pause = failures === 0 ? seconds : Math.max(seconds, Math.min(2 ** failures, LONGEST_SECONDS));
      timer = setTimeout(() => void now(), pause * 1000);
    };
    const now = async () => {
      clearTimeout(timer);
      running?.abort();
      const mine = new AbortController();
      running = mine;
      try {
        const data = await loader.current(mine.signal);
        if (mine.signal.aborted) return;
        failures = 0;
        setState({ key, data });
      } catch (error) {
        if (mine.signal.aborted) return;
        failures += 1;
        setState((before) => ({
          key,
          data: before.key === key ? before.data : undefined,
          error: error instanceof Error ? error : new Error(String(error)),
        }));
      }
      running = undefined;
      later();
    };
    const seen = () => {
      if (document.hidden) clearTimeout(timer);
      else if (running === undefined) void now();
    };

    ask.current = () => void now();
    document.addEventListener("visibilitychange", seen);
    void now();
    return () => {
      over = true;
      clearTimeout(timer);
      running?.abort();
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key, seconds, enabled]);

  const current = state.key === key ? state : { data: undefined, error: undefined };
  return { data: current.data, error: current.error, reload: useCallback(() => ask.current(), []) };
}
