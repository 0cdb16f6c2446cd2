// SPDX-License-Identifier: Apache-2.0
import { defineConfig } from "vitest/config";

/** What Airflow's UI shares with its plugins: one React and one theme for the whole page. */
const shared: Record<string, string> = {
  react: "React",
  "react-dom": "ReactDOM",
  "react/jsx-runtime": "ReactJSXRuntime",
  "react-router-dom": "ReactRouterDOM",
  "@chakra-ui/react": "ChakraUI",
};

export default defineConfig(({ command }) => ({
  // Where a package asks for it, there is no Node in a browser.
  define: command === "build" ? { "process.env.NODE_ENV": JSON.stringify("production") } : {},
  build: {
    outDir: "../airflow_workpools/ui/dist",
    emptyOutDir: true,
    target: "es2022",
    lib: {
      entry: "src/main.tsx",
      name: "AirflowPlugin",
      formats: ["umd"],
      // A name that every web server knows the type of.
      fileName: () => "workpools.js",
    },
    rolldownOptions: {
      external: Object.keys(shared),
      output: { globals: shared, exports: "default" },
    },
  },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: ["tests/setup.ts"],
    restoreMocks: true,
    unstubGlobals: true,
    // To load Chakra once takes longer than all tests.
    isolate: false,
  },
}));
