// The view: one setting, its map and readouts; what is dragged is drawn at once, then asked for.

const SLIDERS = [
  ["keep", "Base keep rate k", 0.05, 1, 0.05], ["variation", "Pruning variation e", 0, 1, 0.025], ["scaling", "Scaling λ", 0, 4, 0.1],
];
const PAUSE = 90, SETTLED = 500; // ms without a move before a setting is asked for, and is kept
const BY = { mloss: "M-Loss", keep: "keep rate", kept: "share kept", left: "M-Loss left after the merge" };
const NORMALISED = { mloss: "normalised M-Loss" };
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

class View {
  constructor(root) {
    this.root = root;
    const find = selector => root.querySelector(selector);
    this.parts = Object.fromEntries(["sentence", "wrong", "along", "finding", "line", "status", "presets", "heard", "undo", "redo", "launch", "compare", "download", "by", "scale", "normalised"].map(name => [name, find("." + name)]));
    this.bar = find(".progress");
    this.chart = find("canvas");
    this.method = find(".method select");
    this.map = new BlockMap(this.chart, find(".tip"), {
      look: (block, group) => this.look(block, group), choose: blocks => this.choose(blocks), toggle: block => this.toggle(block),
    });
    this.card = new Card(find(".card"), () => this.closeCard(), () => this.send("explain", this.node));
    this.past = []; this.future = [];
    this.listen();
  }

