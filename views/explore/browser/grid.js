// The first glance at a setting: between the measured ones of a coarse grid of k and e.

class Grid {
  constructor(known) {
    this.keeps = known.keeps;
    this.shares = known.shares;
    this.images = known.images;
    this.scaling = known.scaling;
    this.cells = new Map(known.cells.map(c => [`${c.keep} ${c.share}`, c.rates]));
  }

  fits(setting) { // whether it says anything about this setting
    return ["m-ties", "ties"].includes(setting.method) && Math.abs(setting.scaling - this.scaling) < 1e-9
      && this.cells.size === this.keeps.length * this.shares.length;
  }

  // Bilinear in k and e / k. Where some blocks are chosen, so far from TIES towards all blocks as
  // their share of the blocks.
  rates(setting, blocks, tasks) {
    const [i, s] = between(this.keeps, setting.keep);
    const part = setting.blocks === null ? 1 : setting.blocks.length / blocks;
    const e = setting.method === "ties" ? 0 : part * setting.variation / setting.keep;
    const [j, t] = between(this.shares, e);
    const at = (a, b, task) => this.cells.get(`${this.keeps[a]} ${this.shares[b]}`)[task];
    return Object.fromEntries(tasks.map(task => [task,
      (1 - s) * ((1 - t) * at(i, j, task) + t * at(i, j + 1, task))
      + s * ((1 - t) * at(i + 1, j, task) + t * at(i + 1, j + 1, task))]));
  }
}

function between(marks, value) { // the mark below, and how far it is to the next
  const inside = Math.min(marks[marks.length - 1], Math.max(marks[0], value));
  let low = 0;
  while (low < marks.length - 2 && marks[low + 1] <= inside) low++;
  return [low, (inside - marks[low]) / (marks[low + 1] - marks[low])];
}
