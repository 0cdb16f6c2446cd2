// SPDX-License-Identifier: Apache-2.0
import { Box } from "@chakra-ui/react";
import { useParams, useSearchParams } from "react-router-dom";

import { readTab } from "../links";
import { PoolList } from "./PoolList";
import { PoolPage } from "./PoolPage";

/** The pages under Browse: what is shown is in the address. */
export function WorkPools() {
  const pool = useParams()["*"]?.split("/")[0];
  const tab = readTab(useSearchParams()[0]);
  return (
    <Box data-workpools="pools" height="100%" overflow="auto" p={{ base: 3, md: 5 }} width="100%">
      {!pool ? <PoolList /> : <PoolPage key={pool} name={pool} tab={tab} />}
    </Box>
  );
}
