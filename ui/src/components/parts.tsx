// SPDX-License-Identifier: Apache-2.0
import { Box, Button, HStack, Link, Table, Text } from "@chakra-ui/react";
import type { ReactNode } from "react";
import { Link as RouterLink } from "react-router-dom";

import type { Pages } from "../hooks/usePages";

/** A link inside Airflow's UI. */
export function PageLink({ to, children, strong = false }: { to: string; children: ReactNode; strong?: boolean }) {
  return (
    <Link asChild color="fg.info" fontWeight={strong ? "semibold" : undefined} overflowWrap="anywhere">
      <RouterLink to={to}>{children}</RouterLink>
    </Link>
  );
}

/** A table that scrolls to the side where there is no room, also with the keys. */
export function DataTable({ label, head, children }: { label: string; head: readonly ReactNode[]; children: ReactNode }) {
  return (
    <Table.ScrollArea aria-label={label} borderRadius="md" borderWidth="1px" role="region" tabIndex={0} whiteSpace="normal">
      <Table.Root size="sm" verticalAlign="top">
        <Table.Header>
          <Table.Row>
            {head.map((title, index) => (
              <Table.ColumnHeader key={index} scope="col" whiteSpace="nowrap">
                {title}
              </Table.ColumnHeader>
            ))}
          </Table.Row>
        </Table.Header>
        <Table.Body>{children}</Table.Body>
      </Table.Root>
    </Table.ScrollArea>
  );
}

export function Pager({ pages, next, shown }: { pages: Pages; next: string | null; shown: ReactNode }) {
  if (pages.number === 1 && next === null) return <Text color="fg.muted" fontSize="sm">{shown}</Text>;
  return (
    <HStack justify="space-between" wrap="wrap">
      <Text color="fg.muted" fontSize="sm">
        {shown}
      </Text>
      <HStack>
        <Button disabled={pages.number === 1} onClick={pages.back} size="xs" variant="outline">
          Previous page
        </Button>
        <Text fontSize="sm">page {pages.number}</Text>
        <Button disabled={next === null} onClick={() => next !== null && pages.next(next)} size="xs" variant="outline">
          Next page
        </Button>
      </HStack>
    </HStack>
  );
}

/** A fact with its name. */
export function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <Box minW={0}>
      <Text as="dt" color="fg.muted" fontSize="xs">
        {name}
      </Text>
      <Box as="dd" fontVariantNumeric="tabular-nums" m={0} overflowWrap="anywhere">
        {children}
      </Box>
    </Box>
  );
}

/** Text as it is: of a program, in lines. */
export function Pre({ children, label }: { children: string; label: string }) {
  return (
    <Box
      aria-label={label}
      as="pre"
      bg="bg.muted"
      borderRadius="md"
      fontFamily="mono"
      fontSize="xs"
      maxH="32rem"
      overflow="auto"
      p={3}
      role="region"
      tabIndex={0}
    >
      {children}
    </Box>
  );
}
