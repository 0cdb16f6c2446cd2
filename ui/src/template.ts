// SPDX-License-Identifier: Apache-2.0

/** A base job template: variables, and the configuration into which they are put. */
export interface Template {
  readonly variables?: { readonly properties?: Record<string, VariableSchema>; readonly required?: readonly string[] };
  readonly job_configuration?: unknown;
}

export interface VariableSchema {
  readonly title?: string;
  readonly description?: string;
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly anyOf?: readonly VariableSchema[];
  readonly format?: string;
}

export type Kind = "text" | "number" | "switch" | "select" | "json";

/** How a variable is asked for. */
export function kindOf(schema: VariableSchema): Kind {
  if (schema.enum) return "select";
  const types = typesOf(schema).filter((type) => type !== "null");
  if (types.length !== 1) return "json";
  if (types[0] === "string") return "text";
  if (types[0] === "integer" || types[0] === "number") return "number";
  if (types[0] === "boolean") return "switch";
  return "json";
}

function typesOf(schema: VariableSchema): string[] {
  if (schema.anyOf) return schema.anyOf.flatMap(typesOf);
  if (schema.type === undefined) return [];
  return typeof schema.type === "string" ? [schema.type] : [...schema.type];
}
