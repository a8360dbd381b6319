"use strict";
document.documentElement.classList.add("live");

// ---- tables: a click on a heading sorts, by numbers where there are any, else by the alphabet
function valueOf(cell) {
  const given = cell.dataset.value;
  const number = parseFloat(given ?? cell.textContent.replace("−", "-"));
  return isNaN(number) ? null : number;
}
function sortBy(header) {
  const place = header.cellIndex, body = header.closest("table").tBodies[0];
  const rows = [...body.rows], numbers = rows.some(row => valueOf(row.cells[place]) !== null);
  const first = numbers && place ? "descending" : "ascending";
  const other = first === "descending" ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  for (const cell of header.parentElement.cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => {
    a = a.cells[place]; b = b.cells[place];
    if (!numbers || !place) return sign * a.textContent.trim().localeCompare(b.textContent.trim());
    const x = valueOf(a), y = valueOf(b);
    // What is not there stands last, whichever way.
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
  rows.sort(compare).forEach(row => body.append(row));
}
for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => sortBy(button.parentElement));

// ---- figures: what is nearest to the pointer tells its values; arrow keys go from one to the next
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("role", "status");
document.body.append(tip);
let on = null;

function hide() {
  if (on) on.classList.remove("on");
  on = null;
  tip.hidden = true;
}
function show(circle) {
  if (circle === on) return;
  hide();
  on = circle;
  circle.classList.add("on");
  tip.textContent = circle.told;
  tip.hidden = false;
  const box = circle.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth - own.width - 6;
  tip.style.left = Math.max(6, Math.min(box.x + box.width / 2 + 10, room)) + "px";
  const above = box.y - own.height - 6;
  tip.style.top = (above > 4 ? above : box.y + box.height + 6) + "px";
}
function reveal(svg) {
  const circles = [...svg.querySelectorAll(".told circle")];
  for (const circle of circles) {
    const title = circle.firstElementChild;
    circle.told = title.textContent;
    title.remove();  // or the browser would show it a second time
  }
  const seen = () => circles.filter(circle => circle.getClientRects().length);
  const nearest = event => {
    let best = null, least = 26 * 26;
    for (const circle of seen()) {
      const box = circle.getBoundingClientRect();
      const x = box.x + box.width / 2 - event.clientX, y = box.y + box.height / 2 - event.clientY;
      if (x * x + y * y < least) { least = x * x + y * y; best = circle; }
    }
    best ? show(best) : hide();
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  svg.tabIndex = 0;
  svg.setAttribute("aria-description", "Arrow keys tell the values one by one.");
  svg.addEventListener("keydown", event => {
    if (event.key === "Escape") return hide();
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const all = seen();
    if (!step || !all.length) return;
    event.preventDefault();
    const place = all.indexOf(on);
    show(all[place < 0 ? (step > 0 ? 0 : all.length - 1) : (place + step + all.length) % all.length]);
  });
  svg.addEventListener("blur", hide);
}
for (const svg of document.querySelectorAll("figure svg"))
  if (svg.querySelector(".told")) reveal(svg);
addEventListener("scroll", hide, {passive: true});
addEventListener("change", hide);

// ---- figures: each can be taken away
for (const button of document.querySelectorAll(".save")) {
  button.setAttribute("aria-label", "Save this figure as SVG");
  button.addEventListener("click", () => {
    const svg = button.parentElement.querySelector("svg"), copy = svg.cloneNode(true);
    const box = svg.viewBox.baseVal;
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    // What is hidden here is not in it.
    const here = [...svg.querySelectorAll("[data-method]")];
    [...copy.querySelectorAll("[data-method]")].forEach((part, i) => {
      if (getComputedStyle(here[i]).display === "none") part.remove();
    });
    for (const part of copy.querySelectorAll(".told")) part.remove();
    // A page of its own: black on white, whatever this one is.
    copy.setAttribute("style", "color:#1d2327;--line:#c9ced2;font-family:sans-serif;background:#fff");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], {type: "image/svg+xml"}));
    link.download = svg.getAttribute("aria-label").replace(/[^\w]+/g, "-").slice(0, 60) + ".svg";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
