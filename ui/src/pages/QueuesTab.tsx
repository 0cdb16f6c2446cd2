// SPDX-License-Identifier: Apache-2.0
import { Alert, Box, Button, HStack, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type PoolDetail, type Queue, type QueueAnswer } from "../api/calls";
import { Confirm, ConfirmButton, FormDialog } from "../components/dialogs";
import { NumberField, SwitchField, TextField, wholeNumber } from "../components/fields";
import { JobVariables, variableChanges, variablesText } from "../components/JobVariables";
import { DataTable, PageLink } from "../components/parts";
import { SlotsBar } from "../components/SlotsBar";
import { Failure, Nothing } from "../components/states";
import { Status } from "../components/Status";
import { counted } from "../format";
import { useAction } from "../hooks/useAction";
import { poolLink } from "../links";

const RULE =
  "1 goes first. If the number is taken, the queue that has it moves to the next one, and so on until there is room.";

interface Props {
  readonly pool: PoolDetail;
  readonly reload: () => void;
}

export function QueuesTab({ pool, reload }: Props) {
  const [creating, setCreating] = useState(false);
  const [edited, setEdited] = useState<Queue>();
  const [moved, setMoved] = useState("");
  const [dragged, setDragged] = useState<string>();
  const [target, setTarget] = useState<string>();
  const mayChange = pool.may_edit && !pool.read_only;
  const why = pool.read_only ? `Its definition is in ${pool.declared_in}: change it there.` : "You may look at this queue, but not change it.";

  const changed = (answer: QueueAnswer) => {
    setMoved(told(answer));
    reload();
  };
  const move = useAction(async (queue: string, priority: number) =>
    changed(await api.updateQueue(pool.name, queue, { priority })),
  );
  const letGo = () => {
    setDragged(undefined);
    setTarget(undefined);
  };
  const drop = (target: Queue) => {
    if (dragged !== undefined && dragged !== target.name) void move.run(dragged, target.priority);
    letGo();
  };

  if (pool.queues.length === 0) return <Nothing title="No work queues can be shown">{pool.reason}</Nothing>;
  return (
    <Stack gap={3}>
      <HStack justify="space-between" wrap="wrap">
        <Text color="fg.muted" fontSize="sm">
          {RULE} {mayChange && "Drag a row onto another, or edit the number."}
        </Text>
        <Button disabled={!mayChange} onClick={() => setCreating(true)} size="xs" title={mayChange ? undefined : why} variant="outline">
          Add queue
        </Button>
      </HStack>
      <Box aria-live="polite">
        {moved && (
          <Alert.Root size="sm" status="success">
            <Alert.Indicator />
            <Alert.Description>{moved}</Alert.Description>
          </Alert.Root>
        )}
      </Box>
      {move.error && <Failure error={move.error} />}
      <DataTable
        head={["Priority", "Queue", "Status", "Slots", "Waiting", "Running", "Delivers", "Actions"]}
        label={`Work queues of ${pool.name}`}
      >
        {pool.queues.map((queue) => (
          <Table.Row
            bg={
              dragged === queue.name ? "bg.muted"
              : target === queue.name ?
                "bg.info"
              : undefined
            }
            cursor={mayChange ? "grab" : undefined}
            draggable={mayChange}
            key={queue.name}
            onDragEnd={letGo}
            onDragOver={(event) => {
              if (dragged === undefined) return;
              event.preventDefault();
              setTarget(queue.name);
            }}
            onDragStart={(event) => {
              event.dataTransfer.effectAllowed = "move";
              event.dataTransfer.setData("text/plain", queue.name);
              setDragged(queue.name);
            }}
            onDrop={(event) => {
              event.preventDefault();
              drop(queue);
            }}
          >
            <Table.Cell fontVariantNumeric="tabular-nums">{queue.priority}</Table.Cell>
            <Table.Cell minW="8rem">
              <Text fontWeight="semibold" overflowWrap="anywhere">
                {queue.name}
              </Text>
              {queue.description && (
                <Text color="fg.muted" fontSize="xs" overflowWrap="anywhere">
                  {queue.description}
                </Text>
              )}
            </Table.Cell>
            <Table.Cell>
              <Status status={queue.status} />
            </Table.Cell>
            <Table.Cell>
              <SlotsBar label={queue.name} limit={queue.concurrency_limit} used={queue.slots_used} />
            </Table.Cell>
            <Table.Cell>
              <PageLink to={poolLink(pool.name, "jobs", { queue: queue.name, state: "waiting" })}>
                {queue.waiting.toLocaleString("en")}
              </PageLink>
            </Table.Cell>
            <Table.Cell>{queue.running}</Table.Cell>
            <Table.Cell>
              <PauseSwitch pool={pool} queue={queue} reload={reload} />
            </Table.Cell>
            <Table.Cell>
              <HStack>
                <Button
                  aria-label={`Edit queue ${queue.name}`}
                  disabled={!mayChange}
                  onClick={() => setEdited(queue)}
                  size="xs"
                  title={mayChange ? undefined : why}
                  variant="outline"
                >
                  Edit
                </Button>
                {queue.name !== "default" && (
                  <ConfirmButton
                    act={() => api.deleteQueue(pool.name, queue.name)}
                    danger
                    disabled={!mayChange}
                    done={reload}
                    label="Delete"
                    title={`Delete work queue ${queue.name}?`}
                    verb="Delete"
                    why={why}
                  >
                    Tasks that name it will fail with the reason. A queue that still has jobs is not deleted.
                  </ConfirmButton>
                )}
              </HStack>
            </Table.Cell>
          </Table.Row>
        ))}
      </DataTable>
      {creating && <QueueForm close={() => setCreating(false)} done={changed} pool={pool} />}
      {edited && <QueueForm close={() => setEdited(undefined)} done={changed} pool={pool} queue={edited} />}
    </Stack>
  );
}

