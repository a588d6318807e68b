// Numbers: decoding, ranks, keep rates, groups of nodes, colours, and how numbers are written.

const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const RGB = CIVIDIS.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));

function colourOf(share) { // of 0 to 1
  const at = Math.min(1, Math.max(0, share)) * (RGB.length - 1);
  const low = Math.min(RGB.length - 2, Math.floor(at)), part = at - low;
  return "rgb(" + RGB[low].map((c, i) => Math.round(c + (RGB[low + 1][i] - c) * part)).join(",") + ")";
}

function unpacked(text, blocks, nodes) { // rows of float32, as views/explore/picture.py packs them
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const all = new Float32Array(bytes.buffer);
  return Array.from({ length: blocks }, (_, b) => all.subarray(b * nodes, (b + 1) * nodes));
}

function ranksOf(scores) { // RankNorm: equal scores are ordered by node
  const order = Array.from(scores.keys()).sort((a, b) => scores[a] - scores[b] || a - b);
  const ranks = new Float32Array(scores.length);
  order.forEach((node, rank) => { ranks[node] = rank / Math.max(1, scores.length - 1); });
  return ranks;
}

function groupMeans(values, size) {
  const means = [];
  for (let start = 0; start < values.length; start += size) {
    const stop = Math.min(values.length, start + size);
    let sum = 0;
    for (let i = start; i < stop; i++) sum += values[i];
    means.push(sum / (stop - start));
  }
  return means;
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function threeDigits(value) { // as mloss_core.text writes numbers
  if (!value || !isFinite(value)) return String(value || 0);
  const [digits, power] = value.toExponential(2).split("e");
  const size = Math.abs(Number(value.toExponential(2)));
  if (size >= 1e-3 && size < 1e3) return Number(value.toExponential(2)).toFixed(Math.max(0, 2 - Number(power)));
  return `${digits}×10${[...String(Number(power))].map(c => RAISED[c]).join("")}`;
}

// Ties go to the even digit, as everywhere else in the app: 73.25 is 73.2, where toFixed says 73.3.
function percent(rate, digits = 1) {
  const value = 100 * rate, unit = 2 ** (digits + 1); // ties are halves of 1, and quarters at 0.1
  const tie = Number.isInteger(unit * value) && !Number.isInteger(unit * value / 2);
  const below = Math.floor(value * 10 ** digits);
  return (tie ? (below + Math.abs(below % 2)) / 10 ** digits : value).toFixed(digits) + " %";
}

function signed(points) { // an end near zero gets the digit that says on which side of it it lies
  const size = Math.abs(points), text = size.toFixed(2);
  if (!points) return "0.00";
  return (points < 0 ? "−" : "+") + (Number(text) ? text : Number(size.toPrecision(1)).toString());
}

function scaled(groups, scale) { // each cell's place in the colours, 0 to 1, and values to label
  const finite = groups.flat().filter(isFinite);
  if (!finite.length) return { place: () => 0, ticks: [] };
  const ordered = [...finite].sort((a, b) => a - b);
  const at = share => ordered[Math.round(share * (ordered.length - 1))];
  if (scale === "rank") {
    const place = value => {
      let low = 0, high = ordered.length;
      while (low < high) { const mid = (low + high) >> 1; ordered[mid] < value ? low = mid + 1 : high = mid; }
      return low / Math.max(1, ordered.length - 1);
    };
    return { place, ticks: [0, 0.5, 1].map(at) };
  }
  const least = scale === "log" ? ordered.find(v => v > 0) ?? 1 : ordered[0], most = ordered[ordered.length - 1];
  const turned = scale === "log" ? v => Math.log(Math.max(v, least)) : v => v;
  const low = turned(least), width = turned(most) - low || 1;
  const back = scale === "log" ? Math.exp : v => v;
  return {
    place: value => (turned(value) - low) / width,
    ticks: [0, 0.5, 1].map(share => back(low + share * width)),
    clipped: scale === "log" && ordered[0] < least,
  };
}
