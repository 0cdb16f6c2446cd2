// SPDX-License-Identifier: Apache-2.0
import { Alert, Box, Button, Heading, HStack, SimpleGrid, Stack, Tabs, Text } from "@chakra-ui/react";
import { useState } from "react";
import { useNavigate } from "react-router-dom";

import { api, type PoolDetail } from "../api/calls";
import { ConfirmButton } from "../components/dialogs";
import { Fact, PageLink } from "../components/parts";
import { SlotsBar } from "../components/SlotsBar";
import { Shown } from "../components/states";
import { Status } from "../components/Status";
import { duration } from "../format";
import { useLive } from "../hooks/useLive";
import { listLink, poolLink, TABS, type Tab } from "../links";
import { JobsTab } from "./JobsTab";
import { EditPool } from "./PoolForm";
import { PauseButton } from "./PoolList";
import { QueuesTab } from "./QueuesTab";
import { StatisticsCharts } from "./StatisticsCharts";
import { TemplateTab } from "./TemplateTab";
import { TokensTab } from "./TokensTab";
import { WorkersTab } from "./WorkersTab";

/** One work pool. Together with its tab and its charts it asks less than once in two seconds. */
export function PoolPage({ name, tab }: { name: string; tab: Tab }) {
  const live = useLive(`pool ${name}`, (signal) => api.pool(name, signal), { seconds: 5 });
  return (
    <Stack gap={4}>
      <Box as="nav" aria-label="Breadcrumb" fontSize="sm">
        <PageLink to={listLink()}>Work pools</PageLink>
        <Text as="span" color="fg.muted">
          {" / "}
          {name}
        </Text>
      </Box>
      <Shown live={live}>{(pool) => <Loaded pool={pool} reload={live.reload} tab={tab} />}</Shown>
    </Stack>
  );
}

function Loaded({ pool, tab, reload }: { pool: PoolDetail; tab: Tab; reload: () => void }) {
  const navigate = useNavigate();
  const show: Record<Tab, () => React.ReactNode> = {
    queues: () => (
      <Stack gap={5}>
        <QueuesTab pool={pool} reload={reload} />
        <StatisticsCharts pool={pool} />
      </Stack>
    ),
    jobs: () => <JobsTab pool={pool} />,
    workers: () => <WorkersTab pool={pool} />,
    template: () => <TemplateTab pool={pool} reload={reload} />,
    tokens: () => <TokensTab pool={pool} />,
  };
  return (
    <Stack gap={5}>
      <Head pool={pool} reload={reload} />
      <Tabs.Root
        lazyMount
        onValueChange={({ value }) => void navigate(poolLink(pool.name, value as Tab), { replace: true })}
        unmountOnExit
        value={tab}
      >
        <Box overflowX="auto">
          <Tabs.List minW="max-content">
            {TABS.map((one) => (
              <Tabs.Trigger key={one} textTransform="capitalize" value={one}>
                {one}
              </Tabs.Trigger>
            ))}
          </Tabs.List>
        </Box>
        {TABS.map((one) => (
          <Tabs.Content key={one} value={one}>
            {one === tab && show[one]()}
          </Tabs.Content>
        ))}
      </Tabs.Root>
    </Stack>
  );
}

function Head({ pool, reload }: { pool: PoolDetail; reload: () => void }) {
  const navigate = useNavigate();
  const [editing, setEditing] = useState(false);
  const mayChange = pool.may_edit && !pool.read_only;
  const why = pool.read_only ? `Its definition is in ${pool.declared_in}: change it there.` : "You may look at this work pool, but not change it.";
  return (
    <Stack gap={4}>
      <HStack align="start" justify="space-between" wrap="wrap">
        <Box minW={0}>
          <Heading as="h1" overflowWrap="anywhere" size="xl">
            {pool.name}
          </Heading>
          {pool.description && (
            <Text color="fg.muted" overflowWrap="anywhere">
              {pool.description}
            </Text>
          )}
        </Box>
        <HStack wrap="wrap">
          <PauseButton pool={pool} reload={reload} />
          <Button disabled={!mayChange} onClick={() => setEditing(true)} size="xs" title={mayChange ? undefined : why} variant="outline">
            Edit
          </Button>
          <ConfirmButton
            act={() => api.deletePool(pool.name)}
            danger
            disabled={!mayChange}
            done={() => void navigate(listLink())}
            label="Delete"
            title={`Delete work pool ${pool.name}?`}
            verb="Delete"
            why={why}
          >
            Its queues go with it. Tasks that name it will fail with the reason. A pool that still has jobs is not deleted.
          </ConfirmButton>
        </HStack>
      </HStack>
      {pool.read_only && (
        <Alert.Root size="sm" status="info">
          <Alert.Indicator />
          <Alert.Content>
            <Alert.Description overflowWrap="anywhere">
              This pool is read-only here: its definition is in {pool.declared_in}. It can be paused and resumed all the same.
            </Alert.Description>
          </Alert.Content>
        </Alert.Root>
      )}
      <SimpleGrid as="dl" columns={{ base: 2, md: 4, xl: 8 }} gap={4}>
        <Fact name="Status">
          <Status reason={pool.reason} status={pool.status} />
        </Fact>
        <Fact name="Slots in use">
          <SlotsBar label={pool.name} limit={pool.concurrency_limit} used={pool.slots_used} />
        </Fact>
        <Fact name="Running jobs">{pool.running}</Fact>
        <Fact name="Waiting">{pool.waiting}</Fact>
        <Fact name="Workers online">
          {pool.workers_online} of {pool.workers}
          {pool.capacity !== null && (
            <Text color="fg.muted" fontSize="xs">
              {pool.capacity_free} of {pool.capacity} slots free
            </Text>
          )}
        </Fact>
        <Fact name="Type">
          {pool.type ?? "–"}
          {pool.delivery && ` · ${pool.delivery}`}
        </Fact>
        <Fact name="Start timeout">{duration(pool.start_timeout_seconds)}</Fact>
        <Fact name="Declared in">{pool.declared_in}</Fact>
        {pool.infrastructure_conn_id && <Fact name="Infrastructure connection">{pool.infrastructure_conn_id}</Fact>}
        {pool.team_name && <Fact name="Team">{pool.team_name}</Fact>}
      </SimpleGrid>
      {editing && <EditPool close={() => setEditing(false)} done={reload} open pool={pool} />}
    </Stack>
  );
}
