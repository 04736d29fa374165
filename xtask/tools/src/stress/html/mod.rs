//! The HTML report: one self-contained page of cells, times and failures.
//!
//! It has no script and loads nothing from a network. The plots are inline SVG, and the page
//! follows the reader's light or dark mode.

mod plot;

use std::{collections::BTreeMap, fmt::Write};

use harness::xml::escaped;

use super::{
    histogram::Histogram,
    report::{faults, group},
    tally::{Failure, Tally},
};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #656d76; --paper: #fff; --line: #d0d7de; \
--good: #2da44e; --bad: #cf222e; --idle: #d0d7de; --mark: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #8d96a0; --paper: #0d1117; \
--line: #30363d; --good: #3fb950; --bad: #f85149; --idle: #30363d; --mark: #4493f8; } }
body { margin: 0 auto; max-width: 46rem; padding: 1rem; font: 16px/1.45 system-ui, sans-serif; \
color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; \
border-bottom: 1px solid var(--line); }
h1 b { color: var(--good); } h1 b.bad, .bad { color: var(--bad); } .soft, small { color: \
var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; } .tiles div { flex: 1 1 \
6.5rem; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
.tiles b { display: block; font-size: 1.4rem; } svg { width: 100%; height: auto; display: block; } \
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.35; border: 1px solid var(--line); \
border-radius: .5rem; padding: .5rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; } td, th { padding: .2rem \
.4rem; border-bottom: 1px solid var(--line); text-align: left; } td.n, th.n { text-align: right; }
article { border-left: 4px solid var(--bad); padding-left: .75rem; margin: 1rem 0; } details { \
margin: .5rem 0; } summary { cursor: pointer; } .scroll { overflow-x: auto; }
";

/// Formats the page.
pub fn page(tally: &Tally) -> String {
    let (word, class) = match (tally.failures.is_empty(), tally.interrupted) {
        (false, _) => ("failed", " class=\"bad\""),
        (true, true) => ("interrupted", " class=\"bad\""),
        (true, false) => ("passed", ""),
    };
    let what = escaped(&tally.what);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Ouroboros {what}: {word}</title><style>{STYLE}</style></head><body>\n\
         <h1>Ouroboros {what}: <b{class}>{word}</b></h1>\n"
    );
    let _ = writeln!(text, "<p>{}</p>", escaped(&tally.sentence()));
    tiles(&mut text, tally);
    failures(&mut text, tally);
    what_ran(&mut text, tally);
    ends_of_faults(&mut text, tally);
    how_fast(&mut text, tally);
    each_cell(&mut text, tally);
    let _ = writeln!(
        text,
        "<h2>To repeat it</h2><p><small>{}<br>kernel {}<br>commit {}<br>{}</small>\
         </p>\n</body></html>",
        escaped(&tally.parts.join("; ")),
        escaped(&tally.kernel),
        escaped(&tally.commit),
        escaped(&tally.qemu)
    );
    text
}

fn tiles(text: &mut String, tally: &Tally) {
    let failed = tally.failures.len();
    let rate = tally.generations() as f64 / tally.seconds.max(0.001);
    let faults = (tally.injected() > 0).then(|| ("faults", tally.injected().to_string(), ""));
    let tiles = [
        ("generations", tally.generations().to_string(), ""),
        ("a second", format!("{rate:.1}"), ""),
        ("cells", (tally.cells.len() - tally.left_out()).to_string(), ""),
        ("failed", failed.to_string(), if failed > 0 { " class=\"bad\"" } else { "" }),
    ];
    *text += "<div class=\"tiles\">";
    for (name, value, class) in faults.into_iter().chain(tiles) {
        let _ = write!(text, "<div><b{class}>{value}</b>{name}</div>");
    }
    *text += "</div>\n";
}

/// Draws one square for each cell, and a row of squares for each machine.
fn what_ran(text: &mut String, tally: &Tally) {
    *text += "<h2>What ran</h2><p class=\"soft\">A square is a cell: \
              <span style=\"color:var(--good)\">passed</span>, \
              <span class=\"bad\">failed</span>, grey not run. Touch one for its name.</p>\n";
    let mut groups = BTreeMap::<String, Vec<_>>::new();
    for cell in &tally.cells {
        groups.entry(group(cell.0)).or_default().push(cell);
    }
    for (name, cells) in groups {
        let squares: Vec<_> = cells
            .iter()
            .map(|(name, logs)| {
                let colour = match (logs.runs, logs.failed) {
                    (0, _) => "var(--idle)",
                    (_, 0) => "var(--good)",
                    _ => "var(--bad)",
                };
                let (generations, failed) = (logs.generations, logs.failed);
                (colour, format!("{name}: {generations} generations, {failed} failed"))
            })
            .collect();
        let _ = writeln!(text, "<div>{}</div>{}", escaped(&name), plot::squares(&squares));
    }
}

