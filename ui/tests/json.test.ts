// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";

import { lineOf, parseJson, pointerParts } from "../src/jsonText";
import { kindOf } from "../src/template";

const TEXT = `{
  "variables": {
    "properties": {
      "a b": {"type": "strnig"},
      "list": [
        1,
        {"x": 2}
      ]
    }
  }
}`;

test.each([
  ["/variables/properties/a b/type", 4],
  ["/variables/properties/list/1/x", 7],
  ["/variables/properties/gone", 3],
  ["", 1],
])("%s is in line %i", (path, line) => {
  expect(lineOf(TEXT, path)).toBe(line);
});

test("pointers may name anything", () => {
  expect(pointerParts("/a/0/b~1c/~0d")).toEqual(["a", "0", "b/c", "~d"]);
  expect(pointerParts("")).toEqual([]);
});

test("what is no JSON is told with its line", () => {
  expect(parseJson('{"a": 1}')).toEqual({ value: { a: 1 } });
  expect(parseJson('{\n"a": 1,\n}').error?.line).toBe(3);
  expect(parseJson('{\n"a": ').error).toMatchObject({ line: 2, message: expect.stringContaining("no JSON") as string });
});

test("how a variable is asked for", () => {
  expect(kindOf({ type: "string" })).toBe("text");
  expect(kindOf({ anyOf: [{ type: "integer" }, { type: "null" }] })).toBe("number");
  expect(kindOf({ type: "boolean" })).toBe("switch");
  expect(kindOf({ enum: ["a"] })).toBe("select");
  expect(kindOf({ type: ["object", "null"] })).toBe("json");
  expect(kindOf({})).toBe("json");
});
