// SPDX-License-Identifier: Apache-2.0
import { Box, Heading, HStack, Stack, Table, Text } from "@chakra-ui/react";

import { api } from "../api/calls";
import { DataTable, PageLink } from "../components/parts";
import { SlotsBar } from "../components/SlotsBar";
import { Shown } from "../components/states";
import { Status } from "../components/Status";
import { counted } from "../format";
import { useLive } from "../hooks/useLive";
import { listLink, poolLink } from "../links";

/** A panel of Airflow's home page: all work pools at a glance, those first that need attention. */
export function Dashboard() {
  const live = useLive("dashboard", (signal) => api.dashboard(signal), { seconds: 10 });
  // Who may not see work pools need not read that on the home page.
  if (live.data === undefined && live.error) return null;
  if (live.data?.pools === 0) return null;
  return (
    <Box as="section" aria-label="Work pools" data-workpools="dashboard" mb={2}>
      <HStack justify="space-between" mb={2} wrap="wrap">
        <Heading as="h2" size="md">
          <PageLink to={listLink()}>Work pools</PageLink>
        </Heading>
        {live.data && (
          <Text color="fg.muted" fontSize="sm">
            {[
              `${live.data.ready} of ${counted(live.data.pools, "pool")} ready`,
              `${live.data.running} running`,
              `${live.data.waiting} waiting`,
              `${counted(live.data.workers_online, "worker")} online`,
            ].join(" · ")}
          </Text>
        )}
      </HStack>
      <Shown live={live} rows={3}>
        {(dashboard) => (
          <Stack gap={1}>
            <DataTable head={["Work pool", "Status", "Slots", "Waiting", "Workers online"]} label="Work pools at a glance">
              {dashboard.rows.map((row) => (
                <Table.Row key={row.name}>
                  <Table.Cell>
                    <PageLink to={poolLink(row.name)}>{row.name}</PageLink>
                  </Table.Cell>
                  <Table.Cell>
                    <Status reason={row.reason} status={row.status} />
                  </Table.Cell>
                  <Table.Cell>
                    <SlotsBar label={row.name} limit={row.concurrency_limit} used={row.slots_used} />
                  </Table.Cell>
                  <Table.Cell>{row.waiting}</Table.Cell>
                  <Table.Cell>{row.workers_online}</Table.Cell>
                </Table.Row>
              ))}
            </DataTable>
          </Stack>
        )}
      </Shown>
    </Box>
  );
}
