// How far the features and the score have moved from training, the furthest first.
import { at, make } from "./dom.js";

const FAR = 0.25;
const SOME = 0.1;
const FULL = 1;  // an index that fills the bar
const word = psi => psi > FAR ? "shifted" : psi >= SOME ? "shifting" : "stable";
let shown = "";

export function drift(told) {
  const known = Object.entries(told).filter(([, psi]) => psi !== null).sort(([, a], [, b]) => b - a);
  const text = JSON.stringify(known.map(([name, psi]) => [name, psi.toFixed(2)]));
  at("drift").hidden = Object.keys(told).length === 0;
  if (text === shown) return;
  shown = text;
  at("drifted").textContent = known.length ? summary(known) : "not known: too few ticks yet, or a model without the populations of its training";
  at("shifts").replaceChildren(...known.map(([name, psi]) => {
    const line = make("li", word(psi));
    const bar = make("span", "level");
    bar.append(make("span"));
    bar.firstChild.style.width = `${Math.min(psi / FULL, 1) * 100}%`;
    line.append(make("span", "name", name.replace("_", " ")), bar, make("span", "value", psi.toFixed(2)), make("span", "word", word(psi)));
    return line;
  }));
}

function summary(known) {
  const score = known.find(([name]) => name === "score");
  const features = known.filter(([name]) => name !== "score");
  const far = features.filter(([, psi]) => psi > FAR).length;
  return `score ${score ? `${word(score[1])}, ${score[1].toFixed(2)}` : "not known"}; ${far} of ${features.length} features shifted`;
}
