// SPDX-License-Identifier: Apache-2.0
import { Alert, Box, Button, EmptyState, Skeleton, Stack } from "@chakra-ui/react";
import type { ReactNode } from "react";

import { Prose } from "./Prose";

/** What is shown before the first answer. */
export function Loading({ rows = 4, label = "Loading" }: { rows?: number; label?: string }) {
  return (
    <Stack aria-busy="true" aria-label={label} gap={3} py={2} role="status">
      {Array.from({ length: rows }, (_, row) => (
        <Skeleton height="2.25rem" key={row} />
      ))}
    </Stack>
  );
}

/** What went wrong, and a way to ask again. */
export function Failure({ error, retry, old = false }: { error: Error; retry?: () => void; old?: boolean }) {
  return (
    <Alert.Root alignItems="center" status={old ? "warning" : "error"} size="sm">
      <Alert.Indicator />
      <Alert.Content>
        <Alert.Description wordBreak="break-word">
          <Prose text={error.message} />
          {old ? " What is shown is as old as the last answer." : ""}
        </Alert.Description>
      </Alert.Content>
      {retry && (
        <Button onClick={retry} size="xs" variant="outline">
          Try again
        </Button>
      )}
    </Alert.Root>
  );
}

export function Nothing({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <EmptyState.Root size="sm">
      <EmptyState.Content>
        <Stack align="center" gap={1} textAlign="center">
          <EmptyState.Title>{title}</EmptyState.Title>
          {children && <Box color="fg.muted">{children}</Box>}
        </Stack>
      </EmptyState.Content>
    </EmptyState.Root>
  );
}

/** One of the three states, or what there is to show. */
export function Shown<T>({
  live,
  rows,
  children,
}: {
  live: { data: T | undefined; error: Error | undefined; reload: () => void };
  rows?: number;
  children: (data: T) => ReactNode;
}) {
  if (live.data === undefined) {
    return live.error ?
        <Failure error={live.error} retry={live.reload} />
      : <Loading {...(rows === undefined ? {} : { rows })} />;
  }
  return (
    <Stack gap={3}>
      {live.error && <Failure error={live.error} old retry={live.reload} />}
      {children(live.data)}
    </Stack>
  );
}
