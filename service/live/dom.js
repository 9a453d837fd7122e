// What all parts of the page share. Text enters it through textContent alone: a stream's name is data, never markup.
export const at = id => document.getElementById(id);

export function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

export const number = value => value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 9 });
export const time = ms => new Date(ms).toISOString().slice(11, 23);
export const moment = ms => new Date(ms).toISOString().replace("T", " ").replace("Z", " UTC");
export const span = us => { const [unit, size] = [["h", 3.6e9], ["min", 6e7], ["s", 1e6], ["ms", 1e3], ["us", 1]].find(([, size]) => us >= size) ?? ["us", 1]; return `${+(us / size).toPrecision(2)} ${unit}`; };
export const ms = alert => alert.ts / 1e6;
