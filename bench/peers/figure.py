"""figure.py RESULTS.json FIGURE.svg -- the curves that compare.py --curves wrote, as one picture.

Points are medians, bars reach from the least to the most. Colours are those of the program's own reports, for
light and dark; the picture brings its paper along, so that it can be read on any page.
"""
import json
import math
import statistics
import sys
from xml.sax.saxutils import escape

STYLE = """svg{--paper:#fff;--ink:#1a1e23;--soft:#56606b;--line:#d5dae0}
svg{--c0:#c2410c;--c1:#1d4ed8;--c2:#0e7490;--c3:#7c3aed}
@media(prefers-color-scheme:dark){svg{--paper:#14171b;--ink:#e8eaed;--soft:#a4adb8;--line:#39414a}
svg{--c0:#fb923c;--c1:#7aa2ff;--c2:#3cc8dc;--c3:#b794f6}}
text{font:13px system-ui,sans-serif;fill:var(--soft)}.title{font-size:15px;font-weight:600;fill:var(--ink)}
.grid{stroke:var(--line)}.line{fill:none;stroke-width:2}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}"""
WIDE, LEFT, RIGHT, PLOT, HIGH = 345, 48, 12, 210, 372
TOP = 104  # of the plot: title, what is drawn, and up to three lines of a legend stand above it


def steps(top):
    """About five round numbers from 0 to at least top."""
    step = 10 ** math.floor(math.log10(top))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if top / s <= 5.5)
    return [i * step for i in range(math.ceil(top / step) + 1)]


class Panel:
    """Some curves over one logarithmic axis; series: (name, colour, {x: values})."""

    def __init__(self, left, title, below, series):
        self.left, self.out = left, []
        xs = sorted({x for _, _, points in series for x in points})
        self.low, self.high = math.log2(xs[0]), math.log2(xs[-1])
        self.ticks = steps(max(max(v) for _, _, points in series for v in points.values()))
        self.text(LEFT, 26, title, "title")
        self.axes(xs, below)
        for i, (name, colour, points) in enumerate(series):
            self.legend(i, name, colour)
            self.curve(colour, points)

    def x(self, value):
        return LEFT + 12 + (WIDE - LEFT - RIGHT - 24) * (math.log2(value) - self.low) / (self.high - self.low)

    def y(self, value):
        return TOP + PLOT * (1 - value / self.ticks[-1])

    def add(self, tag, body=None, **attributes):
        written = "".join(f' {k.rstrip("_")}="{v:.1f}"' if isinstance(v, float) else f' {k.rstrip("_")}="{v}"'
                          for k, v in attributes.items())
        self.out.append(f"<{tag}{written}/>" if body is None else f"<{tag}{written}>{escape(body)}</{tag}>")

    def text(self, x, y, body, kind="label", anchor="start"):
        self.add("text", body, x=float(x), y=float(y), class_=kind, text_anchor=anchor)

    def axes(self, xs, below):
        for tick in self.ticks:
            y = self.y(tick)
            self.add("line", x1=LEFT, x2=WIDE - RIGHT, y1=y, y2=y, class_="grid")
            self.text(LEFT - 6, y + 4.5, f"{tick:,.4g}", anchor="end")
        for x in xs:
            self.text(self.x(x), TOP + PLOT + 19, f"{x:,}" if x < 8000 else f"{x // 1000}k", anchor="middle")
        self.text((LEFT + WIDE - RIGHT) / 2, TOP + PLOT + 41, below, anchor="middle")

    def legend(self, i, name, colour):
        y = 46 + 18 * i
        self.add("circle", cx=LEFT + 6, cy=y - 4, r=5, class_=f"f{colour}")
        self.text(LEFT + 18, y, name)

    def curve(self, colour, points):
        at = [(self.x(x), self.y(statistics.median(v))) for x, v in sorted(points.items())]
        self.add("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in at), class_=f"line s{colour}")
        for (x, y), (_, v) in zip(at, sorted(points.items())):
            self.add("line", x1=x, x2=x, y1=self.y(min(v)), y2=self.y(max(v)), class_=f"s{colour}")
            self.add("circle", cx=x, cy=y, r=3.2, class_=f"f{colour}")

    def markup(self):
        body = "\n".join(line.replace("text_anchor", "text-anchor") for line in self.out)
        return f'<g transform="translate({self.left},0)">\n{body}\n</g>'


def users(left, points):
    said = ("all behind one cartridge of 128 rows", "all behind one document of 1,024 rows",
            "each behind a copy of their own")
    series = [(words, i, {p["users"]: p["speeds"][side] for p in points})
              for i, (words, side) in enumerate(zip(said, points[0]["speeds"]))]
    return Panel(left, "Tokens per second, all users", "users at once", series)


def length(left, points):
    series = []
    for colour, n in ((1, 16), (3, 1)):
        some = {p["rows"]: p["ratios"]["one document"] for p in points if p["users"] == n}
        if some:
            series.append((f"{n} users with one document" if n > 1 else "1 user", colour, some))
    return Panel(left, "Document's time / cartridge's", "rows of the document; the cartridge has 128", series)


def rows(left, points):
    series = [(side, colour, {p["rows"]: p["speeds"][side] for p in points})
              for colour, side in zip((0, 3), points[0]["speeds"])]
    return Panel(left, "Training, tokens per second", "rows of the cartridge", series)


def main(path, out):
    results = json.load(open(path))["results"]
    curves = [(draw, [r for r in results if r.get("curve") == draw.__name__])
              for draw in (users, length, rows)]
    drawn = [(draw, points) for draw, points in curves if points]
    panels = [draw(i * WIDE, points) for i, (draw, points) in enumerate(drawn)]
    wide = WIDE * len(panels)
    size = f'width="{wide}" height="{HIGH}" viewBox="0 0 {wide} {HIGH}"'
    body = "\n".join(p.markup() for p in panels)
    with open(out, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
                f"<title>Speed against users, length of a document, and rows of a cartridge</title>\n"
                f"<style>{STYLE}</style>\n"
                f'<rect width="100%" height="100%" fill="var(--paper)" rx="8"/>\n{body}\n</svg>\n')


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
