// SPDX-License-Identifier: Apache-2.0
import { Box, HStack, NativeSelect, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type Pool, type Statistics, type Window } from "../api/calls";
import { busiest, TimeChart } from "../components/charts";
import { DataTable } from "../components/parts";
import { Shown } from "../components/states";
import { counted, duration } from "../format";
import { useLive } from "../hooks/useLive";

const WINDOWS: Record<Window, string> = {
  "1h": "the last hour",
  "6h": "the last 6 hours",
  "24h": "the last 24 hours",
  "7d": "the last 7 days",
};

const WAITS = {
  p95: { label: "wait: 95th percentile (p95)", title: "Wait for a slot, 95th percentile" },
  p50: { label: "wait: median (p50)", title: "Wait for a slot, median" },
} as const;
type Percentile = keyof typeof WAITS;

/** How the pool was used: slots by queue against the limit, and how long jobs waited. */
export function StatisticsCharts({ pool }: { pool: Pool }) {
  const [window, setWindow] = useState<Window>("1h");
  const [percentile, setPercentile] = useState<Percentile>("p95");
  const live = useLive(`statistics ${pool.name} ${window}`, (signal) => api.statistics(pool.name, window, signal), {
    seconds: 20,
  });
  return (
    <Stack as="section" aria-label="Statistics" borderRadius="md" borderWidth="1px" gap={3} p={4}>
      <HStack justify="end" wrap="wrap">
        <Choice
          change={(value) => setPercentile(value as Percentile)}
          label="Wait times shown"
          options={Object.entries(WAITS).map(([value, { label }]) => [value, label])}
          value={percentile}
        />
        <Choice change={(value) => setWindow(value as Window)} label="Time shown" options={Object.entries(WINDOWS)} value={window} />
      </HStack>
      <Shown live={live} rows={3}>
        {(statistics) => <Charts percentile={percentile} statistics={statistics} />}
      </Shown>
    </Stack>
  );
}

function Choice({
  label,
  value,
  options,
  change,
}: {
  label: string;
  value: string;
  options: readonly (readonly [string, string])[];
  change: (value: string) => void;
}) {
  return (
    <NativeSelect.Root size="xs" width="auto">
      <NativeSelect.Field aria-label={label} onChange={(event) => change(event.target.value)} value={value}>
        {options.map(([one, shown]) => (
          <option key={one} value={one}>
            {shown}
          </option>
        ))}
      </NativeSelect.Field>
      <NativeSelect.Indicator />
    </NativeSelect.Root>
  );
}

function Charts({ statistics, percentile }: { statistics: Statistics; percentile: Percentile }) {
  const { since, bucket_seconds, queues } = statistics;
  const count = queues[0]?.slots.length ?? 0;
  const times = Array.from({ length: count }, (_, i) => Date.parse(since) + (i + 0.5) * bucket_seconds * 1000);
  const slots = busiest(queues.map((queue) => ({ name: queue.name, values: queue.slots })));
  // The same queues in the same colours; times of several can't be added up.
  const drawn = slots.flatMap(({ name }) => queues.filter((queue) => queue.name === name));
  return (
    <SimpleGrid columns={{ base: 1, lg: 2 }} gap={6}>
      <TimeChart
        limit={statistics.concurrency_limit}
        series={slots}
        show={(value) => String(Number(value.toFixed(1)))}
        stacked
        times={times}
        title="Slots in use, by queue"
      />
      <Stack gap={1} minW={0}>
        <TimeChart
          series={drawn.map((queue) => ({
            name: queue.name,
            values: percentile === "p95" ? queue.wait_p95_seconds : queue.wait_p50_seconds,
          }))}
          show={duration}
          times={times}
          title={WAITS[percentile].title}
        />
        {drawn.length < queues.length && (
          <Text color="fg.muted" fontSize="xs">
            Of the {drawn.length} busiest queues; the table has all.
          </Text>
        )}
      </Stack>
      <Box gridColumn="1 / -1" minW={0}>
        <DataTable head={["Queue", "Half wait up to (p50)", "95 % wait up to (p95)"]} label="Wait by queue">
          {queues.map((queue) => (
            <Table.Row key={queue.name}>
              <Table.Cell overflowWrap="anywhere">{queue.name}</Table.Cell>
              <Table.Cell>{duration(queue.window_wait_p50_seconds)}</Table.Cell>
              <Table.Cell>{duration(queue.window_wait_p95_seconds)}</Table.Cell>
            </Table.Row>
          ))}
        </DataTable>
        <Text color="fg.muted" fontSize="xs" mt={1}>
          From hand-over to claim, of {counted(statistics.wait_sample, "job")}.
        </Text>
      </Box>
    </SimpleGrid>
  );
}
