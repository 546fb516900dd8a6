/** Takes the card's memory but for some GiB and holds it until it is killed. Usage: bun scripts/gpu/hold_memory.ts GIB */
import { openChecked } from "./check.ts";

const leave = Number(process.argv[2] ?? 6) * 2 ** 30;
const device = openChecked("cuda");
const piece = 2 ** 30;
let held = 0;
for (; device.backend.memory!().free - piece > leave; held += piece) device.backend.allocate(piece);
console.log(`holding ${held / 2 ** 30} GiB`);
setInterval(() => {}, 1000);