/** On: jobs of the queue may start. Both ways are asked about first. */
function PauseSwitch({ pool, queue, reload }: Props & { queue: Queue }) {
  const [asking, setAsking] = useState(false);
  const verb = queue.paused ? "Resume" : "Pause";
  return (
    <>
      <SwitchField
        change={() => setAsking(true)}
        checked={!queue.paused}
        disabled={!pool.may_operate}
        hideLabel
        label={`Queue ${queue.name} delivers jobs`}
        why="You may look at this queue, but not change it."
      />
      <Confirm
        act={() => api.pauseQueue(pool.name, queue.name, !queue.paused)}
        close={() => setAsking(false)}
        done={reload}
        open={asking}
        title={`${verb} work queue ${queue.name}?`}
        verb={verb}
      >
        {queue.paused ?
          `Its jobs may start again: ${counted(queue.waiting, "task")} wait.`
        : "What runs goes on; nothing more starts from it until it is resumed, and its share goes to other queues."}
      </Confirm>
    </>
  );
}

function QueueForm({
  pool,
  queue,
  close,
  done,
}: {
  pool: PoolDetail;
  queue?: Queue;
  close: () => void;
  done: (answer: QueueAnswer) => void;
}) {
  const [name, setName] = useState("");
  const [priority, setPriority] = useState(queue?.priority.toString() ?? "");
  const [limit, setLimit] = useState(queue?.concurrency_limit?.toString() ?? "");
  const [description, setDescription] = useState(queue?.description ?? "");
  const taken = pool.queues.find((other) => other.name !== queue?.name && String(other.priority) === priority.trim());
  const number = wholeNumber(priority);
  const before = queue?.job_variables ?? {};
  const [variables, setVariables] = useState(variablesText(before));

  return (
    <FormDialog
      close={close}
      open
      submit={async () => {
        const common = { concurrency_limit: wholeNumber(limit), description: description || null };
        const changes = variableChanges(before, variables);
        done(
          queue ?
            await api.updateQueue(pool.name, queue.name, { ...common, ...changes, ...(number === null ? {} : { priority: number }) })
          : await api.createQueue(pool.name, { name, priority: number, ...common, job_variables: changes.set_job_variables ?? {} }),
        );
      }}
      title={queue ? `Edit work queue ${queue.name}` : `Add a work queue to ${pool.name}`}
      verb={queue ? "Save" : "Add"}
      wide
    >
      {!queue && <TextField change={setName} help={`Tasks name it: work_queue="${pool.name}/…".`} label="Name" required value={name} />}
      <NumberField
        change={setPriority}
        help={
          taken ? `${taken.name} has ${taken.priority}: it will move to ${taken.priority + 1}, others after it as needed.` : RULE
        }
        label="Priority"
        min={1}
        placeholder={queue ? "" : "the lowest that is free"}
        required={queue !== undefined}
        value={priority}
      />
      <NumberField change={setLimit} help="Slots at the same time. Empty: only the pool's limit. 0: nothing starts." label="Concurrency limit" value={limit} />
      <JobVariables
        change={setVariables}
        help="For all jobs of this queue, over those of the pool; those of a task go over them."
        value={variables}
      />
      <TextField change={setDescription} label="Description" value={description} />
    </FormDialog>
  );
}

function told({ queue, moved }: QueueAnswer): string {
  const others = moved.map((one) => `${one.name} moved from ${one.old_priority} to ${one.new_priority}`);
  const room = others.length ? ` To make room, ${others.join(", ")}.` : "";
  return `${queue.name} has priority ${queue.priority} now.${room}`;
}
