// The map and its strips on one canvas: a row of cells a block, and beside it what follows from it.

const HEAD = 34, FOOT = 40, FINGER = 4; // pixels above and below the rows; a drag is longer

class BlockMap {
  constructor(canvas, tooltip, on) {
    this.canvas = canvas;
    this.tooltip = tooltip;
    this.on = on; // look(block, group), choose(blocks), toggle(block)
    this.cursor = null;
    this.box = null;
    canvas.addEventListener("pointerdown", e => this.down(e));
    canvas.addEventListener("pointermove", e => this.move(e));
    canvas.addEventListener("pointerup", e => this.up(e));
    canvas.addEventListener("pointercancel", () => { this.box = null; this.draw(this.model); });
    canvas.addEventListener("pointerleave", () => { this.tooltip.hidden = true; });
    canvas.addEventListener("keydown", e => this.key(e));
    canvas.addEventListener("blur", () => { this.tooltip.hidden = true; this.draw(this.model); });
  }

  layout(width, height, blocks, groups) {
    const narrow = width < 560;
    const gutter = narrow ? 36 : 44, gap = narrow ? 8 : 16;
    const strip = Math.round(Math.max(44, Math.min(110, (width - gutter) * 0.15)));
    const cells = Math.max(60, width - gutter - 3 * (strip + gap) - 6);
    const row = (height - HEAD - FOOT) / blocks;
    const strips = [0, 1, 2].map(i => gutter + cells + gap + i * (strip + gap));
    return { width, height, gutter, cells, strip, row, strips, blocks, groups, cell: cells / groups };
  }

  // Where a point lies: its block, and its group where it is on a cell.
  place(event) {
    const box = this.canvas.getBoundingClientRect(), l = this.shape;
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const block = l.blocks - 1 - Math.floor((y - HEAD) / l.row);
    if (block < 0 || block >= l.blocks) return { x, y, block: null, group: null };
    const group = Math.floor((x - l.gutter) / l.cell);
    return { x, y, block, group: group >= 0 && group < l.groups ? group : null, gutter: x < l.gutter };
  }

  down(event) {
    if (event.button) return;
    const start = this.place(event);
    this.canvas.setPointerCapture?.(event.pointerId);
    this.box = { start, end: start, drawn: false };
  }

  move(event) {
    const here = this.place(event);
    if (this.box) {
      this.box.end = here;
      this.box.drawn ||= Math.hypot(here.x - this.box.start.x, here.y - this.box.start.y) > FINGER;
      if (this.box.drawn) { this.tooltip.hidden = true; this.draw(this.model); return; }
    }
    this.canvas.style.cursor = here.block === null ? "default" : "pointer";
    this.point(here);
  }

  up() {
    const box = this.box;
    this.box = null;
    if (!box) return;
    if (box.drawn) {
      const rows = [box.start, box.end].map(p => this.shape.blocks - 1 - Math.floor((p.y - HEAD) / this.shape.row));
      const last = this.shape.blocks - 1, [low, high] = rows.map(r => Math.min(last, Math.max(0, r))).sort((a, b) => a - b);
      this.on.choose(Array.from({ length: high - low + 1 }, (_, i) => low + i));
    } else if (box.start.block !== null) {
      this.cursor = { block: box.start.block, group: box.start.group ?? 0 };
      if (box.start.gutter) this.on.toggle(box.start.block);
      else if (box.start.group !== null) this.on.look(box.start.block, box.start.group);
    }
    this.draw(this.model);
  }

  key(event) {
    const l = this.shape, c = this.cursor ?? { block: 0, group: 0 };
    const moves = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    if (moves[event.key]) {
      const [up, right] = this.cursor ? moves[event.key] : [0, 0];
      this.cursor = {
        block: Math.min(l.blocks - 1, Math.max(0, c.block + up)),
        group: Math.min(l.groups - 1, Math.max(0, c.group + right)),
      };
    } else if (event.key === "Home" || event.key === "End") {
      this.cursor = { ...c, group: event.key === "Home" ? 0 : l.groups - 1 };
    } else if (event.key === "Enter") this.on.look(c.block, c.group);
    else if (event.key === " ") this.on.toggle(c.block);
    else return;
    event.preventDefault();
    this.point({ ...this.cursor ?? c, x: l.gutter + ((this.cursor ?? c).group + 0.5) * l.cell, y: this.top((this.cursor ?? c).block) });
    this.draw(this.model);
  }

  top(block) { return HEAD + (this.shape.blocks - 1 - block) * this.shape.row; }

  point(here) { // the tooltip of a place
    const said = here.block === null || !this.model ? "" : this.model.said(here.block, here.group);
    this.tooltip.hidden = !said;
    if (!said) return;
    this.tooltip.textContent = said;
    const left = Math.min(here.x + 14, this.shape.width - this.tooltip.offsetWidth - 4);
    this.tooltip.style.left = `${Math.max(0, left)}px`;
    this.tooltip.style.top = `${here.y + 18}px`;
  }

