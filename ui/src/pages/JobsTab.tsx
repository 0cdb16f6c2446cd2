// SPDX-License-Identifier: Apache-2.0
import { Box, Button, HStack, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";
import { useSearchParams } from "react-router-dom";

import { api, type Job, type JobFilter, type JobState, type PoolDetail } from "../api/calls";
import { ConfirmButton } from "../components/dialogs";
import { SelectField, TextField } from "../components/fields";
import { JobFacts } from "../components/JobFacts";
import { Durations } from "../components/Durations";
import { DataTable, PageLink, Pager } from "../components/parts";
import { Nothing, Shown } from "../components/states";
import { Status } from "../components/Status";
import { ago, counted } from "../format";
import { useLive } from "../hooks/useLive";
import { usePages } from "../hooks/usePages";
import { explainLink, taskLink } from "../links";

const STATES: Record<string, readonly JobState[]> = {
  waiting: ["pending"],
  starting: ["claimed", "submitted"],
  running: ["running"],
  active: ["pending", "claimed", "submitted", "running"],
  succeeded: ["succeeded"],
  failed: ["failed"],
  cancelled: ["cancelled"],
};
const ENDED = new Set<JobState>(["succeeded", "failed", "cancelled"]);

/** Jobs of the pool; the filter is in the address. */
export function JobsTab({ pool }: { pool: PoolDetail }) {
  const [search, setSearch] = useSearchParams();
  const chosen = { state: search.get("state") ?? "", queue: search.get("queue") ?? "", dag: search.get("dag_id") ?? "" };
  const states = STATES[chosen.state];
  const filter: JobFilter = {
    ...(states && { state: states }),
    ...(chosen.queue && { queue: chosen.queue }),
    ...(chosen.dag && { dag_id: chosen.dag }),
  };
  const key = `jobs ${pool.name} ${JSON.stringify(filter)}`;
  const pages = usePages(key);
  const [dag, setDag] = useState(chosen.dag);
  const [open, setOpen] = useState<string>();
  const live = useLive(`${key} ${pages.cursor}`, (signal) => api.jobs(pool.name, filter, pages.cursor, signal), {
    seconds: 5,
  });

  const choose = (name: string, value: string) => {
    const next = new URLSearchParams(search);
    if (value) next.set(name, value);
    else next.delete(name);
    setSearch(next, { replace: true });
  };

  return (
    <Stack gap={3}>
      <SimpleGrid
        as="form"
        columns={{ base: 1, sm: 3 }}
        gap={3}
        maxW="48rem"
        onSubmit={(event) => {
          event.preventDefault();
          choose("dag_id", dag.trim());
        }}
      >
        <SelectField
          change={(value) => choose("state", value)}
          label="State"
          options={[{ value: "", label: "all" }, ...Object.keys(STATES).map((state) => ({ value: state, label: state }))]}
          value={chosen.state}
        />
        <SelectField
          change={(value) => choose("queue", value)}
          label="Queue"
          options={[{ value: "", label: "all" }, ...pool.queues.map(({ name }) => ({ value: name, label: name }))]}
          value={chosen.queue}
        />
        <TextField change={setDag} help="The whole id; Enter filters." label="DAG" value={dag} />
      </SimpleGrid>
      <Shown live={live}>
        {(list) =>
          list.jobs.length === 0 ?
            <Nothing title={pages.number > 1 ? "No more jobs" : "No jobs"}>
              {chosen.state || chosen.queue || chosen.dag ? "None that the filter lets through." : "Nothing was handed over to this pool yet."}
            </Nothing>
          : <>
              <DataTable
                head={["State", "Task", "Queue", "Waiting · starting · running", "Handed over", "Worker", "Actions"]}
                label={`Jobs of ${pool.name}`}
              >
                {list.jobs.map((job) => (
                  <Row job={job} key={job.id} open={open === job.id} reload={live.reload} toggle={() => setOpen(open === job.id ? undefined : job.id)} />
                ))}
              </DataTable>
              <Pager next={list.next_cursor} pages={pages} shown={counted(list.jobs.length, "job")} />
            </>
        }
      </Shown>
    </Stack>
  );
}

function Row({ job, open, toggle, reload }: { job: Job; open: boolean; toggle: () => void; reload: () => void }) {
  const stopping = job.desired_state !== null && !ENDED.has(job.state);
  return (
    <>
      <Table.Row>
        <Table.Cell>
          <Status reason={job.reason} status={job.state === "pending" ? "waiting" : job.state} />
          {stopping && <Text fontSize="xs">is being stopped</Text>}
        </Table.Cell>
        <Table.Cell minW="12rem">
          <PageLink to={taskLink(job)}>
            {job.dag_id}.{job.task_id}
            {job.map_index >= 0 && `[${job.map_index}]`}
          </PageLink>
          <Text color="fg.muted" fontSize="xs" overflowWrap="anywhere">
            {job.run_id}, try {job.try_number}
            {job.slots > 1 && `, ${job.slots} slots`}
          </Text>
        </Table.Cell>
        <Table.Cell overflowWrap="anywhere">{job.queue}</Table.Cell>
        <Table.Cell>
          <Durations job={job} />
        </Table.Cell>
        <Table.Cell whiteSpace="nowrap">{ago(job.handed_over_at)}</Table.Cell>
        <Table.Cell overflowWrap="anywhere">{job.worker ?? "–"}</Table.Cell>
        <Table.Cell>
          <HStack>
            <Button aria-expanded={open} aria-label={`Details of job ${job.id}`} onClick={toggle} size="xs" variant="outline">
              {open ? "Hide" : "Details"}
            </Button>
            <PageLink to={taskLink(job, job.try_number)}>Log</PageLink>
            <PageLink to={explainLink(job)}>Why</PageLink>
          </HStack>
        </Table.Cell>
      </Table.Row>
      {open && (
        <Table.Row>
          <Table.Cell colSpan={7}>
            <Details id={job.id} reload={reload} />
          </Table.Cell>
        </Table.Row>
      )}
    </>
  );
}

function Details({ id, reload }: { id: string; reload: () => void }) {
  const live = useLive(`job ${id}`, (signal) => api.job(id, signal), { seconds: 10 });
  return (
    <Box maxW="min(70rem, 85vw)">
      <Shown live={live}>
        {(job) => (
          <Stack gap={4}>
            {!ENDED.has(job.state) && (
              <Box>
                <ConfirmButton
                  act={() => api.cancelJob(job.id, null)}
                  danger
                  disabled={!job.may_cancel}
                  done={() => {
                    live.reload();
                    reload();
                  }}
                  label="Cancel job"
                  title="Cancel this job?"
                  verb="Cancel job"
                  why="You may look at this job, but not change its task."
                >
                  {job.state === "pending" ? "It is taken out of the queue." : "Its worker is asked to stop it."} The try of its task
                  fails.
                </ConfirmButton>
              </Box>
            )}
            <JobFacts job={job} />
          </Stack>
        )}
      </Shown>
    </Box>
  );
}
