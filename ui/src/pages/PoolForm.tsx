// SPDX-License-Identifier: Apache-2.0
import { useState } from "react";

import { api, type Pool, type PoolDetail } from "../api/calls";
import { FormDialog } from "../components/dialogs";
import { NumberField, SelectField, TextField, wholeNumber } from "../components/fields";
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

export function CreatePool({ open, close, done, teams }: Props & { teams: readonly string[] }) {
  const types = useLive("types", (signal) => api.types(signal), { enabled: open, seconds: 3600 });
  const [name, setName] = useState("");
  const [type, setType] = useState("process");
  const [limit, setLimit] = useState("");
  const [delivery, setDelivery] = useState<"push" | "pull">("push");
  const [description, setDescription] = useState("");
  const [connection, setConnection] = useState("");
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
            team_name: team || null,
          }),
        )
      }
      title="Create a work pool"
      verb="Create"
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
      <NumberField change={setLimit} help="Slots at the same time. Empty: no limit. 0: nothing starts." label="Concurrency limit" value={limit} />
      <TextField change={setConnection} help="The Airflow connection that opens the infrastructure, if it needs one." label="Infrastructure connection" value={connection} />
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

export function EditPool({ open, close, done, pool }: Props & { pool: Pool | PoolDetail }) {
  const [limit, setLimit] = useState(pool.concurrency_limit?.toString() ?? "");
  const [description, setDescription] = useState(pool.description ?? "");
  const timeout = "start_timeout_seconds" in pool ? (pool.start_timeout_seconds?.toString() ?? "") : "";
  const [startTimeout, setStartTimeout] = useState(timeout);

  return (
    <FormDialog
      close={close}
      open={open}
      submit={async () =>
        done(
          await api.updatePool(pool.name, {
            concurrency_limit: wholeNumber(limit),
            description: description || null,
            ...(startTimeout === timeout ? {} : { start_timeout_seconds: wholeNumber(startTimeout) }),
          }),
        )
      }
      title={`Edit work pool ${pool.name}`}
      verb="Save"
    >
      <NumberField change={setLimit} help="Slots at the same time. Empty: no limit. 0: nothing starts." label="Concurrency limit" value={limit} />
      <NumberField change={setStartTimeout} help="Seconds from the claim of a job until its task must run. Empty: the default." label="Start timeout" min={1} value={startTimeout} />
      <TextField change={setDescription} label="Description" value={description} />
    </FormDialog>
  );
}
