"""The report's page: HTML frame and style sheet. One file, no script, no network; light, dark, print and small
screens."""

from __future__ import annotations

from string import Template

CSS = """
:root { --paper:#f6f5f1; --card:#ffffff; --ink:#22262b; --quiet:#626a73; --rule:#e3e2dd; --good:#00704f;
  --bad:#b3420a;
  --good-bg:#e2f2ea; --bad-bg:#fbe9df; --link:#0068a8; }
@media screen and (prefers-color-scheme: dark) { :root { --paper:#0f1216; --card:#171b21; --ink:#e4e7eb;
  --quiet:#98a1ac;
  --rule:#2a3038; --good:#4fd1a5; --bad:#f3a06b; --good-bg:#14342a; --bad-bg:#3b2416; --link:#5fb4ee; } }
* { box-sizing:border-box } html { -webkit-text-size-adjust:100% }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif }
main { max-width:1080px; margin:0 auto; padding:40px 24px 72px }
header p.kind { margin:0; color:var(--quiet); font-size:14px }
h1 { font-size:30px; line-height:1.2; margin:4px 0 10px; font-weight:650; letter-spacing:-.01em }
h2 { font-size:22px; line-height:1.25; margin:0; font-weight:650; letter-spacing:-.005em }
a { color:var(--link) } p { margin:.5em 0 } .quiet,.note { color:var(--quiet) } .note { font-size:14.5px;
  max-width:78ch }
section,.hero { background:var(--card); border:1px solid var(--rule); border-radius:10px; padding:22px 24px;
  margin:22px 0 }
.answer { font-size:17px; margin:6px 0 14px }
.tiles { display:grid; grid-template-columns:repeat(4,1fr); gap:12px; margin:20px 0 }
.tile { display:block; background:var(--card); border:1px solid var(--rule); border-radius:10px; padding:13px 15px;
  text-decoration:none; color:inherit }
.tile b { display:block; font-size:14.5px; font-weight:600 } .tile span.big { display:block; font-size:27px;
  font-weight:650;
  line-height:1.3; font-variant-numeric:tabular-nums } .tile small { color:var(--quiet); font-size:13px;
  line-height:1.35; display:block }
figure { margin:14px 0 4px; overflow-x:auto } figure img { display:block; width:100%; height:auto; border-radius:4px }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:14.5px; font-variant-numeric:tabular-nums; margin:10px 0 2px }
th { text-align:right; font-weight:600; color:var(--quiet); font-size:13px; padding:5px 10px; border-bottom:1px
  solid var(--rule);
  white-space:nowrap } td { text-align:right; padding:6px 10px; border-bottom:1px solid var(--rule);
  white-space:nowrap }
th:first-child,td:first-child { text-align:left; padding-left:0; white-space:normal; min-width:15em } tr:last-child
  td { border-bottom:0 }
td.value { font-weight:650 } tr.floor td { color:var(--quiet) }
.chip { display:inline-block; border-radius:99px; padding:0 9px; font-size:13px; font-weight:600; line-height:22px }
.chip.met { color:var(--good); background:var(--good-bg) } .chip.missed { color:var(--bad); background:var(--bad-bg) }
details { margin:8px 0 } summary { cursor:pointer; font-weight:600; padding:4px 0 }
pre { font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; overflow-x:auto; margin:8px 0;
  white-space:pre }
dl { display:grid; grid-template-columns:max-content 1fr; gap:3px 18px; font-size:14.5px; margin:8px 0 } dt {
  color:var(--quiet) }
dd { margin:0; overflow-wrap:anywhere }
@media (max-width:720px) { main { padding:22px 12px 48px } section,.hero { padding:16px 14px; margin:16px 0 }
  .tiles { grid-template-columns:1fr 1fr } h1 { font-size:25px } figure img { min-width:660px }
  dl { grid-template-columns:1fr } dd { margin-bottom:6px } }
@media print { body { background:#fff; font-size:11pt } main { max-width:none; padding:0 } a { color:inherit;
  text-decoration:none }
  section,.hero,.tile { border-color:#ccc; break-inside:avoid } section.long { break-inside:auto } figure img {
  min-width:0 } }
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$css</style>
</head>
<body>
<main>
<header>
<p class="kind">isochrone report</p>
<h1>$title</h1>
<p class="quiet">$about</p>
</header>
$body
</main>
</body>
</html>
""")
