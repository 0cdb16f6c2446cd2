// SPDX-License-Identifier: Apache-2.0
import { Box, HStack, NativeSelect, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type Pool, type Statistics, type Window } from "../api/calls";
import { TimeChart } from "../components/charts";
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

/** How the pool was used: slots by queue against the limit, and how long jobs waited. */
export function StatisticsCharts({ pool }: { pool: Pool }) {
  const [window, setWindow] = useState<Window>("1h");
  const live = useLive(`statistics ${pool.name} ${window}`, (signal) => api.statistics(pool.name, window, signal), {
    seconds: 20,
  });
  return (
    <Stack as="section" aria-label="Statistics" borderRadius="md" borderWidth="1px" gap={3} p={4}>
      <HStack justify="end">
        <NativeSelect.Root size="xs" width="auto">
          <NativeSelect.Field
            aria-label="Time shown"
            onChange={(event) => setWindow(event.target.value as Window)}
            value={window}
          >
            {Object.entries(WINDOWS).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </NativeSelect.Field>
          <NativeSelect.Indicator />
        </NativeSelect.Root>
      </HStack>
      <Shown live={live} rows={3}>
        {(statistics) => <Charts statistics={statistics} />}
      </Shown>
    </Stack>
  );
}

function Charts({ statistics }: { statistics: Statistics }) {
  const { since, bucket_seconds, queues } = statistics;
  const count = queues[0]?.slots.length ?? 0;
  const times = Array.from({ length: count }, (_, i) => Date.parse(since) + (i + 0.5) * bucket_seconds * 1000);
  return (
    <SimpleGrid columns={{ base: 1, lg: 2 }} gap={6}>
      <TimeChart
        limit={statistics.concurrency_limit}
        series={queues.map((queue) => ({ name: queue.name, values: queue.slots }))}
        show={(value) => String(Number(value.toFixed(1)))}
        stacked
        times={times}
        title="Slots in use, by queue"
      />
      <Stack gap={3} minW={0}>
        <TimeChart
          series={queues.map((queue) => ({ name: queue.name, values: queue.wait_p95_seconds }))}
          show={duration}
          times={times}
          title="Wait for a slot, 95th percentile"
        />
        <Box>
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
      </Stack>
    </SimpleGrid>
  );
}
