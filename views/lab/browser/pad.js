// A pad to draw pictures of a few classes on. What is added goes to the page, which keeps it.

const SIDE = 192, LINE = 13, STEP = 6; // pixels of a picture, of the pen's line, of an arrow key
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class Pad {
  constructor(root) {
    const find = selector => root.querySelector(selector);
    [this.canvas, this.pen, this.classes, this.list, this.heard] = ["canvas", ".pen", ".classes", ".drawn", ".heard"].map(find);
    [this.adds, this.clears] = [find(".add"), find(".clear")];
    this.ink = this.canvas.getContext("2d");
    this.at = 0;
    this.point = [SIDE / 2, SIDE / 2];
    this.adds.onclick = () => this.add();
    this.clears.onclick = () => this.clear();
    this.canvas.onpointerdown = e => {
      this.canvas.setPointerCapture(e.pointerId);
      this.pen.hidden = this.drawing = true;
      this.move(this.under(e), false);
      this.move(this.point, true); // a point
    };
    this.canvas.onpointermove = e => {
      if (this.drawing) (e.getCoalescedEvents?.() ?? [e]).concat(e).forEach(each => this.move(this.under(each), true));
    };
    this.canvas.onpointerup = this.canvas.onpointercancel = () => { this.drawing = false; };
    this.canvas.onkeydown = e => this.key(e);
    this.clear();
  }

  update(data, component) {
    this.component = component;
    this.names = data.names;
    this.least = data.least;
    this.most = data.most;
    this.drawn ??= data.drawn;
    while (this.drawn.length < this.names.length) this.drawn.push([]);
    this.at = Math.min(this.at, this.names.length - 1);
    this.show();
  }

  under(e) {
    const box = this.canvas.getBoundingClientRect();
    return [(e.clientX - box.left) / box.width * SIDE, (e.clientY - box.top) / box.height * SIDE];
  }

  move(to, inked) {
    if (inked) {
      this.ink.beginPath();
      this.ink.moveTo(...this.point);
      this.ink.lineTo(...to);
      this.ink.stroke();
      this.empty = false;
      this.enable();
    }
    this.point = to;
    [this.pen.style.left, this.pen.style.top] = to.map(part => `${100 * part / SIDE}%`);
  }

  key(e) {
    const way = WAYS[e.key];
    if (way) {
      this.pen.hidden = false;
      this.move(this.point.map((part, i) => Math.min(SIDE, Math.max(0, part + STEP * way[i]))), this.down);
    } else if (e.key === " ") {
      this.pen.hidden = false;
      this.lift(!this.down);
      if (this.down) this.move(this.point, true);
      this.say(this.down ? "Pen down." : "Pen up.");
    } else if (e.key === "Enter") this.add();
    else return;
    e.preventDefault();
  }

  lift(down) {
    this.down = down;
    this.pen.toggleAttribute("data-down", down);
  }

  add() {
    if (this.adds.disabled) return;
    const own = this.drawn[this.at];
    own.push(this.canvas.toDataURL("image/png"));
    this.clear();
    this.send(`Drawing ${own.length} of ${this.names[this.at]} added.`);
  }

  remove(number) {
    this.drawn[this.at].splice(number, 1);
    this.canvas.focus();
    this.send(`Drawing ${number + 1} of ${this.names[this.at]} taken out.`);
  }

  send(words) {
    this.component.setStateValue("drawn", this.drawn);
    this.show();
    this.say(words);
  }

  say(words) { this.heard.textContent = words; }

  clear() {
    const { ink } = this;
    ink.fillStyle = "#ffffff"; // ink is black on white in the dark, too: pictures look alike
    ink.fillRect(0, 0, SIDE, SIDE);
    Object.assign(ink, { strokeStyle: "#000000", lineWidth: LINE, lineCap: "round", lineJoin: "round" });
    this.empty = true;
    this.lift(false);
    if (this.names) this.enable();
  }

  enable() {
    this.adds.disabled = this.empty || this.drawn[this.at].length >= this.most;
    this.clears.disabled = this.empty;
  }

  show() {
    const name = this.names[this.at];
    this.classes.replaceChildren(...this.names.map((each, i) => {
      const button = document.createElement("button"), count = this.drawn[i].length;
      button.type = "button";
      button.textContent = `${each}: ${count}${count < this.least ? ` of ${this.least}` : ""}`;
      button.setAttribute("aria-pressed", i === this.at);
      button.onclick = () => { this.at = i; this.show(); this.classes.children[i].focus(); };
      return button;
    }));
    this.canvas.setAttribute("aria-label", `Drawing of ${name}. Arrow keys move the pen, Space puts it down and lifts it, Enter adds the drawing.`);
    this.list.setAttribute("aria-label", `Drawings of ${name}`);
    this.list.replaceChildren(...this.drawn[this.at].map((url, i) => {
      const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
      button.type = "button";
      image.src = url;
      image.alt = `Take out drawing ${i + 1} of ${name}`;
      button.title = image.alt;
      button.onclick = () => this.remove(i);
      button.append(image);
      item.append(button);
      return item;
    }));
    this.enable();
  }
}

const PADS = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!PADS.has(root)) PADS.set(root, new Pad(root));
  PADS.get(root).update(component.data, component);
}
