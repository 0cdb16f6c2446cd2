// SPDX-License-Identifier: Apache-2.0
import { useState } from "react";

import { api, type PoolChange, type PoolDetail } from "../api/calls";
import { FormDialog } from "../components/dialogs";
import { NumberField, SelectField, TextField, wholeNumber } from "../components/fields";
import { JobVariables, variableChanges, variablesText } from "../components/JobVariables";
import { useLive } from "../hooks/useLive";

interface Props {
  readonly open: boolean;
  readonly close: () => void;
  readonly done: (pool: PoolDetail) => void;
}

const DELIVERIES = [
  { value: "push", label: "push: the scheduler's own worker starts its jobs" },
  { value: "pull", label: "pull: workers that you start elsewhere claim them" },
];

const LIMIT_HELP = "Slots at the same time. Empty: no limit. 0: nothing starts.";
const VARIABLES_HELP = "For all its jobs, like an image. Those of a queue and of a task go over them; the Template tab tries them out.";
const CONNECTION_HELP = "The Airflow connection that opens the infrastructure, if it needs one.";

export function CreatePool({ open, close, done, teams }: Props & { teams: readonly string[] }) {
  const types = useLive("types", (signal) => api.types(signal), { enabled: open, seconds: 3600 });
  const [name, setName] = useState("");
  const [type, setType] = useState("process");
  const [limit, setLimit] = useState("");
  const [delivery, setDelivery] = useState<"push" | "pull">("push");
  const [description, setDescription] = useState("");
  const [connection, setConnection] = useState("");
  const [variables, setVariables] = useState(variablesText({}));
  const [team, setTeam] = useState("");
  const found = types.data?.types ?? [];
  const chosen = found.find((one) => one.type === type);

  return (
    <FormDialog
      close={close}
      open={open}
      submit={async () =>
        done(
          await api.createPool({
            name,
            type,
            delivery,
            concurrency_limit: wholeNumber(limit),
            description: description || null,
            infrastructure_conn_id: connection || null,
            job_variables: variableChanges({}, variables).set_job_variables ?? {},
            team_name: team || null,
          }),
        )
      }
      title="Create a work pool"
      verb="Create"
      wide
    >
      <TextField change={setName} help="Tasks name it: work_queue=&quot;name/queue&quot;." label="Name" required value={name} />
      <SelectField
        change={setType}
        error={chosen?.problem ?? undefined}
        help={chosen?.description ?? undefined}
        label="Type"
        options={found.length ? found.map((one) => ({ value: one.type, label: one.type })) : [{ value: type, label: type }]}
        value={type}
      />
      <SelectField
        change={(value) => setDelivery(value === "pull" ? "pull" : "push")}
        label="Delivery"
        options={DELIVERIES}
        value={delivery}
      />
      <NumberField change={setLimit} help={LIMIT_HELP} label="Concurrency limit" value={limit} />
      <JobVariables change={setVariables} help={VARIABLES_HELP} value={variables} />
      <TextField change={setConnection} help={CONNECTION_HELP} label="Infrastructure connection" value={connection} />
      {teams.length > 0 && (
        <SelectField
          change={setTeam}
          label="Team"
          options={[{ value: "", label: "(none)" }, ...teams.map((one) => ({ value: one, label: one }))]}
          value={team}
        />
      )}
      <TextField change={setDescription} label="Description" value={description} />
    </FormDialog>
  );
}

export function EditPool({ open, close, done, pool: live }: Props & { pool: PoolDetail }) {
  // As it was when the form was opened: what others change meanwhile is not a change that is made here.
  const [pool] = useState(live);
  const before = {
    limit: shownNumber(pool.concurrency_limit),
    startTimeout: shownNumber(pool.start_timeout_seconds),
    startAttempts: shownNumber(pool.start_attempts),
    connection: pool.infrastructure_conn_id ?? "",
    description: pool.description ?? "",
    variables: variablesText(pool.job_variables),
  };
  const [form, setForm] = useState(before);
  const set = (name: keyof typeof before) => (value: string) => setForm((now) => ({ ...now, [name]: value }));
  // What nobody touched is not sent: it may be a default, and somebody else may have changed it meanwhile.
  const changed = <T,>(name: keyof typeof before, change: T) => (form[name] === before[name] ? {} : change);

  return (
    <FormDialog
      close={close}
      open={open}
      submit={async () => {
        const change: Partial<PoolChange> = {
          ...changed("limit", { concurrency_limit: wholeNumber(form.limit) }),
          ...changed("startTimeout", { start_timeout_seconds: wholeNumber(form.startTimeout) }),
          ...changed("startAttempts", { start_attempts: wholeNumber(form.startAttempts) }),
          ...changed("connection", { infrastructure_conn_id: form.connection || null }),
          ...changed("description", { description: form.description || null }),
          ...changed("variables", variableChanges(pool.job_variables, form.variables)),
        };
        done(Object.keys(change).length === 0 ? pool : await api.updatePool(pool.name, change));
      }}
      title={`Edit work pool ${pool.name}`}
      verb="Save"
      wide
    >
      <NumberField change={set("limit")} help={LIMIT_HELP} label="Concurrency limit" value={form.limit} />
      <JobVariables
        change={set("variables")}
        help={VARIABLES_HELP}
        value={form.variables}
      />
      <TextField change={set("connection")} help={CONNECTION_HELP} label="Infrastructure connection" value={form.connection} />
      <NumberField change={set("startTimeout")} help="Seconds from the claim of a job until its task must run. Empty: the default." label="Start timeout" min={1} value={form.startTimeout} />
      <NumberField change={set("startAttempts")} help="How often a job may be tried to start, if its infrastructure does not. Empty: the default." label="Start attempts" min={1} value={form.startAttempts} />
      <TextField change={set("description")} label="Description" value={form.description} />
    </FormDialog>
  );
}

function shownNumber(value: number | null): string {
  return value?.toString() ?? "";
}
