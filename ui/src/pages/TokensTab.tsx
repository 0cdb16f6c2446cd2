// SPDX-License-Identifier: Apache-2.0
import { Alert, Button, Clipboard, HStack, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type PoolDetail, type Token, type TokenMade } from "../api/calls";
import { ConfirmButton, FormDialog } from "../components/dialogs";
import { NumberField, TextField, wholeNumber } from "../components/fields";
import { DataTable, Pager, Pre } from "../components/parts";
import { Nothing, Shown } from "../components/states";
import { Status } from "../components/Status";
import { ago, clock, counted } from "../format";
import { useLive } from "../hooks/useLive";
import { usePages } from "../hooks/usePages";

const DAY = 86_400;

export function TokensTab({ pool }: { pool: PoolDetail }) {
  const pages = usePages(pool.name);
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState<TokenMade>();
  const live = useLive(`tokens ${pool.name} ${pages.cursor}`, (signal) => api.tokens(pool.name, pages.cursor, signal), {
    seconds: 10,
  });
  return (
    <Stack gap={3}>
      <HStack justify="space-between" wrap="wrap">
        <Text color="fg.muted" fontSize="sm">
          A worker elsewhere shows a token to claim jobs of this pool.
        </Text>
        <Button
          disabled={!pool.may_edit}
          onClick={() => setMaking(true)}
          size="xs"
          title={pool.may_edit ? undefined : "You may look at tokens, but not make them."}
          variant="outline"
        >
          Make token
        </Button>
      </HStack>
      {made && <Made made={made} forget={() => setMade(undefined)} />}
      <Shown live={live}>
        {(list) =>
          list.tokens.length === 0 ?
            <Nothing title="No tokens open this pool">Workers elsewhere need one.</Nothing>
          : <>
              <DataTable
                head={["Token", "Status", "Made", "Expires", "Last used", "Actions"]}
                label={`Tokens of ${pool.name}`}
              >
                {list.tokens.map((token) => (
                  <Row key={token.id} pool={pool} reload={live.reload} token={token} />
                ))}
              </DataTable>
              <Pager next={list.next_cursor} pages={pages} shown={counted(list.total, "token")} />
            </>
        }
      </Shown>
      {making && (
        <MakeToken
          close={() => setMaking(false)}
          done={(token) => {
            setMade(token);
            live.reload();
          }}
          pool={pool}
        />
      )}
    </Stack>
  );
}

function Made({ made, forget }: { made: TokenMade; forget: () => void }) {
  return (
    <Alert.Root role="status" status="success">
      <Alert.Indicator />
      <Alert.Content minW={0}>
        <Alert.Title>Token {made.id} was made. It is shown this once: copy it now.</Alert.Title>
        <Pre label="The token">{made.token}</Pre>
        <HStack mt={2}>
          <Clipboard.Root value={made.token}>
            <Clipboard.Trigger asChild>
              <Button size="xs" variant="outline">
                <Clipboard.Indicator copied="Copied">Copy</Clipboard.Indicator>
              </Button>
            </Clipboard.Trigger>
          </Clipboard.Root>
          <Button onClick={forget} size="xs" variant="outline">
            I have it
          </Button>
        </HStack>
      </Alert.Content>
    </Alert.Root>
  );
}

function MakeToken({ pool, close, done }: { pool: PoolDetail; close: () => void; done: (made: TokenMade) => void }) {
  const [description, setDescription] = useState("");
  const [days, setDays] = useState("90");
  const number = wholeNumber(days);
  return (
    <FormDialog
      close={close}
      open
      submit={async () =>
        done(
          await api.createToken(pool.name, {
            description: description || null,
            expires_in_seconds: number === null ? null : Math.round(number * DAY),
          }),
        )
      }
      title={`Make a token for workers of ${pool.name}`}
      verb="Make token"
    >
      <TextField change={setDescription} help="Who it is for." label="Description" value={description} />
      <NumberField change={setDays} help="Empty: it never expires." label="Days until it expires" min={1} value={days} />
    </FormDialog>
  );
}

function Row({ pool, token, reload }: { pool: PoolDetail; token: Token; reload: () => void }) {
  return (
    <Table.Row>
      <Table.Cell>
        <Text fontFamily="mono">{token.id}</Text>
        <Text color="fg.muted" fontSize="xs" overflowWrap="anywhere">
          {token.description}
          {token.pools.length > 1 && ` also opens ${token.pools.filter((one) => one !== pool.name).join(", ")}`}
        </Text>
      </Table.Cell>
      <Table.Cell>
        <Status status={token.status} />
      </Table.Cell>
      <Table.Cell>
        {ago(token.created_at)}
        {token.created_by && ` by ${token.created_by}`}
      </Table.Cell>
      <Table.Cell>{token.expires_at ? clock(token.expires_at) : "never"}</Table.Cell>
      <Table.Cell>{ago(token.last_used_at)}</Table.Cell>
      <Table.Cell>
        {token.status !== "REVOKED" && (
          <ConfirmButton
            act={() => api.revokeToken(pool.name, token.id)}
            danger
            disabled={!pool.may_edit}
            done={reload}
            label="Revoke"
            title={`Revoke token ${token.id}?`}
            verb="Revoke"
            why="You may look at tokens, but not revoke them."
          >
            Workers that show it are refused from now on.
          </ConfirmButton>
        )}
      </Table.Cell>
    </Table.Row>
  );
}
