// SPDX-License-Identifier: Apache-2.0
import { Box, chakra, HStack, Text } from "@chakra-ui/react";
import { useState, type PointerEvent } from "react";

import { clock } from "../format";

const Svg = chakra("svg");
const Path = chakra("path");
const Line = chakra("line");

/** Colours that can be told apart in light and dark, and by those who see few. */
export const COLORS = ["blue", "orange", "teal", "purple", "yellow", "pink", "cyan", "red", "green", "gray"] as const;

export function colorOf(index: number): string {
  return COLORS[index % COLORS.length] ?? "gray";
}

/** More lines than colours can't be told apart. */
export const MOST_SERIES = COLORS.length - 1;

const WIDTH = 600;
const HEIGHT = 160;

/** The newest value is at the right. */
export function Sparkline({ values, label }: { values: readonly number[]; label: string }) {
  if (values.length < 2) {
    return (
      <Text color="fg.muted" fontSize="xs">
        no data yet
      </Text>
    );
  }
  const most = Math.max(1, ...values);
  const points = values.map((value, index) => `${(index / (values.length - 1)) * 100},${22 - (value / most) * 20}`);
  return (
    <Svg
      aria-label={`${label}: from ${values[0]} to ${values.at(-1)}, at most ${Math.max(...values)}`}
      color="blue.solid"
      height="24px"
      preserveAspectRatio="none"
      role="img"
      viewBox="0 0 100 24"
      width="100px"
    >
      <Path d={`M0,24 L${points.join(" L")} L100,24 Z`} fill="currentColor" opacity={0.15} />
      <Path d={`M${points.join(" L")}`} fill="none" stroke="currentColor" strokeWidth={1.5} vectorEffect="non-scaling-stroke" />
    </Svg>
  );
}

export interface Series {
  readonly name: string;
  readonly values: readonly (number | null)[];
}

/** The largest as they are, in their order; what the others have together, as one more. */
export function busiest(series: readonly Series[]): Series[] {
  if (series.length <= COLORS.length) return [...series];
  const size = (one: Series) => one.values.reduce<number>((sum, value) => sum + (value ?? 0), 0);
  const shown = new Set([...series].sort((a, b) => size(b) - size(a)).slice(0, MOST_SERIES));
  const others = series.filter((one) => !shown.has(one));
  const count = series[0]?.values.length ?? 0;
  return [
    ...series.filter((one) => shown.has(one)),
    {
      name: `${others.length} others`,
      values: Array.from({ length: count }, (_, index) => others.reduce((sum, one) => sum + (one.values[index] ?? 0), 0)),
    },
  ];
}

interface ChartProps {
  readonly title: string;
  /** Milliseconds, ascending. */
  readonly times: readonly number[];
  readonly series: readonly Series[];
  /** A line across: a limit. */
  readonly limit?: number | null;
  readonly stacked?: boolean;
  readonly show?: (value: number) => string;
}

