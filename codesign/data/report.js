"use strict";
// The explorer of a report: designs by any two of their columns. Point at one, or walk with the arrow
// keys, and its values stand below; a click or Enter copies the command that builds it.
for (const root of document.querySelectorAll(".cs-explorer")) explore(root);

function explore(root) {
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const canvas = root.querySelector(".cs-canvas"), status = root.querySelector(".cs-status");
  const [across, up] = root.querySelectorAll("select");
  const values = root.querySelector(".cs-values"), command = root.querySelector(".cs-command");
  const svg = make("svg", {class: "cs-plot", role: "group", "aria-label": "designs; arrow keys walk, Enter copies"});
  let current = data.chosen === null ? 0 : data.chosen, points = [], order = [], copied = 0;

  canvas.replaceChildren(svg);
  for (const select of [across, up]) {
    select.disabled = false;
    select.addEventListener("change", draw);
  }
  const button = root.querySelector("button");
  button.disabled = false;
  button.addEventListener("click", copy);
  new ResizeObserver(draw).observe(canvas);
  svg.addEventListener("pointermove", event => {
    const near = nearest(event);
    if (near !== null) show(near);
  });
  svg.addEventListener("click", event => {
    const near = nearest(event);
    if (near === null) return;
    show(near);
    copy();
  });
  svg.addEventListener("keydown", event => {
    const at = order.indexOf(current), last = order.length - 1;
    const to = {ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last}[event.key];
    if (event.key === "Enter" || event.key === " ") copy();
    else if (to === undefined) return;
    else {
      show(order[Math.min(last, Math.max(0, to))]);
      points[current].focus();
    }
    event.preventDefault();
  });
  show(current);

  function make(name, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const columns = [across, up].map(select => data.columns.indexOf(select.value));
    const x = axis(columns[0], 64, width - 16), y = axis(columns[1], height - 46, 30);
    const focused = svg.contains(document.activeElement);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const style = make("style", {}, root.querySelector("template").content.textContent);
    svg.replaceChildren(style, ...lines(x, y, width), ...stair(columns, x, y));
    points = data.rows.map((row, i) => make("circle", {
      cx: x.at(row[columns[0]]), cy: y.at(row[columns[1]]), r: i === data.chosen ? 7 : 5, role: "button", tabindex: -1,
      class: i === data.chosen ? "on" : "p",
      "aria-label": `design ${i + 1}${i === data.chosen ? ", built" : ""}: ${data.columns.map((c, j) => `${c} ${row[j]}`).join(", ")}`,
    }));
    order = [...points.keys()].sort((a, b) => data.rows[a][columns[0]] - data.rows[b][columns[0]] || a - b);
    svg.append(...points.filter((_, i) => i !== data.chosen), ...(data.chosen === null ? [] : [points[data.chosen]]));
    show(current);
    if (focused) points[current].focus();
  }

  function axis(column, first, last) {
    const all = data.rows.map(row => row[column]);
    let low = Math.min(...all), high = Math.max(...all);
    const log = low > 0 && high / low > 20, room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    [low, high] = log ? [low / 1.25, high * 1.25] : [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
    const scale = log ? Math.log : value => value;
    const at = value => first + (scale(value) - scale(low)) / (scale(high) - scale(low)) * (last - first);
    return {name: data.columns[column] + (log ? " (log)" : ""), at, first, last, ticks: log ? powers(low, high) : steps(low, high, Math.abs(last - first))};
  }

  function steps(low, high, pixels) {
    const rough = (high - low) / Math.max(2, Math.min(8, pixels / 90)), power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(unit => power * unit >= rough), found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p++)
      for (const unit of high / low > 1000 ? [1] : [1, 2, 5]) if (unit * 10 ** p >= low && unit * 10 ** p <= high) found.push(unit * 10 ** p);
    return found;
  }

  function lines(x, y, width) {
    const number = value => Math.abs(value) >= 1e4 ? `${Number((value / 1e3).toPrecision(4))}k` : `${Number(value.toPrecision(4))}`;
    const found = [];
    for (const value of x.ticks) {
      found.push(make("line", {x1: x.at(value), x2: x.at(value), y1: y.first, y2: y.last}));
      found.push(make("text", {x: x.at(value), y: y.first + 17, "text-anchor": "middle"}, number(value)));
    }
    for (const value of y.ticks) {
      found.push(make("line", {x1: x.first, x2: x.last, y1: y.at(value), y2: y.at(value)}));
      found.push(make("text", {x: x.first - 6, y: y.at(value) + 4, "text-anchor": "end"}, number(value)));
    }
    found.push(make("text", {x: (64 + width) / 2, y: y.first + 38, "text-anchor": "middle", class: "m"}, x.name));
    found.push(make("text", {x: 4, y: 16, class: "m"}, y.name));
    return found;
  }

  function stair(columns, x, y) {
    if (!columns.every(column => data.objectives.includes(data.columns[column]))) return [];
    const pairs = data.rows.map(row => columns.map(column => row[column])).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    let path = "", least = Infinity;
    for (const [a, b] of pairs) {
      if (b >= least) continue;
      path += path ? `H${x.at(a)}V${y.at(b)}` : `M${x.at(a)} ${y.last}V${y.at(b)}`;
      least = b;
    }
    return [make("path", {class: "stair", d: `${path}H${x.last}`})];
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    let found = null, best = 20 ** 2;
    points.forEach((point, i) => {
      const dx = point.cx.baseVal.value - (event.clientX - box.left), dy = point.cy.baseVal.value - (event.clientY - box.top);
      if (dx * dx + dy * dy <= best) [found, best] = [i, dx * dx + dy * dy];
    });
    return found;
  }

  function show(i) {
    if (points.length) {
      points[current].setAttribute("tabindex", -1);
      points[current].setAttribute("r", current === data.chosen ? 7 : 5);
      points[i].setAttribute("tabindex", 0);
      points[i].setAttribute("r", 9);
    }
    if (i !== current) status.textContent = "";
    current = i;
    root.querySelector(".cs-which").textContent = `design ${i + 1} of ${data.rows.length}${i === data.chosen ? " (built)" : ""}`;
    values.replaceChildren(...data.columns.map((name, j) => {
      const pair = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
      [term.textContent, value.textContent] = [name, Number(data.rows[i][j].toPrecision(6)).toLocaleString("en")];
      pair.append(term, value);
      return pair;
    }));
    command.textContent = data.commands[i];
  }

  async function copy() {
    const text = data.commands[current], number = ++copied;
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const range = document.createRange(), selection = getSelection();
      range.selectNodeContents(command);
      selection.removeAllRanges();
      selection.addRange(range);
      done = document.execCommand("copy");
    }
    if (number === copied) status.textContent = done ? "copied" : "select the command to copy it";
  }
}
