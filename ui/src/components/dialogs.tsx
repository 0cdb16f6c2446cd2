// SPDX-License-Identifier: Apache-2.0
import { Box, Button, CloseButton, Dialog, Portal, Stack } from "@chakra-ui/react";
import { useState, type FormEvent, type ReactNode } from "react";

import { useAction } from "../hooks/useAction";
import { Failure } from "./states";

interface FrameProps {
  readonly title: string;
  readonly open: boolean;
  readonly close: () => void;
  readonly children: ReactNode;
  readonly wide?: boolean;
  readonly alert?: boolean;
}

function Frame({ title, open, close, children, wide = false, alert = false }: FrameProps) {
  return (
    <Dialog.Root
      lazyMount
      onOpenChange={(change) => !change.open && close()}
      open={open}
      role={alert ? "alertdialog" : "dialog"}
      scrollBehavior="inside"
      size={wide ? "lg" : "sm"}
      unmountOnExit
    >
      <Portal>
        <Dialog.Backdrop />
        <Dialog.Positioner>
          <Dialog.Content>
            <Dialog.Header>
              <Dialog.Title>{title}</Dialog.Title>
            </Dialog.Header>
            {children}
            <Dialog.CloseTrigger asChild>
              <CloseButton aria-label="Close" size="sm" />
            </Dialog.CloseTrigger>
          </Dialog.Content>
        </Dialog.Positioner>
      </Portal>
    </Dialog.Root>
  );
}

interface ConfirmProps {
  readonly title: string;
  readonly children: ReactNode;
  /** The word on the button: what is done. */
  readonly verb: string;
  readonly act: () => Promise<unknown>;
  readonly done?: () => void;
  readonly open: boolean;
  readonly close: () => void;
  readonly danger?: boolean;
}

/** Asks before something is done that others will notice. */
export function Confirm({ title, children, verb, act, done, open, close, danger = false }: ConfirmProps) {
  const action = useAction(act, () => {
    close();
    done?.();
  });
  return (
    <Frame
      alert
      close={() => {
        action.clear();
        close();
      }}
      open={open}
      title={title}
    >
      <Dialog.Body>
        <Stack gap={3}>
          <Box wordBreak="break-word">{children}</Box>
          {action.error && <Failure error={action.error} />}
        </Stack>
      </Dialog.Body>
      <Dialog.Footer>
        <Button onClick={close} variant="outline">
          Keep as it is
        </Button>
        <Button colorPalette={danger ? "red" : "blue"} loading={action.busy} onClick={() => void action.run()}>
          {verb}
        </Button>
      </Dialog.Footer>
    </Frame>
  );
}

interface FormProps {
  readonly title: string;
  readonly verb: string;
  readonly open: boolean;
  readonly close: () => void;
  readonly submit: () => Promise<unknown>;
  readonly done?: () => void;
  readonly children: ReactNode;
  readonly wide?: boolean;
}

/** A form in a dialog; what is wrong is shown in it, and nothing typed is lost. */
export function FormDialog({ title, verb, open, close, submit, done, children, wide = false }: FormProps) {
  const action = useAction(submit, () => {
    close();
    done?.();
  });
  const send = (event: FormEvent) => {
    event.preventDefault();
    void action.run();
  };
  return (
    <Frame
      close={() => {
        action.clear();
        close();
      }}
      open={open}
      title={title}
      wide={wide}
    >
      <Box as="form" display="contents" onSubmit={send}>
        <Dialog.Body>
          <Stack gap={4}>
            {children}
            {action.error && <Failure error={action.error} />}
          </Stack>
        </Dialog.Body>
        <Dialog.Footer>
          <Button onClick={close} type="button" variant="outline">
            Cancel
          </Button>
          <Button colorPalette="blue" loading={action.busy} type="submit">
            {verb}
          </Button>
        </Dialog.Footer>
      </Box>
    </Frame>
  );
}

/** A button that asks before it acts. */
export function ConfirmButton({
  label,
  disabled = false,
  why,
  ...confirm
}: Omit<ConfirmProps, "open" | "close"> & { label: string; disabled?: boolean; why?: string | undefined }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button
        colorPalette={confirm.danger ? "red" : "gray"}
        disabled={disabled}
        onClick={() => setOpen(true)}
        size="xs"
        title={disabled ? why : undefined}
        variant="outline"
      >
        {label}
      </Button>
      <Confirm {...confirm} close={() => setOpen(false)} open={open} />
    </>
  );
}