  listen() {
    const { undo, redo, launch, compare, by, scale, normalised } = this.parts;
    undo.onclick = () => this.step(this.past, this.future);
    redo.onclick = () => this.step(this.future, this.past);
    launch.onclick = () => this.send("launch", this.setting);
    compare.onclick = () => this.send("compare", this.setting);
    by.onchange = scale.onchange = normalised.onchange = () => {
      this.look_ = { by: by.value, scale: scale.value, scores: normalised.checked ? "normalised" : "raw" };
      this.keepLook(this.look_);
      this.draw();
    };
    this.method.onchange = () => this.change({ method: this.method.value }, true);
    this.root.querySelectorAll(".exports button").forEach(b => { b.onclick = () => this.export(b.dataset.as); });
    this.root.querySelector(".explore").addEventListener("keydown", e => {
      if (e.key === "Escape") this.closeCard();
      if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "z") {
        e.preventDefault();
        e.shiftKey ? this.step(this.future, this.past) : this.step(this.past, this.future);
      }
    });
    new ResizeObserver(() => this.draw()).observe(this.chart);
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", () => setTimeout(() => this.draw(), 50));
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
  }

  // What the server's script says: the family, the choice, and what is known of it already.
  update(data, component) {
    this.component = component;
    const first = !this.data, wakes = data.live && !(this.data && this.data.live);
    const other = first || data.base !== this.data.base || data.epoch !== this.data.epoch;
    this.data = data;
    if (first) this.build();
    if (other) {
      this.setting = data.setting;
      this.look_ = data.look;
      this.scores = this.left = this.merged = this.after = this.grid = null;
      this.past = []; this.future = []; this.ghost = this.exact = null;
      this.closeCard();
    }
    if (other || !this.asked) this.take(data.picture);
    else if (data.picture.references) this.take({ references: data.picture.references });
    if (data.follow && data.follow !== this.followed) this.follow(data.follow);
    else if ((other || wakes) && data.live && !data.settled) this.ask();
    this.show();
  }

  build() {
    const { data } = this, tools = this.parts;
    tools.by.replaceChildren(...Object.entries(BY).map(([key, title]) => new Option(title, key)));
    this.method.replaceChildren(...data.methods.map(m => new Option(m.title, m.name)));
    this.root.querySelector(".sliders").replaceChildren(...SLIDERS.map(([name, label, low, high, step]) => {
      const row = document.createElement("label");
      row.className = "slider";
      row.title = data.help[name];
      row.innerHTML = `<span>${label}</span><input type="range" min="${low}" max="${high}" step="${step}"><output></output>`;
      const input = row.querySelector("input");
      input.setAttribute("aria-label", label);
      input.oninput = () => this.change({ [name]: Number(Number(input.value).toFixed(3)) }, false);
      input.onchange = () => this.settle();
      row.dataset.name = name;
      return row;
    }));
    this.readoutsView = new Readouts(this.root.querySelector(".readouts"), data.tasks);
    tools.presets.append(...data.presets.map(({ label, blocks, highest }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.title = highest ? "Those of the highest mean M-Loss on this map" : blocks === null ? "Every block" : `Blocks ${blocks.join(", ") || "none: every tensor is trimmed at k"}`;
      button.onclick = () => this.choose(highest ? this.highest(highest) : blocks);
      return button;
    }));
    const height = Math.max(300, 26 * data.blocks + HEAD + FOOT);
    this.root.querySelector(".plot").style.setProperty("--map-height", `${Math.min(height, 560)}px`);
    const exports = this.root.querySelector(".exports");
    exports.hidden = data.lecture;
  }

  // Parts of a picture as they become known.
  take(parts) {
    const { blocks, nodes } = this.data;
    if (parts.scores) {
      const { raw, normalised, means, along } = parts.scores, first = !this.scores;
      this.scores = { raw: unpacked(raw, blocks, nodes), normalised: unpacked(normalised, blocks, nodes), means, along };
      this.ranks = this.scores.raw.map(ranksOf);
      if (first && this.node) this.look(this.node.block, this.groupOf(this.node.node)); // the highest is known only now
    }
    if (parts.left) this.left = { nodes: unpacked(parts.left, blocks, nodes), along: parts.left_along };
    if (parts.merged) this.merged = { ...parts.merged, nodes: parts.merged.rows && unpacked(parts.merged.rows, blocks, nodes), along: this.asked ?? this.setting };
    if (parts.after) this.after = parts.after;
    if (parts.references) this.references = { ...this.references, ...parts.references };
    if (parts.grid) this.grid = new Grid(parts.grid);
    if (parts.readouts) {
      this.exact = parts.readouts;
      this.exact.of = this.asked ?? this.setting;
    }
    if ("status" in parts) this.status = parts.status;
    if ("share" in parts) this.share = parts.share;
    if ("took" in parts) this.took = parts.took;
    if ("note" in parts) this.note = parts.note;
    if (parts.error) { this.wrong = parts.error; this.share = 0; }
  }

  // A move of a control. The setting before stays as a ghost until the next one is let go of.
  change(changes, settle) {
    this.dismissed = this.data.said; // it has been seen
    if (!this.moving) {
      this.moving = true;
      this.past.push(this.setting); this.future = [];
      if (this.past.length > 50) this.past.shift();
      this.leave();
    }
    const next = { ...this.setting, ...changes };
    if (next.variation > next.keep) next.variation = next.keep;
    this.setting = next;
    if (this.data.live) { clearTimeout(this.pause); this.pause = setTimeout(() => this.ask(), settle ? 0 : PAUSE); }
    this.show();
    if (settle) this.settle();
  }

  leave() { // what was measured of this setting is what the next one stands beside
    if (this.exact && same(this.exact.of, this.setting)) this.ghost = this.exact;
  }

  settle() { // let go of: one step of undo, and the choice is kept in the link
    this.moving = false;
    clearTimeout(this.settled);
    this.settled = setTimeout(() => {
      this.component.setStateValue("setting", this.setting);
      if (this.node) this.inspect();
    }, SETTLED);
    this.show();
  }

  step(from, to) {
    if (!from.length) return;
    this.leave();
    to.push(this.setting);
    this.setting = from.pop();
    if (this.data.live) this.ask();
    this.settle();
  }

  choose(blocks) {
    if (!this.nodeWise()) return;
    const wanted = blocks === null || blocks.length === this.data.blocks ? null : [...blocks].sort((a, b) => a - b);
    if (!same(wanted, this.setting.blocks)) this.change({ blocks: wanted }, true);
  }

  chosen() { return this.setting.blocks ?? Array.from({ length: this.data.blocks }, (_, b) => b); }

  toggle(block) {
    const chosen = new Set(this.chosen());
    if (!chosen.delete(block)) chosen.add(block);
    this.choose([...chosen]);
    this.parts.heard.textContent = `Block ${block} is ${chosen.has(block) ? "" : "not "}trimmed by M-Loss. Chosen: ${[...chosen].sort((a, b) => a - b).join(", ") || "none"}.`;
  }

  highest(count) {
    if (!this.scores) return this.chosen();
    const means = this.scores.means.map(m => m[0]);
    return [...means.keys()].sort((a, b) => means[b] - means[a] || a - b).slice(0, count);
  }

  query(extra) {
    const s = this.setting, query = new URLSearchParams(this.data.base);
    query.set("method", s.method); query.set("keep", s.keep); query.set("variation", s.variation); query.set("scaling", s.scaling);
    query.set("blocks", s.blocks === null ? "all" : s.blocks.join(",") || "none");
    for (const [key, value] of Object.entries(extra)) query.set(key, value);
    return query;
  }

  ask() { return this.listenTo({ visitor: this.data.visitor, ...(this.ghost?.job ? { former: this.ghost.job } : {}) }); }

  follow(job) {
    this.followed = job;
    return this.listenTo({ follow: job });
  }

  async listenTo(extra) {
    this.stream?.abort();
    const stream = this.stream = new AbortController();
    this.asked = this.setting; this.wrong = this.note = ""; this.took = null; this.status = "asking"; this.share = 0;
    this.show();
    try {
      const answer = await fetch(new URL("live?" + this.query(extra), document.baseURI), { signal: stream.signal });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "", chunk; !(chunk = await reader.read()).done;) {
        const lines = (text + chunk.value).split("\n");
        text = lines.pop();
        if (stream.signal.aborted) return;
        for (const line of lines) this.take(JSON.parse(line));
        this.show();
      }
      this.status = ""; this.share = 0;
    } catch (error) {
      if (stream.signal.aborted) return;
      this.wrong = `Live: ${error.message}. Move a control to try again.`;
    }
    this.show();
  }

  send(name, value) { this.component.setTriggerValue(name, { ...value, at: Date.now() }); }
  keepLook(look) { this.component.setStateValue("look", look); }

  show() { // at most once a frame
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
  }

  methodRow() { return this.data.methods.find(m => m.name === this.setting.method); }
  nodeWise() { return this.methodRow().nodeWise; }

  draw() {
    if (!this.data) return;
    const s = this.setting, row = this.methodRow();
    this.method.value = s.method;
    this.parts.line.textContent = row.line;
    for (const label of this.root.querySelectorAll(".slider")) {
      const { name } = label.dataset, input = label.querySelector("input");
      if (name === "variation") input.max = s.keep;
      if (Number(input.value) !== s[name]) input.value = s[name];
      label.querySelector("output").textContent = String(Number(s[name].toFixed(3)));
      label.toggleAttribute("data-off", !row.reads.includes(name));
      input.disabled = !row.reads.includes(name);
    }
    this.parts.presets.toggleAttribute("data-off", !row.nodeWise);
    this.parts.by.value = this.look_.by; this.parts.scale.value = this.look_.scale; this.parts.normalised.checked = this.look_.scores === "normalised";
    this.parts.scale.disabled = ["keep", "kept"].includes(this.look_.by);
    this.parts.undo.disabled = !this.past.length; this.parts.redo.disabled = !this.future.length;
    const now = this.now();
    this.readoutsView.show(now, this.references, this.ghost && !same(this.ghost.of, s) ? this.ghost : null);
    for (const part of ["left", "right"]) this.root.querySelector("." + part).toggleAttribute("data-pointed", this.data.target === part);
    this.parts.sentence.innerHTML = this.sentence(now);
    const finding = this.finding();
    this.parts.finding.textContent = finding;
    const model = this.model();
    this.map.draw(model);
    this.chart.setAttribute("aria-label", `Map of ${model.title}, ${this.data.blocks} blocks by ${model.groups} groups of nodes. ${finding} Arrow keys move over the cells, Enter looks at one, Space chooses its block.`);
    this.parts.along.textContent = this.along();
    if (this.node) this.card.say(this.sentences());
    this.exportsOf(model);
    this.barOf(now);
  }

  exportsOf(model) { // what is not measured can't be saved
    this.root.querySelectorAll(".exports button").forEach(button => {
      const missing = button.dataset.as === "csv" ? !this.scores && "M-Loss" : !this.groups && model.title;
      button.disabled = Boolean(missing);
      button.title = missing ? `${missing} is not measured yet` : "";
    });
  }

  barOf(now) {
    const { status, launch, download, wrong } = this.parts;
    const problem = this.data.problem || this.wrong || (this.data.said === this.dismissed ? "" : this.data.said);
    wrong.hidden = !problem;
    if (wrong.textContent !== problem) wrong.textContent = problem;
    status.textContent = problem ? "" : this.words(now);
    // A launched merge has its bar, with a button to cancel it, at the foot of the page.
    const share = this.status && !this.data.follow ? Math.round(100 * (this.share || 0)) : 0;
    this.bar.firstElementChild.style.width = `${share}%`;
    this.bar.setAttribute("aria-valuenow", share);
    launch.disabled = Boolean(this.data.problem || this.data.barred);
    launch.title = this.data.barred || "";
    const kept = this.data.kept;
    download.textContent = kept ? `Download (${kept.size})` : "Download";
    kept ? download.setAttribute("href", kept.href) : download.removeAttribute("href");
    download.toggleAttribute("aria-disabled", !kept);
    download.setAttribute("aria-disabled", kept ? "false" : "true");
    download.title = kept ? `The merge launched last: ${kept.words}` : "Launch a merge first: it is kept with its file.";
  }

  words(now) {
    if (this.status || this.note) return this.status || this.note;
    if (now.kind !== "exact" || !this.merged) return this.data.live ? "" : this.data.barred || "Live is off: launch to merge and measure.";
    const { seconds } = this.merged, all = this.took ? ` (${this.took.toFixed(1)} s with all that was measured)` : "";
    const made = seconds ? `merged in ${seconds.toFixed(1)} s${all}` : "a picture that comes with the family";
    const kept = this.data.isKept ? "kept, see Compare and the Runs page" : "nothing is recorded until you launch";
    return `${made}, measured on ${now.images} images per task; ${kept}`;
  }

  // What the readouts show: of this very setting, or between measured ones, or of the one before.
  now() {
    const s = this.setting, isTies = s.method === "ties";
    if (this.exact && same(this.exact.of, s)) return { ...this.exact, kind: "exact", isTies };
    const tasks = this.data.tasks.map(t => t.name);
    if (this.grid?.fits(s)) {
      const rates = this.grid.rates(s, this.data.blocks, tasks);
      const mean = values => Number((tasks.reduce((sum, t) => sum + values[t], 0) / tasks.length).toFixed(9));
      const beside = this.grid.rates({ ...s, method: "ties" }, this.data.blocks, tasks);
      return {
        kind: "estimate", images: this.grid.images, average: [mean(rates)], isTies,
        tasks: Object.fromEntries(tasks.map(t => [t, [rates[t]]])),
        ties: isTies ? null : { rates: beside, average: mean(beside), images: this.grid.images },
      };
    }
    return this.exact ? { ...this.exact, kind: "former", ties: null, change: null } : { kind: "none" };
  }

  sentence(now) {
    const known = name => this.references?.[name]?.average, rate = x => x === undefined || x === null ? "…" : `<b>${percent(x, 0)}</b>`;
    const merged = now.kind === "former" || !now.average ? "…" : rate(now.average[0]);
    return `${this.data.sources} models: base ${rate(known("base")?.[0])}, merged ${now.kind === "estimate" ? "≈ " : ""}${merged}, all of them asked ${rate(known("ensembling")?.[0])}, each alone on its own task ${rate(known("own")?.[0])}`;
  }

  // Where the M-Loss is, in words, from the numbers.
  finding() {
    if (!this.scores) return "M-Loss is not measured yet.";
    const means = this.scores.means.map(m => m[0]), total = means.reduce((a, b) => a + b, 0);
    if (!total) return "The sources agree at every node: there is no M-Loss.";
    const order = [...means.keys()].sort((a, b) => means[b] - means[a]), share = list => list.reduce((sum, b) => sum + means[b], 0) / total;
    let most = 1;
    while (share(order.slice(0, most)) < 0.75) most++;
    const high = order.slice(0, most).sort((a, b) => a - b), dead = order.filter(b => means[b] / total < 0.01).sort((a, b) => a - b);
    const words = [`${named(high)} hold${high.length > 1 ? "" : "s"} ${percent(share(high), 0)} of the M-Loss.`];
    if (dead.length) words.push(`${named(dead)} hold${dead.length > 1 ? "" : "s"} ${percent(share(dead), 1)}: the sources hardly differ there, and choosing ${dead.length > 1 ? "them" : "it"} changes next to nothing.`);
    if (this.nodeWise() && this.setting.blocks !== null) words.push(`Your ${this.setting.blocks.length} block${this.setting.blocks.length === 1 ? "" : "s"} hold${this.setting.blocks.length === 1 ? "s" : ""} ${percent(share(this.setting.blocks), 0)}.`);
    return words.join(" ");
  }

  along() { // of which setting the map is, where that is not the one chosen
    const by = this.look_.by, map = by === "left" ? this.left : by === "kept" ? this.merged : this.scores;
    if (!map) return by === "mloss" || by === "keep" ? "" : "not measured yet for any setting";
    if (by === "keep") return this.nodeWise() && this.ranks ? "" : "the same rate for every node";
    const a = map.along, s = this.setting, exact = by === "mloss"
      ? a.keep === s.keep && a.variation === s.variation && a.scaling === s.scaling
      : same(a, s);
    return exact ? "" : `the map is of k = ${a.keep}, e = ${a.variation}`;
  }

  rate(block, node) { // the keep rate of a node, by the schedule
    const [high, spread] = this.schedule(block);
    if (!spread) return high;
    return this.ranks && this.data.ranks !== "random" ? high - spread * this.ranks[block][node] : null;
  }

  schedule(block) { // what a block keeps at its lowest rank, and how much less at its highest
    const s = this.setting, row = this.methodRow();
    if (!row.reads.includes("keep")) return [1, 0];
    if (!row.nodeWise || (s.blocks && !s.blocks.includes(block))) return [s.keep, 0];
    if (this.data.ranks === "equal") return [s.keep - s.variation / 2, 0];
    return this.data.ranks === "reversed" ? [s.keep - s.variation, -s.variation] : [s.keep, s.variation];
  }

  values() { // of every node, as the colours want them
    const { by, scores } = this.look_, blocks = Array.from({ length: this.data.blocks }, (_, b) => b);
    if (by === "mloss") return this.scores?.[scores] ?? null;
    if (by === "left") return this.left?.nodes ?? null;
    if (by === "kept") return this.merged?.nodes ?? null;
    const rates = blocks.map(block => {
      const [high, spread] = this.schedule(block);
      if (!spread) return new Float32Array(this.data.nodes).fill(high);
      return this.ranks && this.data.ranks !== "random" ? this.ranks[block].map(rank => high - spread * rank) : null;
    });
    return rates.includes(null) ? null : rates;
  }

  model() {
    const { blocks, nodes, group } = this.data, values = this.values(), s = this.setting, by = this.look_.by;
    const groups = values?.map(row => groupMeans(row, group)) ?? null, count = Math.ceil(nodes / group);
    const rates = by === "keep" || by === "kept", scale = groups ? scaled(groups, rates ? "linear" : this.look_.scale) : null;
    const title = (this.look_.scores === "normalised" && NORMALISED[by]) || BY[by], style = getComputedStyle(this.chart);
    const css = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise, text = css("--st-text-color", "#111111");
    this.groups = groups;
    const row = this.methodRow();
    const write = v => rates ? percent(v) : threeDigits(v);
    return {
      blocks, groups: count, size: group, title, nodeWise: row.nodeWise, chosen: row.nodeWise ? this.chosen() : [],
      looked: this.node ? { block: this.node.block, group: this.groupOf(this.node.node) } : null,
      cell: (block, i) => groups ? colourOf(scale.place(groups[block][i])) : null,
      ticks: groups ? scale.ticks.map((t, i) => (scale.clipped && !i ? "≤ " : "") + write(t)) : [],
      means: this.scores?.means ?? null, kept: this.merged && same(this.merged.along, s) ? this.merged.kept : null,
      spread: block => row.reads.includes("keep") ? [this.nodeWise() && this.chosen().includes(block) ? s.keep - s.variation : s.keep, s.keep] : [1, 1],
      after: this.after ?? null, afterFormer: this.after ? !same(this.after.along, s) : false, base: this.references?.base?.average?.[0] ?? null,
      said: (block, i) => this.said(block, i),
      look: {
        text, ground: css("--st-background-color", "#ffffff"), accent: css("--st-primary-color", "#0b5cad"), font: css("--st-font", "sans-serif"),
        faint: mixed(text, css("--st-background-color", "#ffffff"), 0.68), line: mixed(text, css("--st-background-color", "#ffffff"), 0.25),
        empty: css("--st-secondary-background-color", "#eeeeee"), bar: "#7fa8d1aa", band: "#a98a1f99", base: "#89939f", point: "#2f6db5",
      },
    };
  }

  said(block, i) { // of a row, or of a cell of it
    const mean = this.scores?.means[block], rows = [`block ${block}${mean ? `: mean M-Loss ${threeDigits(mean[0])}${isFinite(mean[1]) ? ` (${threeDigits(mean[1])} to ${threeDigits(mean[2])})` : ""}` : ""}`];
    if (i !== null && i !== undefined) {
      const [first, last] = this.nodesOf(i);
      const by = this.look_.by, value = this.groups?.[block][i];
      rows.push(`nodes ${first} to ${last}${value === undefined ? "" : `: ${BY[by]} ${["keep", "kept"].includes(by) ? percent(value) : threeDigits(value)}`}`);
    }
    if (this.merged && same(this.merged.along, this.setting)) rows.push(`kept ${percent(this.merged.kept[block])} of its entries`);
    if (this.after) rows.push(`accuracy so far ${percent(this.after.rates[block])}${same(this.after.along, this.setting) ? "" : " (setting before)"}`);
    return rows.join("\n");
  }

  look(block, group) { // at the highest node of a cell
    const [first, last] = this.nodesOf(group), scores = this.scores?.raw[block];
    let node = first;
    for (let n = first; scores && n <= last; n++) if (scores[n] > scores[node]) node = n;
    this.node = { block, node };
    this.map.tooltip.hidden = true;
    this.component.setStateValue("node", `${block}:${node}`);
    this.card.open(`Block ${block}, node ${node}`);
    this.inspect();
    this.show();
  }

  async inspect() { // the node's gap, at the setting
    const asked = this.inspected = {}, { block, node } = this.node;
    this.card.wait();
    try {
      const answer = await (await fetch(new URL("look?" + this.query({ node: `${block}:${node}` }), document.baseURI))).json();
      if (asked !== this.inspected) return;
      answer.error ? this.card.fail(answer.error) : this.card.show(answer);
    } catch (error) {
      if (asked === this.inspected) this.card.fail(`Could not be measured: ${error.message}.`);
    }
  }

  groupOf(node) { return Math.floor(node / this.data.group); }

  nodesOf(group) {
    const { group: size, nodes } = this.data;
    return [group * size, Math.min(nodes, (group + 1) * size) - 1];
  }

  sentences() { // of the node that is looked at, on the map and at the setting as they are now
    if (!this.scores) return ["M-Loss is not measured yet."];
    const { block, node } = this.node, [first, last] = this.nodesOf(this.groupOf(node));
    const scores = this.scores.raw[block], mean = this.scores.means[block][0], higher = scores.filter(v => v > scores[node]).length;
    const means = this.scores.means.map(m => m[0]), place = means.filter(m => m > mean).length + 1, rate = this.rate(block, node);
    const highest = scores.subarray(first, last + 1).every(v => v <= scores[node]);
    const kept = !this.methodRow().reads.includes("keep") ? "This method trims nothing." : rate === null ? "How much of it is kept is drawn at random."
      : `${this.methodRow().title} keeps ${percent(rate)} of its ${this.nodeWise() && this.chosen().includes(block) ? "row" : "tensor"}'s changes${this.nodeWise() && !this.chosen().includes(block) ? ": this block is not chosen" : ""}.`;
    return [
      `${highest ? `The highest of nodes ${first} to ${last}` : `One of nodes ${first} to ${last}`}: M-Loss ${threeDigits(scores[node])}, ${(scores[node] / mean || 0).toFixed(1)} times the block's mean.`,
      `It is number ${higher + 1} of ${scores.length} in its block; the block is number ${place} of ${means.length}.`, kept,
    ];
  }

  closeCard() {
    this.node = this.inspected = null;
    this.card.close();
    this.show();
  }

  export(as) {
    const name = `mloss-${this.data.family}`, model = this.map.model;
    if (as === "csv") return save(`${name}.csv`, new Blob([this.csv()], { type: "text/csv" }));
    const size = this.chart.getBoundingClientRect();
    if (as === "svg") {
      const pen = new SvgPen(model.look.font);
      drawMap(pen, this.map, model);
      return save(`${name}.svg`, new Blob([pen.whole(size.width, size.height, model.look.ground)], { type: "image/svg+xml" }));
    }
    const surface = document.createElement("canvas");
    this.map.draw(model, surface);
    surface.toBlob(blob => save(`${name}.png`, blob));
  }

  csv() {
    const rows = ["block,node,mloss,mloss_normalised,keep_rate"];
    for (let b = 0; b < this.data.blocks; b++) for (let n = 0; n < this.data.nodes; n++) {
      rows.push([b, n, this.scores?.raw[b][n] ?? "", this.scores?.normalised[b][n] ?? "", this.rate(b, n) ?? ""].join(","));
    }
    return rows.join("\n") + "\n";
  }
}

function named(blocks) { // "Blocks 0 to 2 and 5"
  const runs = [];
  for (const b of blocks) runs.length && runs[runs.length - 1][1] === b - 1 ? runs[runs.length - 1][1] = b : runs.push([b, b]);
  const words = runs.map(([a, b]) => a === b ? `${a}` : b === a + 1 ? `${a}, ${b}` : `${a} to ${b}`);
  return `Block${blocks.length > 1 ? "s" : ""} ${words.length > 1 ? words.slice(0, -1).join(", ") + " and " : ""}${words[words.length - 1]}`;
}

function mixed(a, b, share) { // two colours as #rrggbb or rgb()
  const parts = text => text.startsWith("#") ? [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16)) : text.match(/[\d.]+/g).slice(0, 3).map(Number);
  const [x, y] = [parts(a), parts(b)];
  return `rgb(${x.map((v, i) => Math.round(v * share + y[i] * (1 - share))).join(",")})`;
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const VIEWS = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!VIEWS.has(root)) VIEWS.set(root, new View(root));
  VIEWS.get(root).update(component.data, component);
}
