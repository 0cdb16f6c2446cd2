// SPDX-License-Identifier: Apache-2.0
import { Box, Field, Input, NativeSelect, Switch, Textarea } from "@chakra-ui/react";
import { useEffect, useRef } from "react";

interface Common {
  readonly label: string;
  readonly help?: string | undefined;
  readonly error?: string | undefined;
  readonly required?: boolean;
  readonly disabled?: boolean;
}

interface TextProps extends Common {
  readonly value: string;
  readonly change: (value: string) => void;
  readonly multiline?: boolean;
  readonly secret?: boolean;
}

export function TextField({ label, help, error, value, change, multiline = false, secret = false, ...rest }: TextProps) {
  return (
    <Field.Root invalid={error !== undefined} {...rest}>
      <Field.Label>
        {label}
        <Field.RequiredIndicator />
      </Field.Label>
      {multiline ?
        <Textarea fontFamily="mono" onChange={(event) => change(event.target.value)} rows={4} value={value} />
      : <Input
          autoComplete="off"
          onChange={(event) => change(event.target.value)}
          type={secret ? "password" : "text"}
          value={value}
        />
      }
      {help && <Field.HelperText>{help}</Field.HelperText>}
      <Field.ErrorText>{error}</Field.ErrorText>
    </Field.Root>
  );
}

interface NumberProps extends Common {
  /** As typed; empty is none. */
  readonly value: string;
  readonly change: (value: string) => void;
  readonly min?: number;
  readonly placeholder?: string;
}

export function NumberField({ label, help, error, value, change, min = 0, placeholder, ...rest }: NumberProps) {
  return (
    <Field.Root invalid={error !== undefined} {...rest}>
      <Field.Label>
        {label}
        <Field.RequiredIndicator />
      </Field.Label>
      <Input
        inputMode="numeric"
        min={min}
        onChange={(event) => change(event.target.value)}
        placeholder={placeholder}
        step={1}
        type="number"
        value={value}
      />
      {help && <Field.HelperText>{help}</Field.HelperText>}
      <Field.ErrorText>{error}</Field.ErrorText>
    </Field.Root>
  );
}

interface SelectProps extends Common {
  readonly value: string;
  readonly change: (value: string) => void;
  readonly options: readonly { readonly value: string; readonly label: string }[];
}

export function SelectField({ label, help, error, value, change, options, ...rest }: SelectProps) {
  return (
    <Field.Root invalid={error !== undefined} {...rest}>
      <Field.Label>
        {label}
        <Field.RequiredIndicator />
      </Field.Label>
      <NativeSelect.Root>
        <NativeSelect.Field onChange={(event) => change(event.target.value)} value={value}>
          {options.map((option) => (
            <option key={option.value} value={option.value}>
              {option.label}
            </option>
          ))}
        </NativeSelect.Field>
        <NativeSelect.Indicator />
      </NativeSelect.Root>
      {help && <Field.HelperText>{help}</Field.HelperText>}
      <Field.ErrorText>{error}</Field.ErrorText>
    </Field.Root>
  );
}

interface SwitchProps {
  readonly label: string;
  readonly checked: boolean;
  readonly change: (checked: boolean) => void;
  readonly disabled?: boolean;
  readonly why?: string | undefined;
  readonly hideLabel?: boolean;
}

export function SwitchField({ label, checked, change, disabled = false, why, hideLabel = false }: SwitchProps) {
  const input = useRef<HTMLInputElement>(null);
  // A click that only asks something has changed the input, but not what it stands for: screen readers tell of the input.
  useEffect(() => {
    if (input.current) input.current.checked = checked;
  });
  return (
    <Box display="inline-block" title={disabled ? why : undefined}>
      <Switch.Root
        checked={checked}
        colorPalette="blue"
        disabled={disabled}
        onCheckedChange={(event) => change(event.checked)}
        size="sm"
      >
        <Switch.HiddenInput ref={input} {...(hideLabel && { "aria-label": label })} />
        <Switch.Control />
        {!hideLabel && <Switch.Label>{label}</Switch.Label>}
      </Switch.Root>
    </Box>
  );
}

/** Read a field of a whole number: none where it is empty, and not a number where it is something else. */
export function wholeNumber(text: string): number | null {
  return text.trim() === "" ? null : Number(text);
}
