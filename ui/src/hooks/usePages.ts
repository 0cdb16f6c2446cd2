// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from "react";

export interface Pages {
  /** Of the page that is shown; none for the first. */
  readonly cursor: string | undefined;
  readonly number: number;
  readonly next: (cursor: string) => void;
  readonly back: () => void;
}

/** Where in a list that comes in pages one is; another key begins at the first page. */
export function usePages(key = ""): Pages {
  const [cursors, setCursors] = useState<readonly string[]>([]);
  useEffect(() => setCursors([]), [key]);
  return {
    cursor: cursors.at(-1),
    number: cursors.length + 1,
    next: (cursor) => setCursors((before) => [...before, cursor]),
    back: () => setCursors((before) => before.slice(0, -1)),
  };
}