/** Values over time: one on top of the other, or each on its own. */
export function TimeChart({ title, times, series, limit = null, stacked = false, show = String }: ChartProps) {
  const [at, setAt] = useState<number>();
  if (times.length < 2) return <Text color="fg.muted">There is nothing to draw yet.</Text>;

  const sums = times.map((_, index) => series.reduce((sum, one) => sum + (one.values[index] ?? 0), 0));
  const highest = stacked ? Math.max(...sums) : Math.max(...series.flatMap((one) => one.values.map((value) => value ?? 0)));
  const top = niceTop(Math.max(highest, limit ?? 0, 1e-9));
  const first = times[0] ?? 0;
  const span = (times.at(-1) ?? 0) - first || 1;
  const x = (index: number) => (((times[index] ?? first) - first) / span) * WIDTH;
  const y = (value: number) => HEIGHT - (value / top) * HEIGHT;
  const shownAt = at ?? times.length - 1;

  const point = (event: PointerEvent<HTMLDivElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const time = first + ((event.clientX - box.left) / (box.width || 1)) * span;
    setAt(nearest(times, time));
  };

  return (
    <Box as="figure" m={0} minW={0}>
      <HStack justify="space-between" mb={2} wrap="wrap">
        <Text as="figcaption" fontWeight="semibold">
          {title}
        </Text>
        <Text color="fg.muted" fontSize="xs">
          {clock(times[shownAt] ?? first)}
        </Text>
      </HStack>
      <Box display="grid" gridTemplateColumns="auto 1fr" gap={2}>
        <Box color="fg.muted" display="flex" flexDirection="column" fontSize="xs" justifyContent="space-between" textAlign="end">
          <span>{show(top)}</span>
          <span>{show(0)}</span>
        </Box>
        <Box height="10rem" onPointerLeave={() => setAt(undefined)} onPointerMove={point} position="relative">
          <Svg
            aria-label={`${title}, ${spoken(series, shownAt, show)}${limit === null ? "" : `, limit ${show(limit)}`}`}
            height="100%"
            overflow="visible"
            preserveAspectRatio="none"
            role="img"
            viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
            width="100%"
          >
            {[0, 0.5, 1].map((share) => (
              <Line
                key={share}
                stroke="border"
                strokeWidth={1}
                vectorEffect="non-scaling-stroke"
                x1={0}
                x2={WIDTH}
                y1={HEIGHT * share}
                y2={HEIGHT * share}
              />
            ))}
            {series.map((one, index) => (
              <Path
                d={stacked ? area(series, index, x, y) : line(one.values, x, y)}
                fill={stacked ? `${colorOf(index)}.solid` : "none"}
                fillOpacity={0.7}
                key={one.name}
                stroke={`${colorOf(index)}.solid`}
                strokeLinecap="round"
                strokeLinejoin="round"
                strokeWidth={stacked ? 1 : 2}
                vectorEffect="non-scaling-stroke"
              />
            ))}
            {limit !== null && (
              <Line
                stroke="fg"
                strokeDasharray="6 4"
                strokeWidth={1.5}
                vectorEffect="non-scaling-stroke"
                x1={0}
                x2={WIDTH}
                y1={y(limit)}
                y2={y(limit)}
              />
            )}
            {at !== undefined && (
              <Line stroke="fg.muted" vectorEffect="non-scaling-stroke" x1={x(at)} x2={x(at)} y1={0} y2={HEIGHT} />
            )}
          </Svg>
        </Box>
      </Box>
      <HStack as="ul" columnGap={4} listStyleType="none" mt={2} rowGap={1} wrap="wrap">
        {series.map((one, index) => (
          <HStack as="li" fontSize="sm" gap={1.5} key={one.name}>
            <Box aria-hidden="true" bg={`${colorOf(index)}.solid`} borderRadius="sm" boxSize={2.5} />
            <span>{one.name}</span>
            <Text as="span" color="fg.muted" fontVariantNumeric="tabular-nums">
              {value(one, shownAt, show)}
            </Text>
          </HStack>
        ))}
        {limit !== null && (
          <HStack as="li" fontSize="sm" gap={1.5}>
            <Box aria-hidden="true" borderTopStyle="dashed" borderTopWidth="2px" borderColor="fg" width={4} />
            <span>limit</span>
            <Text as="span" color="fg.muted">
              {show(limit)}
            </Text>
          </HStack>
        )}
      </HStack>
    </Box>
  );
}

function value(series: Series, index: number, show: (value: number) => string): string {
  const found = series.values[index];
  return found === null || found === undefined ? "–" : show(found);
}

function spoken(series: readonly Series[], index: number, show: (value: number) => string): string {
  return series.map((one) => `${one.name} ${value(one, index, show)}`).join(", ");
}

function nearest(times: readonly number[], time: number): number {
  let best = 0;
  times.forEach((one, index) => {
    if (Math.abs(one - time) < Math.abs((times[best] ?? 0) - time)) best = index;
  });
  return best;
}

/** The least round number that is not below a value: 1, 2, 3, 4, 5, 6, 8, 10, 20, … */
export function niceTop(highest: number): number {
  const power = 10 ** Math.floor(Math.log10(highest));
  return ([1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= highest) ?? 10) * power;
}

function area(series: readonly Series[], upTo: number, x: (i: number) => number, y: (v: number) => number): string {
  const count = series[upTo]?.values.length ?? 0;
  const height = (index: number, until: number) =>
    series.slice(0, until).reduce((sum, one) => sum + (one.values[index] ?? 0), 0);
  const upper = Array.from({ length: count }, (_, i) => `${x(i)},${y(height(i, upTo + 1))}`);
  const lower = Array.from({ length: count }, (_, i) => `${x(i)},${y(height(i, upTo))}`).reverse();
  return `M${[...upper, ...lower].join(" L")} Z`;
}

/** A line with gaps where there are no values; a value between gaps is a point. */
function line(values: readonly (number | null)[], x: (i: number) => number, y: (v: number) => number): string {
  const known = (index: number) => values[index] !== null && values[index] !== undefined;
  return values
    .map((one, index) => {
      if (one === null) return "";
      const place = `${x(index)},${y(one)}`;
      if (known(index - 1)) return `L${place}`;
      return known(index + 1) ? `M${place}` : `M${place} L${place}`;
    })
    .join(" ");
}