  // model: { blocks, groups, cells(block, group) -> colour or null, title, ticks, chosen, means,
  //          keep, spread(block), kept, after, base, look }
  draw(model, surface = null) {
    if (!model) return;
    this.model = model;
    const size = this.canvas.getBoundingClientRect();
    if (!size.width) return;
    const dots = surface ? 2 : devicePixelRatio || 1, canvas = surface ?? this.canvas;
    const w = Math.round(size.width * dots), h = Math.round(size.height * dots);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    this.shape = this.layout(size.width, size.height, model.blocks, model.groups);
    const pen = canvas.getContext("2d");
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, size.width, size.height);
    if (surface) { pen.fillStyle = model.look.ground; pen.fillRect(0, 0, size.width, size.height); }
    drawMap(new CanvasPen(pen, model.look.font), this, model);
  }
}

// What a canvas and an SVG have in common, so that the picture and its export are one.
class CanvasPen {
  constructor(pen, font) { this.pen = pen; this.font = font; }
  rect(x, y, w, h, fill, stroke) {
    if (fill) { this.pen.fillStyle = fill; this.pen.fillRect(x, y, w, h); }
    if (stroke) { this.pen.strokeStyle = stroke; this.pen.lineWidth = 2; this.pen.strokeRect(x, y, w, h); }
  }
  line(points, colour, width = 1) {
    this.pen.strokeStyle = colour; this.pen.lineWidth = width; this.pen.beginPath();
    points.forEach(([x, y], i) => i ? this.pen.lineTo(x, y) : this.pen.moveTo(x, y));
    this.pen.stroke();
  }
  dot(x, y, r, fill) { this.pen.fillStyle = fill; this.pen.beginPath(); this.pen.arc(x, y, r, 0, 7); this.pen.fill(); }
  text(x, y, words, colour, align = "left", size = 12, bold = false) {
    this.pen.fillStyle = colour; this.pen.textAlign = align; this.pen.textBaseline = "middle";
    this.pen.font = `${bold ? "600 " : ""}${size}px ${this.font}`; this.pen.fillText(words, x, y);
  }
}

