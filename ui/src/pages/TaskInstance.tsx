// SPDX-License-Identifier: Apache-2.0
import { Alert, Box, Heading, HStack, Stack, Table, Text } from "@chakra-ui/react";
import { useParams } from "react-router-dom";

import { api, type Explanation, type Gate } from "../api/calls";
import { JobFacts } from "../components/JobFacts";
import { DataTable, PageLink } from "../components/parts";
import { Prose } from "../components/Prose";
import { Nothing, Shown } from "../components/states";
import { Status } from "../components/Status";
import { words } from "../format";
import { useLive } from "../hooks/useLive";
import { poolLink } from "../links";

interface Props {
  readonly dagId?: string;
  readonly runId?: string;
  readonly taskId?: string;
  readonly mapIndex?: string;
}

const ENDED = "end";

/** The tab of a task instance: why it waits, and its job. */
export function TaskInstance(props: Props) {
  const params = useParams();
  const [dag, run, task] = [props.dagId ?? params["dagId"], props.runId ?? params["runId"], props.taskId ?? params["taskId"]];
  const index = Number(props.mapIndex ?? params["mapIndex"] ?? -1);
  const ref = { dag_id: dag ?? "", run_id: run ?? "", task_id: task ?? "", map_index: Number.isInteger(index) ? index : -1 };
  const live = useLive(`explain ${JSON.stringify(ref)}`, (signal) => api.explain(ref, signal), { seconds: 4 });
  return (
    <Box data-workpools="task" height="100%" overflow="auto" p={{ base: 2, md: 4 }} width="100%">
      <Shown live={live}>{(explanation) => <Explained explanation={explanation} />}</Shown>
    </Box>
  );
}

function Explained({ explanation }: { explanation: Explanation }) {
  const ended = explanation.holding === ENDED;
  const moving = ended || explanation.stage === "running";
  return (
    <Stack gap={5}>
      <Alert.Root role="status" status={moving ? "info" : "warning"}>
        <Alert.Indicator />
        <Alert.Content minW={0}>
          <Alert.Title>
            {ended ? "It has ended" : moving ? "It runs" : `It waits at gate ${words(explanation.holding)}`}
          </Alert.Title>
          <Alert.Description overflowWrap="anywhere">
            <Prose text={explanation.explanation ?? "Nothing more is known of it."} />
            {explanation.way_out && (
              <Box mt={1}>
                <strong>What would free it: </strong>
                <Prose text={explanation.way_out} />
              </Box>
            )}
          </Alert.Description>
        </Alert.Content>
      </Alert.Root>
      {/* First what is asked for: why it waits, or what became of it. */}
      {moving ?
        <>
          <ItsJob explanation={explanation} />
          <ItsWay explanation={explanation} />
        </>
      : <>
          <ItsWay explanation={explanation} />
          <ItsJob explanation={explanation} />
        </>
      }
    </Stack>
  );
}

function ItsWay({ explanation }: { explanation: Explanation }) {
  return (
    <Box as="section">
      <Heading as="h2" mb={2} size="md">
        Its way
      </Heading>
      <DataTable head={["Gate", "Status", "What it looks at"]} label="Gates on the way of the task">
        {explanation.gates.map((gate) => (
          <GateRow gate={gate} key={gate.gate} />
        ))}
      </DataTable>
    </Box>
  );
}

function ItsJob({ explanation }: { explanation: Explanation }) {
  const { job } = explanation;
  return (
    <Box as="section">
      <HStack justify="space-between" mb={2} wrap="wrap">
        <Heading as="h2" size="md">
          Its job
        </Heading>
        {job && <PageLink to={poolLink(job.pool, "jobs")}>Work pool {job.pool}</PageLink>}
      </HStack>
      {job ?
        <JobFacts job={job} />
      : <Nothing title="It has no job">Its present try was not handed over to a work pool, or that is long ago.</Nothing>}
    </Box>
  );
}

function GateRow({ gate }: { gate: Gate }) {
  const here = gate.status === "holding";
  return (
    <Table.Row bg={here ? "bg.warning" : undefined}>
      <Table.Cell fontWeight={here ? "bold" : undefined} whiteSpace="nowrap">
        {words(gate.gate)}
      </Table.Cell>
      <Table.Cell>
        <Status status={here ? "here" : gate.status} />
      </Table.Cell>
      <Table.Cell overflowWrap="anywhere">
        {gate.explanation && <Prose text={gate.explanation} />}
        {here && <Numbers numbers={gate.numbers} />}
      </Table.Cell>
    </Table.Row>
  );
}

/** The numbers by which a gate decides; longer things are in its text. */
function Numbers({ numbers }: { numbers: Record<string, unknown> }) {
  const plain = Object.entries(numbers).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value));
  if (plain.length === 0) return null;
  return (
    <Text color="fg.muted" fontSize="xs" fontVariantNumeric="tabular-nums">
      {plain.map(([name, value]) => `${words(name)}: ${String(value)}`).join(" · ")}
    </Text>
  );
}
