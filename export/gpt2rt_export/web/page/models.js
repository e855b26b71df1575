// The model of this page, which has one.

import { about } from "./api.js";

let name = "";
about.then(model => { name = model.name; });

export const chosenModel = () => name;
