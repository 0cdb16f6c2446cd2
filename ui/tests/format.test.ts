// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";

import { ago, between, counted, duration, words } from "../src/format";

test.each([
  [0, "0 s"],
  [0.0402, "40 ms"],
  [1.23, "1.2 s"],
  [12.4, "12 s"],
  [185, "3 min 5 s"],
  [7800, "2 h 10 min"],
  [3600, "1 h"],
  [356_400, "4 d 3 h"],
  [null, "–"],
  [-3, "0 s"],
])("%s seconds are %s", (seconds, shown) => {
  expect(duration(seconds)).toBe(shown);
});

test("times are told from now, or between two", () => {
  const now = Date.parse("2026-01-01T00:01:00Z");
  expect(ago("2026-01-01T00:00:30Z", now)).toBe("30 s ago");
  expect(ago("2026-01-01T00:00:59.400Z", now)).toBe("just now");
  expect(ago(null, now)).toBe("never");
  expect(between("2026-01-01T00:00:10Z", null, now)).toBe(50);
  expect(between("2026-01-01T00:00:10Z", "2026-01-01T00:00:12Z", now)).toBe(2);
  expect(between(null, null, now)).toBeNull();
});

test("words", () => {
  expect(counted(1, "worker")).toBe("1 worker");
  expect(counted(1200, "job")).toBe("1,200 jobs");
  expect(words("NOT_READY")).toBe("not ready");
});
