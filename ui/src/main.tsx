// SPDX-License-Identifier: Apache-2.0
import { Dashboard } from "./pages/Dashboard";
import { TaskInstance } from "./pages/TaskInstance";
import { WorkPools } from "./pages/WorkPools";
import { settling } from "./settled";

/**
 * Airflow looks for a part of a plugin under the part's name, before it loads a bundle for it. So all parts are in one
 * bundle, which is loaded once.
 */
const parts = {
  "Work pools": settling("Work pools", WorkPools),
  "Work pool": settling("Work pool", TaskInstance),
  "Work pools at a glance": Dashboard,
};

for (const [name, part] of Object.entries(parts)) Reflect.set(globalThis, name, part);

export default parts["Work pools"];
