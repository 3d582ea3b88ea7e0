"""The looks of the HTML report: light, dark, and on paper. Nothing is loaded from anywhere."""

from __future__ import annotations

# Okabe and Ito's palette, safe for colour-blind readers, less its yellow; brighter on dark.
_LIGHT = """
  --page: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #5b6470; --rule: #d9dde3;
  --grid: #e7eaee; --good: #00734f; --bad: #b54708; --accent: #0072b2;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8578d; --c4: #3a9bd0; --c5: #8f6600;
  --c6: #333333;
"""
_DARK = """
  --page: #14171a; --card: #1d2125; --ink: #e8eaed; --quiet: #a3abb5; --rule: #363c43;
  --grid: #2a2f35; --good: #3fcf9e; --bad: #ff9e4a; --accent: #61b3e6;
  --c0: #61b3e6; --c1: #ff9047; --c2: #2dc99a; --c3: #e59ac5; --c4: #9ad6f7; --c5: #dcae3c;
  --c6: #d8dade;
"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2.6rem 0 .6rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); overflow-wrap: anywhere; }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }}
p {{ margin: .4rem 0; max-width: 48rem; }}
.quiet {{ color: var(--quiet); }}
a {{ color: var(--accent); }}
nav {{ margin: .8rem 0 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem;
  margin: 1.4rem 0; padding: 0; list-style: none; }}
.tiles li {{ background: var(--card); border: 1px solid var(--rule); border-radius: .5rem;
  padding: .7rem .9rem; overflow-wrap: anywhere; }}
.tiles b {{ display: block; font-size: 1.35rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }}
.tiles span {{ color: var(--quiet); font-size: .87rem; }}
.wide {{ overflow-x: auto; }} .wide > svg {{ max-width: none; }}
table {{ border-collapse: collapse; font-size: .92rem; margin: .6rem 0;
  font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }}
th {{ color: var(--quiet); font-weight: 600; border-bottom-color: var(--rule);
  white-space: nowrap; }}
td.number, th.number {{ text-align: right; white-space: nowrap; }}
td.nowrap {{ white-space: nowrap; }}
tr.reference td {{ color: var(--quiet); }}
tr.best td {{ font-weight: 650; }}
tr.total td {{ border-top: 2px solid var(--rule); font-weight: 600; }}
td.better {{ color: var(--good); }} td.worse {{ color: var(--bad); }}
code, pre {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; font-size: .86rem; }}
code {{ overflow-wrap: anywhere; }}
pre {{ background: var(--card); border: 1px solid var(--rule); border-radius: .5rem;
  padding: .7rem .9rem; overflow-x: auto; margin: .5rem 0; }}
figure {{ margin: 1rem 0; }}
figure > svg {{ width: 100%; }}
figcaption {{ color: var(--quiet); font-size: .87rem; margin-top: .3rem; max-width: 48rem; }}
details {{ margin: .7rem 0; }}
summary {{ cursor: pointer; color: var(--accent); }}
ul.notes {{ padding-left: 1.1rem; margin: .5rem 0; }} ul.notes li {{ margin: .2rem 0; }}
ul.tree, ul.tree ul {{ list-style: none; margin: .2rem 0; padding-left: 1.1rem;
  border-left: 2px solid var(--rule); }}
ul.tree {{ padding-left: .8rem; }} ul.tree li {{ margin: .35rem 0; }}
ul.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0;
  margin: .3rem 0; font-size: .87rem; }}
ul.legend li {{ display: flex; align-items: center; gap: .4rem; }}
.scale {{ display: inline-flex; margin: 0 .2rem; }}
.scale i {{ width: 7px; height: 12px; display: inline-block; }}
svg {{ max-width: 100%; height: auto; display: block; }}
ul.legend svg {{ flex: none; }}
svg text {{ font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: var(--ink); }}
svg .tick, svg .quiet {{ fill: var(--quiet); }}
svg .small {{ font-size: 11px; }} svg .strong {{ font-weight: 650; }}
svg .ink-dark {{ fill: #14171a; }} svg .ink-light {{ fill: #ffffff; }}
svg .grid {{ stroke: var(--grid); }} svg .axis {{ stroke: var(--rule); }}
svg .zero {{ stroke: var(--quiet); stroke-width: 1.5; }}
svg .reference {{ stroke: var(--quiet); stroke-width: 1.4; stroke-dasharray: 6 4; }}
svg .leader {{ stroke: var(--rule); }}
svg .band {{ fill: var(--quiet); opacity: .1; }}
svg .line {{ fill: none; stroke-width: 2; }} svg .bar {{ stroke-width: 1.3; opacity: .75; }}
svg .span {{ stroke-width: 2; }} svg .run {{ opacity: .45; }}
svg .mean {{ stroke-width: 1.6; }} svg .mean.hollow {{ fill: var(--page); }}
svg .miss {{ fill: none; stroke-width: 2; }}
svg .gap {{ fill: var(--card); stroke: var(--rule); stroke-dasharray: 3 2; }}
svg .strike {{ stroke: var(--rule); }}
svg .mean.quiet {{ fill: var(--quiet); stroke: var(--quiet); }}
svg .mean.quiet.hollow {{ fill: var(--page); }}
svg .miss.quiet, svg .span.quiet {{ stroke: var(--quiet); fill: none; }}
svg .better {{ stroke: var(--good); fill: var(--good); }}
svg .worse {{ stroke: var(--bad); fill: var(--bad); }}
svg .mean.better.hollow, svg .mean.worse.hollow {{ fill: var(--page); }}
svg .run-good {{ fill: var(--c0); }} svg .run-bad {{ fill: var(--bad); }}
svg .run-base {{ fill: var(--c5); }}
{
    "".join(
        f"svg .s{n} {{ stroke: var(--c{n}); }} svg .f{n}:not(.hollow) {{ fill: var(--c{n}); }}"
        + chr(10)
        for n in range(7)
    )
}
svg .d1 {{ stroke-dasharray: 7 4; }} svg .d2 {{ stroke-dasharray: 8 3 2 3; }}
svg .d3 {{ stroke-dasharray: 2 3; }} svg .d4 {{ stroke-dasharray: 12 4; }}
svg .d5 {{ stroke-dasharray: 4 2 1 2; }} svg .d6 {{ stroke-dasharray: 1 2; }}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} }}
  body {{ max-width: none; padding: 0; font-size: 10.5pt; }}
  nav {{ display: none; }}
  figure, tr, .tiles li, ul.tree li {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  .wide {{ overflow: visible; }} .wide > svg {{ max-width: 100%; }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
