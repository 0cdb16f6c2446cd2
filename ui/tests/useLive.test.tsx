// SPDX-License-Identifier: Apache-2.0
import { act, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { useLive } from "../src/hooks/useLive";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  hide(false);
  vi.useRealTimers();
});

const pass = (seconds: number) => act(() => vi.advanceTimersByTimeAsync(seconds * 1000));

function hide(hidden: boolean) {
  Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}

test("it asks once per pause, and not while nobody looks", async () => {
  const load = vi.fn(() => Promise.resolve(load.mock.calls.length));
  const { result } = renderHook(() => useLive("a", load, { seconds: 4 }));
  await pass(0);
  expect(result.current.data).toBe(1);
  await pass(8.5);
  expect(load).toHaveBeenCalledTimes(3);

  hide(true);
  await pass(60);
  expect(load).toHaveBeenCalledTimes(3);

  hide(false);
  await pass(0);
  expect(load).toHaveBeenCalledTimes(4);
});

test("a failure keeps the old answer, says what is wrong, and asks less and less often", async () => {
  const load = vi.fn<() => Promise<string>>().mockResolvedValueOnce("good").mockRejectedValue(new Error("broken"));
  const { result } = renderHook(() => useLive("a", load, { seconds: 2 }));
  await pass(0);
  await pass(2);
  expect(result.current).toMatchObject({ data: "good", error: { message: "broken" } });
  const before = load.mock.calls.length;
  await pass(60);
  expect(load.mock.calls.length - before).toBeLessThan(7);
  load.mockResolvedValue("better");
  act(() => result.current.reload());
  await pass(0);
  expect(result.current).toMatchObject({ data: "better", error: undefined });
});

test("another key forgets the old answer, even one that comes late", async () => {
  const answers: Record<string, (value: string) => void> = {};
  const load = (key: string) => () => new Promise<string>((resolve) => (answers[key] = resolve));
  const { result, rerender } = renderHook(({ key }) => useLive(key, load(key)), { initialProps: { key: "a" } });
  rerender({ key: "b" });
  answers["b"]?.("of b");
  await pass(0);
  answers["a"]?.("of a");
  await pass(0);
  expect(result.current.data).toBe("of b");
});
