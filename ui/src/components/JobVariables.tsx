// SPDX-License-Identifier: Apache-2.0
import { Field, Stack } from "@chakra-ui/react";

import { json } from "../format";
import { parseJson } from "../jsonText";
import { JsonEditor } from "./JsonEditor";

type Variables = Readonly<Record<string, unknown>>;

/** Job variables of a pool or queue as a field of a form: a JSON object as text. */
export function JobVariables({ value, change, help }: { value: string; change: (value: string) => void; help: string }) {
  return (
    <Stack gap={1}>
      <JsonEditor change={change} label="Job variables" rows={6} value={value} />
      <Field.Root>
        <Field.HelperText mt={0}>{help}</Field.HelperText>
      </Field.Root>
    </Stack>
  );
}

export function variablesText(variables: Variables): string {
  return Object.keys(variables).length === 0 ? "{}" : json(variables);
}

/**
 * What of job variables was changed in a form, as the API takes it. What stayed is not sent: somebody else may have changed it.
 *
 * @throws Error if the text is no JSON object.
 */
export function variableChanges(
  before: Variables,
  text: string,
): { set_job_variables?: Record<string, unknown>; unset_job_variables?: string[] } {
  const { value, error } = parseJson(text.trim() || "{}");
  if (error) throw new Error(`Job variables: line ${error.line}: ${error.message}`);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error('Job variables must be a JSON object, like {"env": {"STAGE": "prod"}}.');
  }
  const now = value as Record<string, unknown>;
  const set = Object.entries(now).filter(([name, one]) => !(name in before) || json(before[name]) !== json(one));
  const unset = Object.keys(before).filter((name) => !(name in now));
  return {
    ...(set.length > 0 && { set_job_variables: Object.fromEntries(set) }),
    ...(unset.length > 0 && { unset_job_variables: unset }),
  };
}
