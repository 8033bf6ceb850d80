// Connected pieces of a mask, as the library's label_regions: pixels that touch at a corner belong together.

export function pieces(rows, columns, inside) { // inside(y, x); area and box of each piece, bottom and right just outside
  const seen = new Uint8Array(rows * columns), found = [];
  for (let start = 0; start < seen.length; start++) {
    if (seen[start] || !inside(Math.floor(start / columns), start % columns)) continue;
    const piece = { area: 0, top: rows, left: columns, bottom: 0, right: 0 }, waiting = [start];
    seen[start] = 1;
    while (waiting.length) {
      const at = waiting.pop(), y = Math.floor(at / columns), x = at % columns;
      Object.assign(piece, { area: piece.area + 1, top: Math.min(piece.top, y), bottom: Math.max(piece.bottom, y + 1),
        left: Math.min(piece.left, x), right: Math.max(piece.right, x + 1) });
      for (let b = Math.max(y - 1, 0); b <= Math.min(y + 1, rows - 1); b++)
        for (let a = Math.max(x - 1, 0); a <= Math.min(x + 1, columns - 1); a++)
          if (!seen[b * columns + a] && inside(b, a)) { seen[b * columns + a] = 1; waiting.push(b * columns + a); }
    }
    found.push(piece);
  }
  return found;
}
