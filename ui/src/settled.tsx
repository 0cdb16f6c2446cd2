// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState, type ComponentType } from "react";
import { useLocation, useNavigate } from "react-router-dom";

const settled = new Set<string>();

/**
 * A page that stays mounted while somebody uses it.
 *
 * Airflow shows a part of a plugin lazily until it is loaded, and when it renders the next time takes the part itself: for
 * React that is another component. What was typed would be lost, and where the focus was, with the first click on a tab.
 * So that next time is brought about before anything is shown.
 */
export function settling<P extends object>(name: string, Page: ComponentType<P>): ComponentType<P> {
  return function Settled(props: P) {
    const location = useLocation();
    const navigate = useNavigate();
    const [ready, setReady] = useState(settled.has(name));
    useEffect(() => {
      if (ready) return;
      settled.add(name);
      void navigate(location, { replace: true, state: location.state as unknown });
      setReady(true);
    }, [ready, location, navigate]);
    return ready ? <Page {...props} /> : null;
  };
}
