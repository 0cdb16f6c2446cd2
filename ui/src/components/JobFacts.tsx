// SPDX-License-Identifier: Apache-2.0
import { Box, Heading, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";

import type { JobDetail } from "../api/calls";
import { between, clock, duration, json, words } from "../format";
import { Durations } from "./Durations";
import { DataTable, Fact, Pre } from "./parts";
import { Status } from "./Status";

/** All about a job: its facts, what happened to it when, and how it is rendered. */
export function JobFacts({ job }: { job: JobDetail }) {
  return (
    <Stack gap={4}>
      <SimpleGrid as="dl" columns={{ base: 1, sm: 2, md: 4 }} gap={4}>
        <Fact name="State">
          <Status reason={job.reason} status={job.state === "pending" ? "waiting" : job.state} />
        </Fact>
        <Fact name="Waiting · starting · running">
          <Durations job={job} />
        </Fact>
        <Fact name="Infrastructure">
          {job.infrastructure_kind ? `${job.infrastructure_kind}: ${job.infrastructure_id ?? "no id yet"}` : "none yet"}
        </Fact>
        <Fact name="Worker">{job.worker ?? "none yet"}</Fact>
        <Fact name="Work queue">
          {job.pool}/{job.queue}
        </Fact>
        <Fact name="Slots">{job.slots}</Fact>
        <Fact name="Try">
          {job.try_number}
          {job.start_attempts > 0 && `, given back ${job.start_attempts} times to be started anew`}
        </Fact>
        <Fact name="Exit code">{job.exit_code ?? "–"}</Fact>
        {job.cause && <Fact name="Cause of its end">{words(job.cause)}</Fact>}
        {job.start_timeout_at && <Fact name="Must run by">{clock(job.start_timeout_at)}</Fact>}
        <Fact name="Job">{job.id}</Fact>
      </SimpleGrid>
      <Timeline job={job} />
      <Box>
        <Heading as="h3" mb={2} size="sm">
          Rendered job
        </Heading>
        {job.job_configuration === null && job.job_configuration_faults.length > 0 ?
          <Stack as="ul" color="fg.error" fontSize="sm" listStyleType="none">
            {job.job_configuration_faults.map((fault, index) => (
              <Text as="li" key={index} overflowWrap="anywhere">
                {fault.detail}
              </Text>
            ))}
          </Stack>
        : <Pre label="Rendered job">{json(job.job_configuration)}</Pre>}
        <Text color="fg.muted" fontSize="xs" mt={1}>
          From the pool's template as it is now. Secrets are masked; what only its worker knows stays a placeholder.
        </Text>
      </Box>
    </Stack>
  );
}

function Timeline({ job }: { job: JobDetail }) {
  return (
    <Box>
      <Heading as="h3" mb={2} size="sm">
        Timeline
      </Heading>
      <DataTable head={["When", "What", "After"]} label="Timeline of the job">
        {job.timeline.map((entry, index) => (
          <Table.Row key={index}>
            <Table.Cell whiteSpace="nowrap">{clock(entry.at)}</Table.Cell>
            <Table.Cell>{words(entry.event)}</Table.Cell>
            <Table.Cell fontVariantNumeric="tabular-nums">
              {index === 0 ? "" : duration(between(job.timeline[index - 1]?.at, entry.at, 0))}
            </Table.Cell>
          </Table.Row>
        ))}
      </DataTable>
    </Box>
  );
}
