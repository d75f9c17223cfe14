"""table.py RESULTS.json... -- what compare.py wrote, as the tables of docs/benchmarks.md. Prints Markdown."""
import json
import statistics
import sys


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def spread(values):
    return f"{number(statistics.median(values))} [{number(min(values))}, {number(max(values))}]"


def verdict(ratios, bar):
    if bar is None:
        return ""
    middle = statistics.median(ratios)
    return f"{bar:g}: met" if middle >= bar else f"{bar:g}: missed by {100 * (1 - middle / bar):.0f}%"


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |")


def head(*cells):
    print()
    row(*cells)
    print("|---" * len(cells) + "|")


def speeds(results):
    head("what", "ours", "peer", "ratio", "at least", "same results")
    for r in results:
        ours = next(iter(r["speeds"]))
        for peer, ratios in r["ratios"].items():
            way = f" ({r['peer_way']})" if "peer_way" in r else ""
            same = r["agreement"] if r["agrees"] else "NO: " + r["agreement"]
            row(f"{r['name']}, {r['unit']}; n = {len(ratios)}", spread(r["speeds"][ours]),
                f"{peer}{way}: {spread(r['speeds'][peer])}", spread(ratios),
                verdict(ratios, r["bars"].get(peer)), same)


def ways(results):
    head("what", "the peer's ways, seconds")
    for r in results:
        if r.get("peer_ways"):
            row(r["name"], ", ".join(f"{way}: {number(t)}" for way, t in r["peer_ways"].items()))


def memory(results):
    head("most memory, MiB", "ours", "peer", "ours / peer")
    for r in results:
        for peer, m in r["peers"].items():
            row(r["name"], number(r["cartridge"]),
                f"{peer}: {number(m['peak'])} ({number(m['loaded'])} once the model is loaded)",
                f"{r['cartridge'] / m['peak']:.2f}")


def held(r):
    return ", ".join(number(h["prefix_mib"]) for h in r["held"].values())


def curve_of_users(results):
    first, *others = results[0]["speeds"]
    head("users", f"{first}, tokens/s", *(cell for o in others for cell in (o, "ratio")), "their pages, MiB",
         "the users', MiB")
    for r in results:
        own = next(iter(r["held"].values()))["own_mib"]
        row(r["users"], spread(r["speeds"][first]),
            *(cell for o in others for cell in (spread(r["speeds"][o]), spread(r["ratios"][o]))), held(r),
            number(own))


def reaches(points, wanted):
    """Where a line through the medians first reaches it; None: nowhere."""
    for (x, y), (to_x, to_y) in zip(points, points[1:]):
        if y < wanted <= to_y:
            return x + (to_x - x) * (wanted - y) / (to_y - y)
    return None


def curve_of_length(results, wanted=1.5):
    first, other = results[0]["speeds"]
    head("users", "rows of the document", f"{first}, tokens/s", other, "ratio", "their pages, MiB")
    for r in sorted(results, key=lambda r: (r["users"], r["rows"])):
        row(r["users"], f"{r['rows']:,}", spread(r["speeds"][first]), spread(r["speeds"][other]),
            spread(r["ratios"][other]), held(r))
    print()
    for users in sorted({r["users"] for r in results}):
        points = [(r["rows"], statistics.median(r["ratios"][other])) for r in results if r["users"] == users]
        at = reaches(points, wanted)
        where = f"at about {at:,.0f} rows" if at else "nowhere between two of these points"
        print(f"users: {users}; the ratio passes {wanted} {where}.")


def curve_of_rows(results):
    first, other = results[0]["speeds"]
    head("rows", f"{first}, tokens/s", other, "ratio", "same results")
    for r in results:
        row(f"{r['rows']:,}", spread(r["speeds"][first]), spread(r["speeds"][other]),
            spread(r["ratios"][other]), r["agreement"] if r["agrees"] else "NO: " + r["agreement"])


CURVES = {"users": curve_of_users, "length": curve_of_length, "rows": curve_of_rows}


def main(paths):
    for path in paths:
        run = json.load(open(path))
        print(f"{path}: {json.dumps(run['machine'])}")
        results = run["results"]
        compared = [r for r in results if "speeds" in r and "curve" not in r]
        if compared:
            speeds(compared)
            ways(compared)
        if any("peers" in r for r in results):
            memory([r for r in results if "peers" in r])
        for name, show in CURVES.items():
            points = [r for r in results if r.get("curve") == name]
            if points:
                show(points)


if __name__ == "__main__":
    main(sys.argv[1:]) if sys.argv[1:] else sys.exit(__doc__)
