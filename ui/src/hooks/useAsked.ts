// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef, useState } from "react";

/**
 * Asks once for what a key stands for, when it has not changed for a moment: people are typing.
 *
 * The old answer stays until there is a new one. Without a key nothing is asked, and there is no answer.
 */
export function useAsked<T>(
  key: string | undefined,
  load: (signal: AbortSignal) => Promise<T>,
  { pause = 500 }: { pause?: number } = {},
): { data: T | undefined; error: Error | undefined } {
  const [state, setState] = useState<{ data?: T; error?: Error }>({});
  const loader = useRef(load);
  loader.current = load;
  useEffect(() => {
    if (key === undefined) {
      setState({});
      return;
    }
    const running = new AbortController();
    const timer = setTimeout(() => {
      loader.current(running.signal).then(
        (data) => !running.signal.aborted && setState({ data }),
        (error: unknown) =>
          !running.signal.aborted && setState({ error: error instanceof Error ? error : new Error(String(error)) }),
      );
    }, pause);
    return () => {
      clearTimeout(timer);
      running.abort();
    };
  }, [key, pause]);
  return { data: state.data, error: state.error };
}
