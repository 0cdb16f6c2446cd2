// SPDX-License-Identifier: Apache-2.0

/** A number of things, in words: "1 worker", "3 workers". */
export function counted(number: number, word: string): string {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

/** A duration as people say it: "440 ms", "1.2 s", "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, seconds);
  if (whole > 0 && whole < 1) return `${Math.max(1, Math.round(whole * 1000))} ms`;
  if (whole < 10) return `${Number(whole.toFixed(1))} s`;
  const total = Math.round(whole);
  if (total < 60) return `${total} s`;
  if (total < 3600) return pair(Math.floor(total / 60), "min", total % 60, "s");
  if (total < 86_400) return pair(Math.floor(total / 3600), "h", Math.floor((total % 3600) / 60), "min");
  return pair(Math.floor(total / 86_400), "d", Math.floor((total % 86_400) / 3600), "h");
}

function pair(first: number, unit: string, second: number, smaller: string): string {
  return second === 0 ? `${first} ${unit}` : `${first} ${unit} ${second} ${smaller}`;
}

/** How long ago a time was. */
export function ago(time: string | null | undefined, now: number = Date.now()): string {
  if (!time) return "never";
  const seconds = (now - Date.parse(time)) / 1000;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

/** Seconds between two times; until now where the second is not there yet. */
export function between(from: string | null | undefined, to: string | null | undefined, now: number): number | null {
  if (!from) return null;
  return Math.max(0, ((to ? Date.parse(to) : now) - Date.parse(from)) / 1000);
}

/** A time of day, with the date where that is another than today's. */
export function clock(time: string | number, now: number = Date.now()): string {
  const when = new Date(time);
  const sameDay = when.toDateString() === new Date(now).toDateString();
  return sameDay ? when.toLocaleTimeString() : when.toLocaleString();
}

/** A word of the API as people read it: "not_ready" is "not ready". */
export function words(name: string): string {
  return name.replaceAll("_", " ").toLowerCase();
}

export function json(value: unknown): string {
  return JSON.stringify(value, null, 2);
}
