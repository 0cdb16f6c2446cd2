// SPDX-License-Identifier: Apache-2.0
import { Box, Button, Heading, HStack, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";
import { useNavigate } from "react-router-dom";

import { api, type Pool } from "../api/calls";
import { Sparkline } from "../components/charts";
import { ConfirmButton } from "../components/dialogs";
import { DataTable, PageLink, Pager } from "../components/parts";
import { SlotsBar } from "../components/SlotsBar";
import { Nothing, Shown } from "../components/states";
import { Status } from "../components/Status";
import { counted } from "../format";
import { useLive } from "../hooks/useLive";
import { usePages } from "../hooks/usePages";
import { poolLink } from "../links";
import { CreatePool } from "./PoolForm";

const HEAD = ["Work pool", "Status", "Type", "Slots", "Waiting", "Workers online", "Last hour", "Actions"];

export function PoolList() {
  const pages = usePages();
  const live = useLive(`pools ${pages.cursor}`, (signal) => api.pools(pages.cursor, signal), { seconds: 4 });
  const [creating, setCreating] = useState(false);
  const navigate = useNavigate();
  const mayCreate = live.data?.may_create ?? false;

  return (
    <Stack gap={4}>
      <HStack justify="space-between" wrap="wrap">
        <Heading as="h1" size="xl">
          Work pools
        </Heading>
        <Button
          colorPalette="blue"
          disabled={!mayCreate}
          onClick={() => setCreating(true)}
          size="sm"
          title={live.data && !mayCreate ? "You may look at work pools, but not create them." : undefined}
        >
          Create work pool
        </Button>
      </HStack>
      <Shown live={live}>
        {(list) =>
          list.pools.length === 0 ?
            <Nothing title="There are no work pools yet">
              {mayCreate ?
                "Create one here, as an Airflow connection of type workpool, or with airflow workpools create."
              : "Or none that you may see."}
            </Nothing>
          : <>
              <DataTable head={HEAD} label="Work pools">
                {list.pools.map((pool) => (
                  <Row key={pool.name} pool={pool} reload={live.reload} />
                ))}
              </DataTable>
              <Pager next={list.next_cursor} pages={pages} shown={counted(list.total, "work pool")} />
            </>
        }
      </Shown>
      {creating && (
        <CreatePool
          close={() => setCreating(false)}
          done={(pool) => void navigate(poolLink(pool.name))}
          open
          teams={live.data?.teams ?? []}
        />
      )}
    </Stack>
  );
}

function Row({ pool, reload }: { pool: Pool; reload: () => void }) {
  return (
    <Table.Row>
      <Table.Cell minW="10rem">
        <PageLink strong to={poolLink(pool.name)}>
          {pool.name}
        </PageLink>
        {pool.description && (
          <Text color="fg.muted" fontSize="xs" maxW="24rem" overflowWrap="anywhere">
            {pool.description}
          </Text>
        )}
      </Table.Cell>
      <Table.Cell>
        <Status reason={pool.reason} status={pool.status} />
      </Table.Cell>
      <Table.Cell whiteSpace="nowrap">
        {pool.type ?? "–"}
        {pool.delivery === "pull" && " · pull"}
        {pool.team_name && (
          <Text color="fg.muted" fontSize="xs">
            team {pool.team_name}
          </Text>
        )}
      </Table.Cell>
      <Table.Cell>
        <SlotsBar label={pool.name} limit={pool.concurrency_limit} used={pool.slots_used} />
      </Table.Cell>
      <Table.Cell fontVariantNumeric="tabular-nums">{pool.waiting.toLocaleString("en")}</Table.Cell>
      <Table.Cell fontVariantNumeric="tabular-nums">{pool.workers_online}</Table.Cell>
      <Table.Cell>
        <Box width="100px">
          <Sparkline label={`Slots in use in ${pool.name} over the last hour`} values={pool.sparkline} />
        </Box>
      </Table.Cell>
      <Table.Cell>
        <PauseButton pool={pool} reload={reload} />
      </Table.Cell>
    </Table.Row>
  );
}

export function PauseButton({ pool, reload }: { pool: Pool; reload: () => void }) {
  return (
    <ConfirmButton
      act={() => api.pausePool(pool.name, !pool.paused)}
      disabled={!pool.may_operate}
      done={reload}
      label={pool.paused ? "Resume" : "Pause"}
      title={pool.paused ? `Resume work pool ${pool.name}?` : `Pause work pool ${pool.name}?`}
      verb={pool.paused ? "Resume" : "Pause"}
      why="You may look at this work pool, but not change it."
    >
      {pool.paused ?
        `Its jobs may start again: ${counted(pool.waiting, "task")} wait.`
      : `What runs in it goes on; nothing more starts until it is resumed.`}
    </ConfirmButton>
  );
}