class SvgPen {
  constructor(font) { this.font = font; this.parts = []; }
  rect(x, y, w, h, fill, stroke) {
    this.parts.push(`<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${fill || "none"}"${stroke ? ` stroke="${stroke}" stroke-width="2"` : ""}/>`);
  }
  line(points, colour, width = 1) {
    this.parts.push(`<polyline points="${points.map(p => p.join(",")).join(" ")}" fill="none" stroke="${colour}" stroke-width="${width}"/>`);
  }
  dot(x, y, r, fill) { this.parts.push(`<circle cx="${x}" cy="${y}" r="${r}" fill="${fill}"/>`); }
  text(x, y, words, colour, align = "left", size = 12, bold = false) {
    const anchor = { left: "start", center: "middle", right: "end" }[align];
    const safe = words.replace(/[&<>]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
    this.parts.push(`<text x="${x}" y="${y}" dominant-baseline="middle" text-anchor="${anchor}" font-size="${size}" font-family="${this.font.replaceAll('"', "'")}" fill="${colour}"${bold ? ' font-weight="600"' : ""}>${safe}</text>`);
  }
  whole(width, height, ground) {
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"><rect width="${width}" height="${height}" fill="${ground}"/>${this.parts.join("")}</svg>`;
  }
}

function drawMap(pen, map, model) {
  const l = map.shape, look = model.look, chosen = new Set(model.chosen);
  const bottom = HEAD + l.blocks * l.row, small = l.row < 15 ? 10 : 12;
  for (let block = 0; block < l.blocks; block++) {
    const y = map.top(block), mid = y + l.row / 2, on = chosen.has(block);
    if (model.nodeWise) {
      pen.rect(4, mid - 5, 10, 10, on ? look.accent : null, null);
      if (!on) pen.line([[4, mid - 5], [14, mid - 5], [14, mid + 5], [4, mid + 5], [4, mid - 5]], look.faint);
    }
    pen.text(l.gutter - 6, mid, String(block), on || !model.nodeWise ? look.text : look.faint, "right", small, on);
    for (let group = 0; group < l.groups; group++) {
      const colour = model.cell(block, group);
      pen.rect(l.gutter + group * l.cell, y + 0.5, Math.max(1, l.cell - (l.cell > 5 ? 1 : 0)), l.row - 1, colour ?? look.empty);
    }
  }
  heads(pen, l, model);
  colourBar(pen, l, model, bottom);
  meansStrip(pen, map, model, l.strips[0]);
  keptStrip(pen, map, model, l.strips[1]);
  accuracyStrip(pen, map, model, l.strips[2]);
  const ring = (place, colour, width) => {
    const x = l.gutter + place.group * l.cell, y = map.top(place.block);
    pen.line([[x, y], [x + l.cell, y], [x + l.cell, y + l.row], [x, y + l.row], [x, y]], colour, width);
  };
  if (model.looked) { ring(model.looked, "#000000", 4); ring(model.looked, "#ffffff", 2); }
  if (map.cursor && map.canvas.getRootNode().activeElement === map.canvas) { ring(map.cursor, "#000000", 4); ring(map.cursor, look.accent, 2); }
  if (map.box?.drawn) {
    const { start, end } = map.box;
    pen.rect(Math.min(start.x, end.x), Math.min(start.y, end.y), Math.abs(end.x - start.x), Math.abs(end.y - start.y), null, look.accent);
  }
}

function heads(pen, l, model) {
  const titles = l.width < 560 ? ["M-Loss", "kept", "acc."] : ["mean M-Loss", "share kept", "accuracy so far"];
  pen.text(l.gutter, 12, model.title, model.look.text, "left", 12, true);
  pen.text(l.gutter - 6, 27, "block", model.look.faint, "right", 10);
  if (l.cells > 220) pen.text(l.gutter, 27, `nodes, ${model.size} to a cell →`, model.look.faint, "left", 10);
  titles.forEach((title, i) => pen.text(l.strips[i], 12, title, model.look.text, "left", l.width < 560 ? 10 : 12, true));
}

function colourBar(pen, l, model, bottom) {
  const width = Math.min(180, l.cells * 0.6), x = l.gutter, y = bottom + 8;
  for (let i = 0; i < 40; i++) pen.rect(x + i * width / 40, y, width / 40 + 0.5, 8, colourOf(i / 39));
  const aligns = ["left", "center", "right"];
  model.ticks.forEach((tick, i) => (i !== 1 || width > 150) && pen.text(x + width * i / 2, y + 18, tick, model.look.faint, aligns[i], 10));
}

function axis(pen, map, x, words, look) { // ends of a strip's scale, below it
  const l = map.shape, y = HEAD + l.blocks * l.row;
  pen.line([[x, HEAD], [x, y]], look.line);
  pen.line([[x, y], [x + l.strip, y]], look.line);
  pen.text(x, y + 12, words[0], look.faint, "left", 10);
  pen.text(x + l.strip, y + 12, words[1], look.faint, "right", 10);
}

function meansStrip(pen, map, model, x) {
  const l = map.shape;
  if (!model.means) { axis(pen, map, x, ["0", "?"], model.look); return; }
  const most = Math.max(...model.means.map(m => isFinite(m[2]) ? m[2] : m[0])) || 1;
  model.means.forEach(([mean, low, high], block) => {
    const y = map.top(block) + l.row / 2, at = v => x + l.strip * Math.min(1, Math.max(0, v / most));
    pen.rect(x, y - l.row * 0.32, at(mean) - x, l.row * 0.64, model.look.bar);
    if (isFinite(low)) pen.line([[at(low), y], [at(high), y]], model.look.text, 2);
    pen.dot(at(mean), y, 3, model.look.text);
  });
  axis(pen, map, x, ["0", threeDigits(most)], model.look);
}

function keptStrip(pen, map, model, x) {
  const l = map.shape;
  for (let block = 0; block < l.blocks; block++) {
    const y = map.top(block) + l.row / 2, span = model.spread(block);
    if (span) {
      const [low, high] = span, left = x + l.strip * low;
      pen.rect(x, y - l.row * 0.32, left - x, l.row * 0.64, model.look.bar);
      pen.rect(left, y - l.row * 0.32, Math.max(0, l.strip * (high - low)), l.row * 0.64, model.look.band);
      pen.line([[x + l.strip * high, y - l.row * 0.4], [x + l.strip * high, y + l.row * 0.4]], model.look.accent, 2);
    }
    if (model.kept) pen.dot(x + l.strip * model.kept[block], y, 3, model.look.text);
  }
  axis(pen, map, x, ["0", "100 %"], model.look);
}

function accuracyStrip(pen, map, model, x) {
  const l = map.shape, after = model.after;
  if (!after) { axis(pen, map, x, ["?", "?"], model.look); return; }
  const marks = [...after.rates, ...(model.base === null ? [] : [model.base])];
  const low = Math.floor(20 * Math.min(...marks)) / 20, high = Math.ceil(20 * Math.max(...marks)) / 20 || 1;
  const at = rate => x + l.strip * (rate - low) / (high - low || 1);
  const points = after.rates.map((rate, block) => [at(rate), map.top(block) + l.row / 2]);
  if (model.base !== null) {
    pen.line([[at(model.base), HEAD], [at(model.base), HEAD + l.blocks * l.row]], model.look.base, 2);
    points.unshift([at(model.base), HEAD + l.blocks * l.row]);
  }
  const colour = model.afterFormer ? model.look.faint : model.look.point;
  pen.line(points, colour, 2);
  points.slice(model.base !== null ? 1 : 0).forEach(([px, py]) => pen.dot(px, py, 3, colour));
  axis(pen, map, x, [percent(low, 0), percent(high, 0)], model.look);
}
