"""The results as Markdown tables and as an SVG of plots, without anything but the standard library."""

import math
import os

#: Key, title, unit, digits after the point; the key `start` is measured by the agents themselves.
MEASURES = (
    ("dirty", "Private memory", "KiB private dirty, all processes of the supervisor", 0),
    ("rss", "Resident memory", "KiB, all processes of the supervisor", 0),
    ("start", "All started", "ms from executing the supervisor to the last agent's first instruction", 1),
    ("kill", "Killed to new, median", "ms from kill -9 of an agent to the first instruction of its next process", 2),
    ("kill99", "Killed to new, 99th percentile", "ms", 2),
    ("stop", "All stopped", "ms from the order to the end of the last agent and of the supervisor", 1),
    ("wakes", "Wake-ups when idle", "times an hour, all threads", 0),
    ("cpu", "Processor time when idle", "s an hour", 3),
)

#: What is plotted, as there is a curve in it.
PLOTTED = ("dirty", "start", "kill", "stop")

COLOURS = ("#c1121f", "#1d3557", "#2a9d8f", "#6d597a", "#e09f3e", "#457b9d", "#7f7f7f")


def number(value, digits):
    if value is None:
        return "-"
    return f"{value:,.{digits}f}"


def tables(results):
    """All tables; the best of a row's column is bold."""
    sizes = results["sizes"]
    names = list(results["runs"])
    lines = []
    if names:
        lines += ["| on disk, with libraries | KiB | |", "|---|---:|---|"]
        for name in names:
            lines.append(f"| {name} | {results['disk'][name] / 1024:,.0f} | {results['notes'][name]} |")
        lines.append("")
    for key, title, unit, digits in MEASURES:
        rows = {name: [results["runs"][name].get(str(size), {}).get(key) for size in sizes] for name in names}
        if not any(value is not None for row in rows.values() for value in row):
            continue
        lines += [f"### {title}", "", f"In {unit}.", ""]
        lines += ["| agents | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---" + "|---:" * len(sizes) + "|"]
        for name, row in rows.items():
            cells = []
            for index, value in enumerate(row):
                column = [other[index] for other in rows.values() if other[index] is not None]
                text = number(value, digits)
                cells.append(f"**{text}**" if value is not None and value == min(column) else text)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    if results.get("alone"):
        lines += ["### bootagent alone", "", "| | |", "|---|---:|"]
        lines += [f"| {what} | {value} |" for what, value in results["alone"].items()]
        lines.append("")
    return "\n".join(lines)


def plot(results, key, title, unit, left, top):
    """One plot, both axes logarithmic: 420 x 300 at this place."""
    width, height, inset = 330, 200, 60
    sizes = results["sizes"]
    curves = {name: [(size, run[str(size)].get(key)) for size in sizes if run.get(str(size), {}).get(key)]
              for name, run in results["runs"].items()}
    values = [value for curve in curves.values() for _, value in curve]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    first, last = math.log10(sizes[0]), max(math.log10(sizes[-1]), math.log10(sizes[0]) + 0.1)

    def across(size):
        return left + inset + (math.log10(size) - first) / (last - first) * width

    def up(value):
        return top + 40 + height - (math.log10(value) - low) / (high - low) * height

    parts = [f'<text x="{left + inset}" y="{top + 16}" class="title">{title}</text>',
             f'<text x="{left + inset}" y="{top + 31}">{unit}</text>']
    for power in range(low, high + 1):
        y = up(10.0 ** power)
        label = f"{10 ** power:,}" if power >= 0 else f"{10.0 ** power:g}"
        parts.append(f'<line x1="{left + inset}" y1="{y:.1f}" x2="{left + inset + width}" y2="{y:.1f}" class="grid"/>'
                     f'<text x="{left + inset - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for size in sizes:
        parts.append(f'<text x="{across(size):.1f}" y="{top + 56 + height}" text-anchor="middle">{size:,}</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour, wide = COLOURS[index % len(COLOURS)], 3 if name == "bootagent" else 1.5
        points = " ".join(f"{across(size):.1f},{up(value):.1f}" for size, value in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        parts += [f'<circle cx="{across(size):.1f}" cy="{up(value):.1f}" r="3" fill="{colour}"/>' for size, value in curve]
    return "\n".join(parts)


def svg(results):
    """Four plots and what colour is whose."""
    columns, wide, tall = 2, 440, 310
    parts = []
    titles = {key: (title, unit) for key, title, unit, _ in MEASURES}
    for index, key in enumerate(PLOTTED):
        title, unit = titles[key]
        unit = {"dirty": "KiB private dirty, by number of agents", "kill": "ms"}.get(key, "ms, by number of agents")
        parts.append(plot(results, key, title, unit, index % columns * wide, index // columns * tall))
    rows = (len(PLOTTED) + columns - 1) // columns
    for index, name in enumerate(results["runs"]):
        x, y = 60 + index * 115, rows * tall + 14
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
                     f'<text x="{x + 15}" y="{y}">{name}</text>')
    size = (columns * wide, rows * tall + 30)
    style = ("text{font:11px sans-serif;fill:#222}.title{font-weight:bold;font-size:13px}"
             ".grid{stroke:#ddd;stroke-width:1}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
            f'height="{size[1]}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
            + "\n".join(part for part in parts if part) + "\n</svg>\n")


def write(root, results, text):
    """Puts tables and plots into docs/: what is between the two marks of benchmarks.md is replaced."""
    path = os.path.join(root, "docs", "benchmarks.md")
    with open(path, encoding="utf-8") as file:
        before, _, rest = file.read().partition("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->\n")[2]
    absent = f" Not installed: {', '.join(results['absent'])}." if results["absent"] else ""
    head = (f"Measured {results['date']} on {results['machine']}; load average at the beginning {results['load']:.2f}; "
            f"{results['idle']:.0f} s of idling for each number of agents.{absent}\n\n![plots](benchmarks.svg)\n\n")
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + "<!-- results -->\n" + head + text + "<!-- end of results -->\n" + after)
    with open(os.path.join(root, "docs", "benchmarks.svg"), "w", encoding="utf-8") as file:
        file.write(svg(results))
