// The key of the server, asked for where one is missing, and the messages of what went wrong.

import { key } from "./api.js";
import { by, fault } from "./dom.js";

/** Makes the dialog and the messages work; `again` is called with a new key. */
export function startAccess(again) {
  const dialog = by("key"), field = by("key-value");
  const use = value => {
    key.set(value);
    field.value = "";
    dialog.close();
    fault(null);
    again();
  };
  by("fault-close").addEventListener("click", () => fault(null));
  by("key-open").addEventListener("click", () => dialog.showModal());
  by("key-forget").addEventListener("click", () => use(""));
  by("key-form").addEventListener("submit", event => {
    event.preventDefault();
    use(field.value.trim());
  });
}
