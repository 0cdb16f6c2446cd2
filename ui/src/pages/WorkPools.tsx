// SPDX-License-Identifier: Apache-2.0
import { Box } from "@chakra-ui/react";
import { useParams } from "react-router-dom";

import { readPlace } from "../links";
import { PoolList } from "./PoolList";
import { PoolPage } from "./PoolPage";

/** The pages under Browse: what is shown is in the address. */
export function WorkPools() {
  const { pool, tab } = readPlace(useParams()["*"] ?? "");
  return (
    <Box height="100%" overflow="auto" p={{ base: 3, md: 5 }} width="100%">
      {pool === undefined ? <PoolList /> : <PoolPage key={pool} name={pool} tab={tab} />}
    </Box>
  );
}
