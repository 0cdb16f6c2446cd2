// SPDX-License-Identifier: Apache-2.0
import { SimpleGrid } from "@chakra-ui/react";

import { parseJson } from "../jsonText";
import { kindOf, type Template, type VariableSchema } from "../template";
import { NumberField, SelectField, TextField } from "./fields";

/** What was typed, by variable; a variable that nobody filled in is not there. */
export type Typed = Readonly<Record<string, string>>;

/** The variables of a template as a form. What is empty is the default. */
export function VariablesForm({
  template,
  typed,
  change,
}: {
  template: Template;
  typed: Typed;
  change: (typed: Typed) => void;
}) {
  const required = new Set(template.variables?.required ?? []);
  const set = (name: string) => (text: string) => {
    const { [name]: _, ...others } = typed;
    change(text === "" ? others : { ...others, [name]: text });
  };
  return (
    <SimpleGrid columns={{ base: 1, lg: 2 }} gap={4}>
      {Object.entries(template.variables?.properties ?? {}).map(([name, schema]) => (
        <Variable
          change={set(name)}
          key={name}
          name={name}
          required={required.has(name)}
          schema={schema}
          text={typed[name] ?? ""}
        />
      ))}
    </SimpleGrid>
  );
}

function Variable({
  name,
  schema,
  required,
  text,
  change,
}: {
  name: string;
  schema: VariableSchema;
  required: boolean;
  text: string;
  change: (text: string) => void;
}) {
  const kind = kindOf(schema);
  const initial = schema.default === undefined || schema.default === null ? "" : JSON.stringify(schema.default);
  const help = [schema.description, initial && `Default: ${initial.length > 80 ? `${initial.slice(0, 80)}…` : initial}`]
    .filter(Boolean)
    .join(" ");
  const common = { label: name, required, value: text, change, help: help || undefined, error: faultOf(kind, text) };
  if (kind === "number") return <NumberField {...common} />;
  if (kind === "select" || kind === "switch") {
    const values = kind === "switch" ? [true, false] : (schema.enum ?? []);
    const options = values.map((value) => ({ value: kind === "switch" ? String(value) : JSON.stringify(value), label: String(value) }));
    return <SelectField {...common} options={[{ value: "", label: "(default)" }, ...options]} />;
  }
  return <TextField {...common} multiline={kind === "json"} />;
}

function faultOf(kind: string, text: string): string | undefined {
  if (kind !== "json" || text === "") return undefined;
  const { error } = parseJson(text);
  return error && `line ${error.line}: ${error.message}`;
}

/** The values that were typed, of their types. What is no JSON where it has to be is sent as text: the API says so. */
export function valuesOf(template: Template, typed: Typed): Record<string, unknown> {
  const properties = template.variables?.properties ?? {};
  return Object.fromEntries(
    Object.entries(typed).map(([name, text]) => {
      const kind = kindOf(properties[name] ?? {});
      if (kind === "text") return [name, text];
      const { value, error } = parseJson(text);
      return [name, error ? text : value];
    }),
  );
}
