// Accuracies: the average with its differences, and a line of marks for every task.

const TASK_MARKS = [["base", "base"], ["own", "own source"], ["ties", "TIES, same k"], ["ensembling", "ensemble"]];

// What is shown of a setting: exact, or an estimate between measured settings, or the former one.
// now: { kind: "exact" | "estimate" | "former" | "none", tasks: {task: [rate, low, high, n]}, ... }
class Readouts {
  constructor(root, tasks) {
    this.root = root;
    this.tasks = tasks;
    this.big = root.querySelector(".big");
    this.ties = root.querySelector(".beside");
    this.change = root.querySelector(".change");
    this.count = root.querySelector(".count");
    this.rows = new Map();
    const list = root.querySelector(".tasks");
    list.replaceChildren(...tasks.map(({ name, title }) => {
      const row = document.createElement("li");
      row.innerHTML = '<span class="name"></span><span class="track"></span><span class="rate">…</span>';
      row.querySelector(".name").textContent = title;
      row.querySelector(".name").title = title;
      this.rows.set(name, row);
      return row;
    }));
  }

  show(now, references, ghost) {
    const approximate = now.kind === "estimate";
    this.root.dataset.kind = now.kind;
    this.big.textContent = now.average ? (approximate ? "≈ " : "") + percent(now.average[0]) : "…";
    this.count.textContent = this.counted(now);
    this.ties.innerHTML = "";
    this.ties.append(...this.against(now));
    this.change.textContent = this.changed(now, ghost);
    for (const { name } of this.tasks) this.row(name, now, references, ghost);
  }

  counted(now) {
    if (now.kind === "none") return "average of the tasks";
    if (now.kind === "estimate") return `average; between measured settings, ${now.images} images per task`;
    const [, low, high] = now.average;
    return `average; 95 % interval ${percent(low)} to ${percent(high)}, ${now.images} images per task`;
  }

  against(now) {
    if (now.kind === "estimate" && now.ties) {
      return [`≈ ${signed(100 * (now.average[0] - now.ties.average))} points to TIES at the same k`];
    }
    const words = pairedWords(now.ties, "TIES at the same k");
    if (!words) return [now.isTies ? "This is TIES." : "TIES at the same k: …"];
    const strong = document.createElement("strong");
    strong.textContent = words[0];
    return [strong, words[1]];
  }

  changed(now, ghost) {
    if (!ghost) return " ";
    const apart = () => `${signed(100 * (now.average[0] - ghost.average[0]))} points to the setting before (○)`;
    if (now.kind === "estimate") return `≈ ${apart()}`;
    const words = pairedWords(now.change, "the setting before (○)");
    if (words) return words.join("");
    // A picture that came with the family has no answers image by image to be paired with.
    return now.kind === "exact" && ghost.average ? `${apart()}, not paired image by image` : " ";
  }

  row(name, now, references, ghost) {
    const row = this.rows.get(name), own = now.tasks?.[name];
    row.querySelector(".rate").textContent = own ? (now.kind === "estimate" ? "≈ " : "") + percent(own[0]) : "…";
    const marks = TASK_MARKS.map(([key, label]) => {
      const known = key === "ties" ? ties(now, name) : references?.[key]?.tasks[name];
      return known === undefined ? "" : `<i class="mark ${key}" style="left:${100 * known[0]}%" title="${label}: ${percent(known[0])}${known[3] ? `, n = ${known[3]}` : ""}"></i>`;
    });
    const before = ghost?.tasks?.[name], line = [];
    if (own && own.length > 2) line.push(`<i class="interval" style="left:${100 * own[1]}%;width:${100 * (own[2] - own[1])}%"></i>`);
    if (before) line.push(`<i class="ghost" style="left:${100 * before[0]}%" title="the setting before: ${percent(before[0])}"></i>`);
    if (own) line.push(`<i class="point" style="left:${100 * own[0]}%"></i>`);
    row.querySelector(".track").innerHTML = marks.join("") + line.join("");
    row.title = own && own[3] ? `${percent(own[0])}, 95 % interval ${percent(own[1])} to ${percent(own[2])}, n = ${own[3]}` : "";
  }
}

function ties(now, task) {
  const rate = now.ties?.rates[task];
  return rate === undefined ? undefined : [rate, rate, rate, now.ties.images];
}

function pairedWords(paired, what) { // the one rule of every verdict, in words
  if (!paired) return null;
  const [gap, low, high] = paired.difference;
  const verdict = paired.distinguishable ? (gap > 0 ? "ahead of " : "behind ") : "not distinguishable from ";
  return [`${signed(gap)} points: `, `${verdict}${what} (95 % interval ${signed(low)} to ${signed(high)}, ${paired.images} images per task)`];
}
