// The side card of a node: three sentences, its gap as a figure, and which source causes it.

class Card {
  constructor(root, close, more) {
    this.root = root;
    root.querySelector(".close").addEventListener("click", close);
    root.querySelector(".more").addEventListener("click", more);
  }

  open(title) {
    this.root.hidden = false;
    this.root.querySelector("h3").textContent = title;
  }

  say(sentences) {
    const said = this.root.querySelector(".said");
    if (sentences.length === said.children.length && sentences.every((text, i) => said.children[i].textContent === text)) return;
    said.replaceChildren(...sentences.map(text => {
      const p = document.createElement("p");
      p.textContent = text;
      return p;
    }));
  }

  wait() { this.figure("<p class='wait'>Looking into the block…</p>"); }

  figure(html) { this.root.querySelector(".figure").innerHTML = html; }

  fail(words) {
    this.figure("<p class='wait'></p>");
    this.root.querySelector(".wait").textContent = words;
  }

  show(node) {
    this.figure(gapFigure(node) + causes(node));
    const list = this.root.querySelectorAll(".cause");
    list.forEach((row, i) => { row.querySelector(".name").textContent = row.dataset.title; });
  }

  close() { this.root.hidden = true; }
}

function gapFigure(node) {
  const [xs, ys] = node.curve, w = 268, h = 130, pad = 10;
  const all = [...ys, ...node.activated], low = Math.min(...all), high = Math.max(...all);
  const x = v => pad + (w - 2 * pad) * (v - xs[0]) / (xs[xs.length - 1] - xs[0]);
  const y = v => h - pad - (h - 2 * pad) * (v - low) / (high - low || 1);
  const curve = xs.map((v, i) => `${x(v).toFixed(1)},${y(ys[i]).toFixed(1)}`).join(" ");
  const dots = node.h.map((v, i) => `<circle cx="${x(v)}" cy="${y(node.activated[i])}" r="3.5" class="source"/>`).join("");
  const at = x(node.mean);
  const gap = Math.abs(node.merged - node.ensembled);
  return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="The activation's curve, the sources on it, and the gap of ${threeDigits(gap)} between average then activate and activate then average">
    <polyline points="${curve}" class="curve"/>${dots}
    <line x1="${at}" x2="${at}" y1="${y(node.merged)}" y2="${y(node.ensembled)}" class="gap"/>
    <circle cx="${at}" cy="${y(node.merged)}" r="4.5" class="merged"/><circle cx="${at}" cy="${y(node.ensembled)}" r="4.5" class="ensembled"/></svg>
    <p class="key"><span><i class="merged"></i>average, then activate</span> <span><i class="ensembled"></i>activate, then average</span> <span><i class="source"></i>sources</span><br>At a typical token the gap is ${threeDigits(gap)}.</p>`;
}

function causes(node) { // by how much the node's M-Loss falls without each source
  const shares = node.without ? node.without[0] : node.spread;
  const title = node.without ? "M-Loss of this node without …" : "Share of the spread";
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 4);
  const most = Math.max(...order.map(i => Math.abs(shares[i]))) || 1;
  return `<p class="key"><strong>${title}</strong></p>` + order.map(i => {
    const words = node.without
      ? `${shares[i] >= 0 ? "−" : "+"}${Math.abs(100 * shares[i]).toFixed(0)} %`
      : percent(shares[i], 0);
    const safe = node.sources[i].replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
    return `<div class="cause" data-title="${safe}"><span class="name"></span><span class="meter"><i style="width:${100 * Math.abs(shares[i]) / most}%"></i></span><span>${words}</span></div>`;
  }).join("");
}
