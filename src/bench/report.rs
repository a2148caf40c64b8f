//! A page for people: latency curves beside those of the limits, rates beside theirs, and the tables.
//!
//! One file that needs no other and no network, readable in light and in dark. The invariant to
//! remember: every text goes through [`markup::Escaped`], wherever it comes from.

mod chart;
mod markup;

use std::fmt::Write as _;
use std::fs;

use self::markup::Escaped;
use super::{Alignment, CaseResult, Table, ratio_text, result_tables};

/// What the page says about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its processor, as /proc/cpuinfo calls it.
    pub processor: String,
    /// Cores that are online.
    pub core_count: usize,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// The machine that this runs on; what it does not tell is called unknown.
    #[must_use]
    pub fn of_this() -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = information.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
        Self {
            processor: model.unwrap_or("unknown processor").to_owned(),
            core_count: information.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned()),
        }
    }
}

/// The results of a run as a page of HTML, which is also well-formed XML but for its first line.
#[must_use]
pub fn report_page(results: &[CaseResult], machine: &Machine) -> String {
    let mut page = String::with_capacity(64 * 1024);
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, results, machine);
    page
}

fn write_page(
    page: &mut String,
    results: &[CaseResult],
    machine: &Machine,
) -> Result<(), std::fmt::Error> {
    let Machine { processor, core_count, kernel } = machine;
    page.push_str(HEAD);
    writeln!(
        page,
        "<p class=\"machine\">annulus {} · {} · {core_count} cores · Linux {}</p>",
        Escaped(env!("CARGO_PKG_VERSION")),
        Escaped(processor),
        Escaped(kernel),
    )?;
    let (pipelined, single): (Vec<_>, Vec<_>) =
        results.iter().partition(|result| result.is_pipelined());
    if !single.is_empty() {
        page.push_str(ROUND_TRIPS);
        page.push_str("<div class=\"grid\">\n");
        for result in single {
            write_curves(page, result)?;
        }
        page.push_str("</div>\n");
    }
    if !pipelined.is_empty() {
        page.push_str(LOADS);
        chart::write_bars(page, &pipelined)?;
    }
    page.push_str("<h2>All figures</h2>\n");
    for table in result_tables(results) {
        write_table(page, &table)?;
    }
    page.push_str(FOOT);
    Ok(())
}

/// The card of one round trip: its name, its ratios, its curves.
fn write_curves(page: &mut String, result: &CaseResult) -> Result<(), std::fmt::Error> {
    writeln!(page, "<section><h3>{} · {} B</h3>", Escaped(&result.case), result.size)?;
    for limit in &result.limits {
        writeln!(
            page,
            "<p>p50 <b>{}</b>, p99 <b>{}</b> of {}</p>",
            ratio_text(limit.ratio_p50),
            ratio_text(limit.ratio_p99),
            Escaped(&limit.limit),
        )?;
    }
    let limits = result.limits.iter().map(|limit| (limit.limit.as_ref(), limit.curve.as_slice()));
    let curves: Vec<_> =
        std::iter::once(("annulus", result.curve.as_slice())).chain(limits).collect();
    chart::write_latencies(page, &curves)?;
    page.push_str("</section>\n");
    Ok(())
}

