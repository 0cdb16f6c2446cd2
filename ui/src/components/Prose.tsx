// SPDX-License-Identifier: Apache-2.0
import { Code } from "@chakra-ui/react";

/** Text of the API: commands stand between backticks. */
export function Prose({ text }: { text: string }) {
  return (
    <>
      {text.split("`").map((part, index) =>
        index % 2 === 1 ?
          <Code key={index} overflowWrap="anywhere" whiteSpace="pre-wrap">
            {part}
          </Code>
        : <span key={index}>{part}</span>,
      )}
    </>
  );
}
