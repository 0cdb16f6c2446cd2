// SPDX-License-Identifier: Apache-2.0
import { Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type PoolDetail, type Worker } from "../api/calls";
import { ConfirmButton } from "../components/dialogs";
import { SwitchField } from "../components/fields";
import { DataTable, Pager } from "../components/parts";
import { SlotsBar } from "../components/SlotsBar";
import { Nothing, Shown } from "../components/states";
import { Status } from "../components/Status";
import { ago, counted } from "../format";
import { useLive } from "../hooks/useLive";
import { usePages } from "../hooks/usePages";

export function WorkersTab({ pool }: { pool: PoolDetail }) {
  const [stopped, setStopped] = useState(false);
  const key = `workers ${pool.name} ${stopped}`;
  const pages = usePages(key);
  const live = useLive(`${key} ${pages.cursor}`, (signal) => api.workers(pool.name, stopped, pages.cursor, signal), {
    seconds: 5,
  });
  return (
    <Stack gap={3}>
      <SwitchField change={setStopped} checked={stopped} label="Also those that have stopped" />
      <Shown live={live}>
        {(list) =>
          list.workers.length === 0 ?
            <Nothing title="No worker serves this pool">
              {pool.delivery === "pull" ?
                `Start one: airflow workpools worker start --pool ${pool.name}`
              : "The scheduler starts one of its own when it uses WorkPoolExecutor."}
            </Nothing>
          : <>
              <DataTable
                head={["Worker", "Status", "Slots", "Jobs", "Queues", "Last heard of", "Started", "Version", "Actions"]}
                label={`Workers of ${pool.name}`}
              >
                {list.workers.map((worker) => (
                  <Row key={worker.id} pool={pool} reload={live.reload} worker={worker} />
                ))}
              </DataTable>
              <Pager next={list.next_cursor} pages={pages} shown={counted(list.total, "worker")} />
            </>
        }
      </Shown>
    </Stack>
  );
}

function Row({ pool, worker, reload }: { pool: PoolDetail; worker: Worker; reload: () => void }) {
  return (
    <Table.Row>
      <Table.Cell minW="10rem">
        <Text fontWeight="semibold" overflowWrap="anywhere">
          {worker.name}
        </Text>
        <Text color="fg.muted" fontSize="xs" overflowWrap="anywhere">
          {worker.kind} on {worker.hostname}
          {worker.team_name && `, team ${worker.team_name}`}
        </Text>
      </Table.Cell>
      <Table.Cell>
        <Status reason={worker.hindrance} status={worker.status} />
      </Table.Cell>
      <Table.Cell>
        <SlotsBar label={worker.name} limit={worker.capacity} used={worker.slots_used} />
      </Table.Cell>
      <Table.Cell>{worker.jobs}</Table.Cell>
      <Table.Cell overflowWrap="anywhere">{worker.queues?.join(", ") ?? "all"}</Table.Cell>
      <Table.Cell whiteSpace="nowrap">{ago(worker.last_polled_at)}</Table.Cell>
      <Table.Cell whiteSpace="nowrap">{ago(worker.started_at)}</Table.Cell>
      <Table.Cell>{worker.version}</Table.Cell>
      <Table.Cell>
        {worker.status !== "STOPPED" && worker.kind === "standalone" && (
          <ConfirmButton
            act={() => api.drainWorker(pool.name, worker.id, !worker.draining)}
            disabled={!pool.may_operate}
            done={reload}
            label={worker.draining ? "Resume" : "Drain"}
            title={`${worker.draining ? "Resume" : "Drain"} worker ${worker.name}?`}
            verb={worker.draining ? "Resume" : "Drain"}
            why="You may look at this worker, but not change it."
          >
            {worker.draining ?
              "It takes jobs again."
            : "It takes no more jobs, of this pool and of any other; what it has runs on."}
          </ConfirmButton>
        )}
      </Table.Cell>
    </Table.Row>
  );
}
