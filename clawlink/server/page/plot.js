// Lines over the minutes of an hour, drawn by uPlot. It is larger than all else, so it is loaded after the first view.
import { html, useEffect, useRef, useState } from "./htm-preact.js";
import { clock } from "./parts.js";

const HEIGHT = 150;
const STEPS = [1, 2, 5, 10, 20, 50].flatMap((step) => [1, 100, 1e4, 1e6, 1e8].map((times) => step * times)).sort((a, b) => a - b);
const STEPS_OF_BYTES = Array.from({ length: 40 }, (_, power) => 2 ** power);
let loading = null;

// uPlot asks for the language of the browser. One without any may name "en-US@posix", which is no language.
function haveLanguage() {
  try {
    new Intl.Locale(navigator.language);
  } catch {
    Object.defineProperty(navigator, "language", { value: "en-US" });
  }
}

function load() {
  loading = loading || new Promise((done, failed) => {
    haveLanguage();
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "page/uplot.css" });
    const script = Object.assign(document.createElement("script"), { src: "page/uplot.js", onload: done, onerror: failed });
    document.head.append(sheet, script);
  });
  return loading;
}

// Five minutes at least. Of a single minute uPlot itself would show the day that follows.
function spanOf(plot) {
  const times = plot.data[0];
  const last = times[times.length - 1];
  return [Math.min(times[0], last - 300), last];
}

const dark = matchMedia("(prefers-color-scheme: dark)");

const fieldOf = (minute, field) => minute[field];

// Draw the fields of the minutes, each in the color of its name or place. ``value`` finds the number of a field, and
// ``show`` makes the words of a number of bytes.
export function Plot({ minutes, fields, colors = fields, value = fieldOf, show = null }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [ready, set] = useState(Boolean(window.uPlot));
  const [theme, turn] = useState(dark.matches);
  const last = JSON.stringify(minutes[minutes.length - 1] || null);
  const data = [minutes.map((minute) => Date.parse(minute.at) / 1000), ...fields.map((field) => minutes.map((minute) => value(minute, field)))];
  useEffect(() => {
    let gone = false;
    if (!ready) load().then(() => gone || set(true), () => {});
    const turned = () => turn(dark.matches);
    dark.addEventListener("change", turned);
    return () => {
      gone = true;
      dark.removeEventListener("change", turned);
    };
  }, []);
  useEffect(() => {
    if (!ready) return undefined;
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    const width = () => Math.max(place.current.clientWidth, 200);
    const made = new uPlot(
      {
        width: width(), height: HEIGHT, legend: { show: false }, cursor: { show: false },
        scales: { x: { range: spanOf }, y: { range: (self, low, high) => [0, Math.max(1.1 * high, 4)] } },
        axes: [
          { ...axis, size: 30, gap: 9, space: 60, incrs: [60, 120, 300, 600, 900, 1800], values: (self, at) => at.map((second) => clock(second * 1000)) },
          { ...axis, size: 56, incrs: show ? STEPS_OF_BYTES : STEPS, ...(show && { values: (self, numbers) => numbers.map(show) }) },
        ],
        series: [{}, ...fields.map((field, n) => ({ stroke: color(`--${colors[n]}`), width: 2, points: { show: minutes.length < 3 } }))],
      },
      data,
      place.current,
    );
    plot.current = made;
    const resize = new ResizeObserver(() => made.setSize({ width: width(), height: HEIGHT }));
    resize.observe(place.current);
    return () => {
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [ready, theme]);
  useEffect(() => {
    if (plot.current) plot.current.setData(data);
  }, [last]);
  return html`<div class="plot" ref=${place} aria-hidden="true"></div>`;
}
