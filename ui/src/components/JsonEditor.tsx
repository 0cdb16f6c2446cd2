// SPDX-License-Identifier: Apache-2.0
import { Box, chakra, Field, Stack, Text } from "@chakra-ui/react";
import { useRef } from "react";

import type { Fault } from "../api/calls";
import { lineOf, parseJson } from "../jsonText";

const Area = chakra("textarea");

interface Props {
  readonly label: string;
  readonly value: string;
  readonly change?: (value: string) => void;
  readonly faults?: readonly Fault[];
  readonly rows?: number;
}

/** JSON as text, with line numbers; faults are shown at the line that they are about. */
export function JsonEditor({ label, value, change, faults = [], rows = 20 }: Props) {
  const gutter = useRef<HTMLDivElement>(null);
  const parsed = parseJson(value);
  const placed =
    parsed.error ? [{ line: parsed.error.line, text: parsed.error.message }]
    : faults.map((fault) => ({ line: lineOf(value, fault.pointer ?? ""), text: fault.detail }));
  const wrong = new Set(placed.map((fault) => fault.line));
  const lines = value.split("\n").length;

  return (
    <Field.Root invalid={placed.length > 0} readOnly={change === undefined}>
      <Field.Label>{label}</Field.Label>
      <Box borderRadius="md" borderWidth="1px" display="flex" fontFamily="mono" fontSize="xs" lineHeight="1.25rem" width="100%">
        <Box
          aria-hidden="true"
          bg="bg.muted"
          color="fg.muted"
          height={`${rows * 1.25 + 1}rem`}
          overflow="hidden"
          px={2}
          py={2}
          ref={gutter}
          textAlign="end"
          userSelect="none"
        >
          {Array.from({ length: lines }, (_, index) => (
            <Box
              bg={wrong.has(index + 1) ? "red.solid" : undefined}
              color={wrong.has(index + 1) ? "red.contrast" : undefined}
              key={index}
              px={1}
            >
              {index + 1}
            </Box>
          ))}
        </Box>
        <Field.Context>
          {(field) => (
            <Area
              aria-describedby={field.ariaDescribedby}
              aria-invalid={placed.length > 0}
              autoCapitalize="off"
              autoComplete="off"
              bg="transparent"
              flex="1"
              height={`${rows * 1.25 + 1}rem`}
              id={field.ids.control}
              minW={0}
              onChange={(event) => change?.(event.target.value)}
              onScroll={(event) => {
                if (gutter.current) gutter.current.scrollTop = event.currentTarget.scrollTop;
              }}
              p={2}
              readOnly={change === undefined}
              resize="none"
              spellCheck={false}
              value={value}
              whiteSpace="pre"
              wrap="off"
            />
          )}
        </Field.Context>
      </Box>
      {placed.length > 0 && (
        <Stack aria-live="polite" as="ul" color="fg.error" fontSize="sm" gap={0.5} listStyleType="none" mt={1}>
          {placed.map((fault, index) => (
            <Text as="li" key={index} wordBreak="break-word">
              Line {fault.line}: {fault.text}
            </Text>
          ))}
        </Stack>
      )}
    </Field.Root>
  );
}
