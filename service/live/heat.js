// The hottest streams as squares in the order of their names, so that a stream keeps its place while it glows and cools.
import { at, make } from "./dom.js";

const place = at("cells");
const cells = new Map();

export function heat({ stream, score, active }, threshold, choose) {
  const wanted = new Set(stream);
  for (const [name, cell] of cells) if (!wanted.has(name)) { cell.remove(); cells.delete(name); }
  stream.forEach((name, i) => {
    let cell = cells.get(name);
    if (!cell) {
      cell = make("button");
      cell.append(make("span", "name", name), make("span", "value"));
      cell.tabIndex = -1;
      cell.addEventListener("click", () => choose(name));
      cells.set(name, cell);
    }
    if (place.children[i] !== cell) place.insertBefore(cell, place.children[i] ?? null);
    const text = score[i].toFixed(1);
    if (cell.lastChild.textContent !== text) {
      cell.lastChild.textContent = text;
      cell.className = level(score[i], threshold);
      cell.title = `${name}: highest recent score ${text}`;
    }
  });
  if (place.firstChild && !place.querySelector("[tabindex='0']")) place.firstChild.tabIndex = 0;
  at("no-heat").hidden = stream.length > 0;
  const all = active.toLocaleString("en");
  at("shown").textContent = stream.length < active ? `the ${stream.length} hottest of ${all}` : `${all} active`;
}

const level = (score, threshold) => score >= threshold ? "h4" : score >= 3 ? "h3" : score >= 2 ? "h2" : score >= 1 ? "h1" : "h0";

place.addEventListener("keydown", event => {  // one stop of the Tab key; arrows move among the squares
  const all = [...place.children];
  const here = all.indexOf(document.activeElement);
  const wide = all.filter(cell => cell.offsetTop === all[0].offsetTop).length;
  const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -here, End: all.length - 1 - here }[event.key];
  const next = all[here + move];
  if (here < 0 || !next) return;
  event.preventDefault();
  all[here].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
