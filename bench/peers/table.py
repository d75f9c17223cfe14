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


def speeds(results):
    print("| what | ours | peer | ratio | at least | same results |\n|---|---|---|---|---|---|")
    for r in results:
        ours = next(iter(r["speeds"]))
        for peer, ratios in r["ratios"].items():
            way = f" ({r['peer_way']})" if "peer_way" in r else ""
            same = r["agreement"] if r["agrees"] else "NO: " + r["agreement"]
            print(f"| {r['name']}, {r['unit']}; n = {len(ratios)} | {spread(r['speeds'][ours])} "
                  f"| {peer}{way}: {spread(r['speeds'][peer])} | {spread(ratios)} "
                  f"| {verdict(ratios, r['bars'].get(peer))} | {same} |")


def memory(results):
    print("\n| most memory, MiB | ours | peer | ours / peer |\n|---|---|---|---|")
    for r in results:
        for peer, m in r["peers"].items():
            print(f"| {r['name']} | {number(r['cartridge'])} | {peer}: {number(m['peak'])} "
                  f"({number(m['loaded'])} once the model is loaded) | {r['cartridge'] / m['peak']:.2f} |")


def curves(results):
    print("\n| curve | first | second | ratio |\n|---|---|---|---|")
    for r in results:
        (a, u), (b, v) = list(r["speeds"].items())[:2]
        ratio = spread(r["ratios"][b])
        print(f"| {r['name'][7:]}, {r['unit']} | {a}: {spread(u)} | {b}: {spread(v)} | {ratio} |")


def main(paths):
    for path in paths:
        run = json.load(open(path))
        print(f"{path}: {json.dumps(run['machine'])}\n")
        results = run["results"]
        drawn = [r for r in results if r["name"].startswith("curve: ")]
        speeds([r for r in results if "speeds" in r and r not in drawn])
        memory([r for r in results if "peers" in r])
        if drawn:
            curves(drawn)


if __name__ == "__main__":
    main(sys.argv[1:]) if sys.argv[1:] else sys.exit(__doc__)
