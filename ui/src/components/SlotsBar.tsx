// SPDX-License-Identifier: Apache-2.0
import { Box, Text } from "@chakra-ui/react";

/** Slots that are held, of those there are. */
export function SlotsBar({ used, limit, label }: { used: number; limit: number | null; label: string }) {
  const share = limit === null ? 0 : limit === 0 ? 1 : Math.min(1, used / limit);
  const text = limit === null ? `${used} of any number` : `${used} of ${limit}`;
  return (
    <Box minW="6rem">
      <Text fontSize="sm" fontVariantNumeric="tabular-nums">
        {limit === null ? `${used} / ∞` : `${used} / ${limit}`}
      </Text>
      <Box
        aria-label={`${label}: slots in use`}
        aria-valuemax={limit ?? Math.max(used, 1)}
        aria-valuemin={0}
        aria-valuenow={limit === null ? used : Math.min(used, limit)}
        aria-valuetext={text}
        bg="bg.emphasized"
        borderRadius="full"
        height={1.5}
        overflow="hidden"
        role="meter"
      >
        <Box
          bg={share >= 1 ? "orange.solid" : "blue.solid"}
          height="100%"
          transition="width 0.3s"
          width={`${share * 100}%`}
        />
      </Box>
    </Box>
  );
}