fn write_table(page: &mut String, table: &Table) -> Result<(), std::fmt::Error> {
    let class = |index: usize| match table.columns()[index].1 {
        Alignment::Left => "",
        Alignment::Right => " class=\"number\"",
    };
    page.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for (index, (name, _)) in table.columns().iter().enumerate() {
        write!(page, "<th{}>{}</th>", class(index), Escaped(name))?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in table.rows() {
        // A limit's row is set in by two spaces, which HTML would swallow.
        let is_limit = row.first().is_some_and(|cell| cell.starts_with(' '));
        page.push_str(if is_limit { "<tr class=\"limit\">" } else { "<tr>" });
        for (index, cell) in row.iter().enumerate() {
            write!(page, "<td{}>{}</td>", class(index), Escaped(cell.trim()))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Annulus beside the limits of this machine</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1c1c1e; --quiet: #63636b; --line: #e2e2e7;
  --s0: #0b62d6; --s1: #c2410c; --s2: #15803d; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17181b; --ink: #ececf0; --quiet: #a0a0aa; --line: #35363c;
    --s0: #6cb2ff; --s1: #fb923c; --s2: #4ade80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .1rem 0; }
p.machine, p.note, section p { color: var(--quiet); font-size: .9rem; }
p.note { max-width: 46rem; margin-bottom: 1rem; }
b { color: var(--ink); }
.grid { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
section { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; }
svg text { fill: var(--quiet); font: 12px system-ui, sans-serif; }
svg text.name { fill: var(--ink); }
svg text.on { fill: var(--page); }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .c0 { stroke: var(--s0); stroke-width: 2.5; }
svg .c1 { stroke: var(--s1); stroke-dasharray: 6 3; }
svg .c2 { stroke: var(--s2); stroke-dasharray: 2 3; }
svg .f0 { fill: var(--s0); }
svg .f1 { fill: var(--s1); opacity: .75; }
.wide { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; }
tr.limit td { color: var(--quiet); }
tr.limit td:first-child { padding-left: 1.6rem; }
</style>
</head>
<body>
<h1>Annulus beside the limits of this machine</h1>
"#;

const ROUND_TRIPS: &str = r#"<h2>Round trips</h2>
<p class="note">Read a curve from the left: half of the round trips took no longer than at 50 %, all but
one in a thousand no longer than at 99.9 %. The dashed curves are bare exchanges, without any code between
the two sides, measured in turns with it.</p>
"#;

const LOADS: &str = r#"<h2>Throughput</h2>
<p class="note">Requests and their answers each second. The second bar is the limit of the same bytes in
flight: two processes that copy each message as often as Annulus must, and do nothing else. For “open”
it is the same load on a daemon on which nothing else is open.</p>
"#;

const FOOT: &str = "</body>\n</html>\n";

#[cfg(test)]
mod tests {
    use super::super::result::tests::example;
    use super::*;

    fn machine() -> Machine {
        Machine { processor: "A <fast> & \"new\" one".into(), core_count: 2, kernel: "6.1".into() }
    }

    fn load() -> CaseResult {
        CaseResult { case: "throughput".into(), connections: 16, window: 64, ..example() }
    }

    /// Panics unless every element that begins also ends, in order; gives how many there are.
    fn count_elements(page: &str) -> usize {
        let body = page.strip_prefix("<!doctype html>\n").expect("the page says what it is");
        let (mut open, mut count) = (Vec::new(), 0);
        for tag in body.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "{text:?} is not escaped");
            assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}> has whole attributes");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "<{tag}>");
            } else {
                count += 1;
                let name = tag.split([' ', '/']).next().unwrap();
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "{open:?}");
        count
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        let page = report_page(&[example(), load()], &machine());
        assert!(count_elements(&page) > 50);
        for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn texts_are_escaped_wherever_they_come_from() {
        let mut result = example();
        result.case = "<script>alert('x')</script>".into();
        result.limits[0].limit = "\"a\" & <b>".into();
        let mut load = CaseResult { window: 2, ..result.clone() };
        load.case = "</svg><i>".into();
        let page = report_page(&[result, load], &machine());
        count_elements(&page);
        assert!(!page.contains("<script") && !page.contains("<i>") && !page.contains("<fast>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("A &lt;fast&gt; &amp; &quot;new"));
    }

    #[test]
    fn every_figure_of_the_tables_is_on_the_page() {
        let page = report_page(&[example(), load()], &machine());
        for text in ["240 ns", "1.71×", "1.85×", "371 ns", "4.10 M", "5 (−2)", "beside cache line"]
        {
            assert!(page.contains(text), "{text}");
        }
        assert_eq!(page.matches("<table>").count(), 2);
    }

    #[test]
    fn no_results_and_results_without_curves_make_a_page_too() {
        count_elements(&report_page(&[], &machine()));
        let mut result = example();
        result.curve.clear();
        result.limits.clear();
        count_elements(&report_page(
            &[result.clone(), CaseResult { window: 2, ..result }],
            &machine(),
        ));
    }

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::of_this();
        assert!(machine.core_count > 0 && !machine.processor.is_empty());
        assert!(machine.kernel.starts_with(|first: char| first.is_ascii_digit()));
    }
}
