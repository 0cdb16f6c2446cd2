// SPDX-License-Identifier: Apache-2.0
import { Box, HStack, Text } from "@chakra-ui/react";

import { words } from "../format";
import { Prose } from "./Prose";

const COLORS: Record<string, string> = {
  ready: "green",
  online: "green",
  running: "green",
  succeeded: "green",
  passed: "green",
  paused: "orange",
  draining: "orange",
  holding: "orange",
  here: "orange",
  active: "green",
  waiting: "gray",
  starting: "blue",
  launching: "blue",
  claimed: "blue",
  not_ready: "red",
  invalid: "red",
  lost: "red",
  failed: "red",
  crashed: "red",
};

/** A dot and the word for it: colour alone says nothing to many. */
export function Status({ status, reason }: { status: string; reason?: string | null | undefined }) {
  const color = COLORS[status.toLowerCase()] ?? "gray";
  return (
    <Box>
      <HStack gap={2} whiteSpace="nowrap">
        <Box aria-hidden="true" bg={`${color}.solid`} borderRadius="full" boxSize={2.5} flexShrink={0} />
        <Text as="span" textTransform="capitalize">
          {words(status)}
        </Text>
      </HStack>
      {reason && (
        <Text color="fg.muted" fontSize="xs" maxW="28rem" mt={1} wordBreak="break-word">
          <Prose text={reason} />
        </Text>
      )}
    </Box>
  );
}
