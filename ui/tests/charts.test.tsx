// SPDX-License-Identifier: Apache-2.0
import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { render, screen } from "@testing-library/react";
import { expect, test } from "vitest";

import { busiest, COLORS, niceTop, Sparkline, TimeChart } from "../src/components/charts";

test.each([
  [0.45, 0.5],
  [1, 1],
  [3, 3],
  [7, 8],
  [10, 10],
  [11, 20],
  [4200, 5000],
  [24, 30],
])("an axis for %s ends at %s", (highest, top) => {
  expect(niceTop(highest)).toBeCloseTo(top);
});

const draw = (chart: React.ReactElement) => render(<ChakraProvider value={defaultSystem}>{chart}</ChakraProvider>);

test("queues are stacked: the upper one begins where the lower one ends", () => {
  const { container } = draw(
    <TimeChart limit={4} series={[{ name: "a", values: [1, 1] }, { name: "b", values: [3, 0] }]} stacked times={[0, 1000]} title="t" />,
  );
  const [first, second] = [...container.querySelectorAll("path")].map((path) => path.getAttribute("d"));
  // The axis ends at 4, so that a slot is 40 high.
  expect(first).toBe("M0,120 L600,120 L600,160 L0,160 Z");
  expect(second).toBe("M0,0 L600,120 L600,120 L0,120 Z");
});

test("a line has gaps where nothing is known, and a value between gaps is a point", () => {
  const { container } = draw(<TimeChart series={[{ name: "a", values: [1, null, 1, 1] }]} times={[0, 1, 2, 3]} title="t" />);
  expect(container.querySelector("path")?.getAttribute("d")).toBe("M0,0 L0,0  M400,0 L600,0");
});

test("where there is nothing to draw, that is said", () => {
  draw(<Sparkline label="x" values={[]} />);
  expect(screen.getByText("no data yet")).toBeTruthy();
});

test("of more queues than colours the busiest are shown, in their order, and the others together", () => {
  const series = Array.from({ length: 20 }, (_, index) => ({ name: `q${index}`, values: [index, 1] }));
  const shown = busiest(series);
  expect(shown).toHaveLength(COLORS.length);
  expect(shown[0]?.name).toBe("q11");
  expect(shown.at(-1)).toEqual({ name: "11 others", values: [55, 11] });
  expect(busiest(series.slice(0, 10))).toEqual(series.slice(0, 10));
});
