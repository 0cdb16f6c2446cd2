// SPDX-License-Identifier: Apache-2.0
import { Alert, Badge, Box, Button, Heading, HStack, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useState } from "react";

import { api, type PoolDetail, type Preview, type TemplateAnswer, type Validation } from "../api/calls";
import { ConfirmButton } from "../components/dialogs";
import { SelectField } from "../components/fields";
import { JsonEditor } from "../components/JsonEditor";
import { DataTable, Pre } from "../components/parts";
import { Failure, Shown } from "../components/states";
import { type Typed, valuesOf, VariablesForm } from "../components/VariablesForm";
import { json, words } from "../format";
import { useAsked } from "../hooks/useAsked";
import { useLive } from "../hooks/useLive";
import { parseJson } from "../jsonText";
import type { Template } from "../template";

type JsonObject = Record<string, unknown>;

export function TemplateTab({ pool, reload }: { pool: PoolDetail; reload: () => void }) {
  // Asked for once: what somebody types here is not thrown away because somebody else saved something.
  const live = useLive(`template ${pool.name}`, (signal) => api.template(pool.name, signal), { seconds: 86_400 });
  return (
    <Shown live={live}>
      {(template) => (
        <Editor
          key={json(template.base_job_template)}
          pool={pool}
          stored={template}
          reload={() => {
            live.reload();
            reload();
          }}
        />
      )}
    </Shown>
  );
}

function Editor({ pool, stored, reload }: { pool: PoolDetail; stored: TemplateAnswer; reload: () => void }) {
  const initial = json(stored.base_job_template);
  const [text, setText] = useState(initial);
  const [typed, setTyped] = useState<Typed>({});
  const [queue, setQueue] = useState("default");
  const changed = text !== initial;
  const parsed = parseJson(text);
  const template = isObject(parsed.value) ? (parsed.value as JsonObject) : undefined;
  const mayChange = pool.may_edit && !pool.read_only && !stored.masked;
  const why = pool.read_only ? `Its definition is in ${pool.declared_in}: change it there.` : "You may look at this template, but not change it.";

  const checked = useAsked<Validation>(
    template && changed ? `${stored.type} ${text}` : undefined,
    (signal) => api.validate(stored.type, template ?? {}, signal),
  );
  const variables = valuesOf((template ?? {}) as Template, typed);
  const preview = useAsked<Preview>(
    template ? JSON.stringify([pool.name, queue, variables, changed ? text : null]) : undefined,
    (signal) =>
      api.preview(
        pool.name,
        { queue, job_variables: variables, base_job_template: changed ? (template ?? null) : null },
        signal,
      ),
  );
  const faults = checked.data?.faults ?? [];

  return (
    <SimpleGrid columns={{ base: 1, xl: 2 }} gap={6}>
      <Stack gap={3} minW={0}>
        {stored.masked && (
          <Alert.Root size="sm" status="info">
            <Alert.Indicator />
            <Alert.Description>Secrets are masked, for you may not change this template.</Alert.Description>
          </Alert.Root>
        )}
        <JsonEditor
          faults={faults}
          label={`Base job template${stored.is_default ? ` (the default of type ${stored.type})` : ""}`}
          rows={26}
          value={text}
          {...(mayChange ? { change: setText } : {})}
        />
        {checked.error && <Failure error={checked.error} />}
        <HStack wrap="wrap">
          <ConfirmButton
            act={() => api.putTemplate(pool.name, template ?? {})}
            disabled={!mayChange || !changed || template === undefined || faults.length > 0}
            done={reload}
            label="Save template"
            title={`Give ${pool.name} this template?`}
            verb="Save"
            why={mayChange ? "There is nothing to save, or something is wrong with it." : why}
          >
            Jobs that start from now on are made from it; those that run are not changed.
          </ConfirmButton>
          <Button disabled={!changed} onClick={() => setText(initial)} size="xs" variant="outline">
            Undo
          </Button>
          {!stored.is_default && (
            <ConfirmButton
              act={() => api.putTemplate(pool.name, null)}
              danger
              disabled={!mayChange}
              done={reload}
              label="Back to the type's default"
              title="Give the pool its type's default template?"
              verb="Use the default"
              why={why}
            >
              The template that is stored now is lost.
            </ConfirmButton>
          )}
        </HStack>
        <Box as="section" mt={3}>
          <Heading as="h2" mb={2} size="md">
            Try it
          </Heading>
          <Text color="fg.muted" fontSize="sm" mb={3}>
            Job variables as a task would set them. What is empty comes from the queue, the pool or the template.
          </Text>
          <Stack gap={4}>
            <SelectField change={setQueue} label="Work queue" options={pool.queues.map(({ name }) => ({ value: name, label: name }))} value={queue} />
            <VariablesForm change={setTyped} template={(template ?? {}) as Template} typed={typed} />
          </Stack>
        </Box>
      </Stack>
      {/* It stays in sight while somebody types in the form. */}
      <Box alignSelf="start" maxH={{ xl: "calc(100vh - 3rem)" }} minW={0} overflowY={{ xl: "auto" }} position={{ xl: "sticky" }} top={0}>
        <Box as="section">
          <Heading as="h2" mb={2} size="md">
            The job it makes
          </Heading>
          {preview.error && <Failure error={preview.error} />}
          {preview.data && <Rendered preview={preview.data} />}
        </Box>
      </Box>
    </SimpleGrid>
  );
}

function Rendered({ preview }: { preview: Preview }) {
  return (
    <Stack gap={4}>
      {preview.faults.length > 0 ?
        <Stack aria-live="polite" as="ul" color="fg.error" fontSize="sm" listStyleType="none">
          {preview.faults.map((fault, index) => (
            <Text as="li" key={index} overflowWrap="anywhere">
              {fault.detail}
            </Text>
          ))}
        </Stack>
      : <Pre label="Rendered job">{json(preview.job_configuration)}</Pre>}
      <Box>
        <Heading as="h3" mb={2} size="sm">
          What a task can change
        </Heading>
        <DataTable head={["Field", "Decided by"]} label="Fields of the job configuration">
          {preview.fields.map((field) => (
            <Table.Row key={field.pointer}>
              <Table.Cell fontFamily="mono" fontSize="xs" overflowWrap="anywhere">
                {field.pointer || "/"}
              </Table.Cell>
              <Table.Cell>
                {field.locked ?
                  <Badge>locked</Badge>
                : field.variables.join(", ")}
              </Table.Cell>
            </Table.Row>
          ))}
        </DataTable>
      </Box>
      <Box>
        <Heading as="h3" mb={2} size="sm">
          Variables
        </Heading>
        <DataTable head={["Variable", "Value", "From"]} label="Variables">
          {preview.variables.map((variable) => (
            <Table.Row key={variable.name}>
              <Table.Cell overflowWrap="anywhere">
                {variable.name}
                {variable.required && " (required)"}
                {!variable.used && (
                  <Text color="fg.muted" fontSize="xs">
                    nothing asks for it
                  </Text>
                )}
              </Table.Cell>
              <Table.Cell fontFamily="mono" fontSize="xs" overflowWrap="anywhere">
                {variable.value === null || variable.value === undefined ? "–" : JSON.stringify(variable.value)}
              </Table.Cell>
              <Table.Cell>{variable.source ? words(variable.source) : "–"}</Table.Cell>
            </Table.Row>
          ))}
        </DataTable>
      </Box>
    </Stack>
  );
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
