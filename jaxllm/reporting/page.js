"use strict";
// Reads single values off a chart with the pointer or the arrow keys; hides runs by the legend.

function shown(number) {
  if (number === null) return "not finite";
  const size = Math.abs(number);
  if (size !== 0 && size < 1e-3) return number.toExponential(3).replace(/-/g, "\u2212");
  return number.toLocaleString("en", { maximumSignificantDigits: 5 }).replace("-", "\u2212");
}

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle; else high = middle;
  }
  return step - steps[low] <= steps[high] - step ? low : high;
}

function place([low, high], log, value) {
  return log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
}

function element(kind, className, text) {
  const made = document.createElement(kind);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function readable(figure) {
  const area = figure.querySelector(".plot");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const cursor = area.querySelector(".cursor"), tip = area.querySelector(".tip");
  const visible = () => data.lines.filter(
    (line) => !document.body.classList.contains("off-" + line.group));
  const allSteps = [...new Set(data.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  let at = allSteps.length - 1;

  function show(step) {
    const lines = visible();
    cursor.replaceChildren();
    tip.replaceChildren(element("div", "", "step " + step.toLocaleString("en")));
    for (const line of lines) {
      const index = nearest(line.steps, step), value = line.values[index];
      // A run that begins well after this step, or ended well before, has nothing to say here.
      const near = 0.05 * (data.x[1] - data.x[0]);
      if (step < line.steps[0] - near || step > line.steps.at(-1) + near) continue;
      const row = element("div", ""), name = element("span", "");
      name.append(element("i", "swatch c" + line.colour), line.label);
      // Curves with points of their own: the step that the value belongs to.
      if (line.steps[index] !== step) {
        name.append(element("small", "", "at " + line.steps[index].toLocaleString("en")));
      }
      row.append(name, element("b", "", shown(value)));
      tip.append(row);
      if (value === null) continue;
      const dot = element("i", "dot c" + line.colour);
      dot.style.top = 100 - 100 * place(data.y, data.log, value) + "%";
      cursor.append(dot);
    }
    const share = place(data.x, false, step);
    cursor.hidden = tip.hidden = lines.length === 0;
    cursor.style.left = 100 * share + "%";
    // Beside the cursor, towards the middle, and never beyond the card.
    const room = area.clientWidth, width = tip.offsetWidth, left = share * room;
    const wanted = share < 0.5 ? left + 14 : left - 14 - width;
    tip.style.left = Math.max(-40, Math.min(wanted, room + 16 - width)) + "px";
  }

  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    at = nearest(allSteps, data.x[0] + share * (data.x[1] - data.x[0]));
    show(allSteps[at]);
  });
  area.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(allSteps.length - 1, Math.max(0, at + move));
    show(allSteps[at]);
  });
  for (const end of ["pointerleave", "blur"]) {
    area.addEventListener(end, () => { cursor.hidden = tip.hidden = true; });
  }
}

for (const figure of document.querySelectorAll("figure.chart")) {
  if (figure.querySelector(".plot")) readable(figure);
}
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const off = document.body.classList.toggle("off-" + button.dataset.run);
    button.setAttribute("aria-pressed", String(!off));
  });
}