fn ends_of_faults(text: &mut String, tally: &Tally) {
    if tally.faults.is_empty() {
        return;
    }
    *text += "<h2>How the faults ended</h2><div class=\"scroll\"><table>\
              <tr><th>machine</th><th>fault</th><th>ended</th></tr>";
    for row in faults(tally) {
        let _ = write!(
            text,
            "<tr>{}</tr>",
            row.map(|cell| format!("<td>{}</td>", escaped(&cell))).concat()
        );
    }
    *text += "</table></div>\n";
}

fn how_fast(text: &mut String, tally: &Tally) {
    let (mut phases, mut ages) =
        (BTreeMap::<String, Histogram>::new(), BTreeMap::<u32, Histogram>::new());
    for (name, times) in tally.phases.values().flatten() {
        phases.entry(name.clone()).or_default().merge(times);
    }
    for (age, times) in tally.ages.values().flatten() {
        ages.entry(*age).or_default().merge(times);
    }
    if phases.is_empty() {
        return;
    }
    *text += "<h2>How fast</h2><p class=\"soft\">The times from one \
              breadcrumb to the next over all generations, in the guest's clock under QEMU: count \
              (height) by duration (to the right, logarithmic). The line is the median.</p>\n";
    *text += &plot::phases(&phases);
    *text += "<p class=\"soft\">From one generation's first instruction to the next \
              one's, by the generation's number: the median, and the band that holds eight of ten. \
              A line that climbs is drift.</p>\n";
    *text += &plot::ages(&ages);
    for (group, phases) in &tally.phases {
        let _ =
            write!(text, "<details><summary>{}</summary>{}", escaped(group), plot::phases(phases));
        *text += &tally.ages.get(group).map_or(String::new(), plot::ages);
        *text += "</details>\n";
    }
}

fn failures(text: &mut String, tally: &Tally) {
    if tally.failures.is_empty() {
        return;
    }
    *text += "<h2>What failed</h2>\n";
    for failure in &tally.failures {
        let Failure { cell, machine, seed, why, console, stood, exceptions, again, folder, .. } =
            failure;
        let _ =
            write!(text, "<article><b>{}</b><p class=\"bad\">{}</p>", escaped(cell), escaped(why));
        let _ = write!(
            text,
            "<p><small>{}, seed {}</small></p><pre>{}</pre>",
            escaped(machine),
            escaped(seed),
            escaped(again)
        );
        for (title, body) in [
            ("the console's last lines", console),
            ("where the CPUs stood", stood),
            ("QEMU's exception log", exceptions),
            ("kept in", folder),
        ] {
            if !body.trim().is_empty() {
                let _ = write!(
                    text,
                    "<details><summary>{title}</summary><pre>{}</pre></details>",
                    escaped(body.trim_end())
                );
            }
        }
        *text += "</article>\n";
    }
}

fn each_cell(text: &mut String, tally: &Tally) {
    *text += "<h2>Each cell</h2><details><summary>names and figures</summary>\
              <div class=\"scroll\"><table><tr><th>cell</th><th class=\"n\">runs</th>\
              <th class=\"n\">generations</th><th class=\"n\">s</th>\
              <th class=\"n\">failed</th></tr>";
    for (name, logs) in &tally.cells {
        let _ = write!(
            text,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{:.1}</td><td class=\"n\">{}</td></tr>",
            escaped(name),
            logs.runs,
            logs.generations,
            logs.seconds,
            logs.failed
        );
    }
    *text += "</table></div></details>\n";
}

#[cfg(test)]
mod tests {
    use harness::xml::well_formed;

    use super::{
        super::tally::tests::{failure, tally},
        *,
    };

    #[test]
    fn it_is_well_formed_and_fetches_nothing() {
        let mut whole = tally("seed 0x1", 3, Some(failure()));
        whole.choose("vhe-1cpu-gicv3-modern-hot-same");
        for page in [page(&whole), page(&tally("seed 0x1", 2, None)), page(&Tally::default())] {
            well_formed(&page, &["meta", "br"]).unwrap();
            for word in
                ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "NaN", "inf"]
            {
                assert!(!page.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn what_ran_how_fast_and_what_failed_are_there() {
        let page = page(&tally("seed 0x1", 3, Some(failure())));
        for words in [
            ">failed</b>",
            "a &lt;b&gt; &amp; ",
            "cargo xtask stress --seed",
            "<svg",
            "copied",
            "fill=\"var(--bad)\"",
            "width=device-width",
        ] {
            assert!(page.contains(words), "{words}");
        }
        let good = super::page(&tally("seed 0x1", 3, None));
        assert!(
            good.contains(">passed</b>")
                && !good.contains("What failed")
                && !good.contains("fill=\"var(--bad)\"")
        );
    }
}
