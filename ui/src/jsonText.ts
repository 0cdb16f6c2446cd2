// SPDX-License-Identifier: Apache-2.0

export interface Parsed {
  readonly value?: unknown;
  readonly error?: { readonly line: number; readonly message: string };
}

/** Read JSON, and say in which line it ends to be some. */
export function parseJson(text: string): Parsed {
  try {
    return { value: JSON.parse(text) as unknown };
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    return { error: { line: lineAt(text, errorPosition(text, said)), message: "this is no JSON" + reason(said) } };
  }
}

function reason(said: string): string {
  const what = /^(.*?)(?: in JSON)?(?: at (?:position|line).*)?$/.exec(said.split("\n")[0] ?? "")?.[1] ?? "";
  return what ? ` (${what.replace(/, ".*$/, "")})` : "";
}

/** Browsers say where in words of their own, or not at all. */
function errorPosition(text: string, said: string): number {
  const position = /position (\d+)/.exec(said)?.[1];
  if (position !== undefined) return Number(position);
  const line = /line (\d+)/.exec(said)?.[1];
  if (line !== undefined) return text.split("\n").slice(0, Number(line) - 1).join("\n").length + 1;
  return text.length;
}

function lineAt(text: string, position: number): number {
  return text.slice(0, position).split("\n").length;
}

/** The parts of a JSON pointer, like `/variables/properties/a~1b`. */
export function pointerParts(pointer: string): string[] {
  if (!pointer.startsWith("/")) return [];
  return pointer
    .slice(1)
    .split("/")
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** The line of a JSON text in which what a pointer names begins; of its nearest parent where there is no such thing. */
export function lineOf(text: string, pointer: string): number {
  const wanted = pointerParts(pointer);
  let best = { depth: 0, position: 0 };
  walk(text, (at, position) => {
    const depth = at.length;
    if (depth > best.depth && depth <= wanted.length && at.every((part, index) => part === wanted[index])) {
      best = { depth, position };
    }
  });
  return lineAt(text, best.position);
}

/** Call for each key and item of a JSON text, with its path and position. What is wrong ends it. */
function walk(text: string, see: (path: readonly string[], position: number) => void): void {
  let at = 0;
  const space = () => {
    while (/\s/.test(text[at] ?? "")) at += 1;
  };
  const string = (): string => {
    const start = at;
    at += 1;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at += 1;
    return JSON.parse(text.slice(start, at)) as string;
  };
  const value = (path: readonly string[]): void => {
    space();
    if (text[at] === "{") {
      at += 1;
      for (space(); at < text.length && text[at] !== "}"; space()) {
        const position = at;
        const key = string();
        see([...path, key], position);
        space();
        at += 1; // the colon
        value([...path, key]);
        space();
        if (text[at] === ",") at += 1;
      }
      at += 1;
    } else if (text[at] === "[") {
      at += 1;
      for (let index = 0; space(), at < text.length && text[at] !== "]"; index += 1) {
        see([...path, String(index)], at);
        value([...path, String(index)]);
        space();
        if (text[at] === ",") at += 1;
      }
      at += 1;
    } else if (text[at] === '"') {
      string();
    } else {
      while (at < text.length && !/[,\]}\s]/.test(text[at] ?? "")) at += 1;
    }
  };
  try {
    value([]);
  } catch {
    // What was found so far is what there is.
  }
}
