// SPDX-License-Identifier: Apache-2.0
import { Box, HStack, Text } from "@chakra-ui/react";

import type { Job } from "../api/calls";
import { duration } from "../format";

/** How long a job waited, started and ran: in numbers, and as shares of a bar. */
export function Durations({ job }: { job: Job }) {
  const parts = [
    { name: "waiting", seconds: job.waiting_seconds, color: "orange.solid" },
    { name: "starting", seconds: job.starting_seconds, color: "blue.solid" },
    { name: "running", seconds: job.running_seconds, color: "green.solid" },
  ];
  const total = parts.reduce((sum, part) => sum + (part.seconds ?? 0), 0) || 1;
  return (
    <Box minW="11rem">
      <Text fontSize="sm" fontVariantNumeric="tabular-nums" whiteSpace="nowrap">
        {parts.map((part) => duration(part.seconds)).join(" · ")}
      </Text>
      <HStack aria-hidden="true" borderRadius="full" gap="1px" height={1.5} overflow="hidden">
        {parts.map((part) => (
          <Box
            bg={part.color}
            height="100%"
            key={part.name}
            title={`${part.name} ${duration(part.seconds)}`}
            width={`${((part.seconds ?? 0) / total) * 100}%`}
          />
        ))}
      </HStack>
    </Box>
  );
}
