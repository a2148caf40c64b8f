//! What came out: one table, one object of JSON a line, or Markdown.

use std::collections::HashMap;
use std::io::{self, Write};

use annulus::bench::{Alignment, CANARY_SHIFT_MAX, Style, Table, duration_text, median};
use serde::Serialize;

use crate::peers::OURS;
use crate::run::{Case, Round, Row};
use crate::scene::Load;

/// What [`Result::schema`] says; a change of meaning changes the number.
const SCHEMA: &str = "annulus.peers/1";

/// What stands where there is no figure.
const NONE: &str = "–";

/// The figures of one peer in one case: medians over its rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    schema: &'static str,
    pub(crate) load: Load,
    /// Bytes of a payload, one way.
    pub(crate) size: usize,
    pub(crate) peer: &'static str,
    /// How both sides waited: `polls` or `sleeps`.
    pub(crate) wait: Option<&'static str>,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    /// Round trips a second, pauses left out.
    pub(crate) per_s: Option<u64>,
    /// How many times the bare limit's figure, in the same round; the p50, or under the pipelined
    /// load the time for each request.
    pub(crate) to_limit: Option<f64>,
    /// How many times Annulus's figure: above 1, Annulus is faster.
    pub(crate) to_annulus: Option<f64>,
    /// Figures compare only where this does: the cores were near or far.
    pub(crate) canary_p50_ns: Option<u64>,
    pub(crate) rounds: usize,
    pub(crate) rejected_rounds: u32,
    /// Why there are no figures.
    pub(crate) skipped: Option<String>,
    /// What went wrong, in the round after those that count.
    pub(crate) failed: Option<String>,
}

/// Draws the medians and the ratios.
pub(crate) fn outcomes(rows: &[Row]) -> Vec<Outcome> {
    let ours: HashMap<(&str, usize), &Row> = rows
        .iter()
        .filter(|row| row.peer.name() == OURS)
        .map(|row| ((row.case.load.name(), row.case.size), row))
        .collect();
    rows.iter()
        .map(|row| {
            let ours = ours.get(&(row.case.load.name(), row.case.size)).copied();
            outcome(row, ours)
        })
        .collect()
}

fn outcome(row: &Row, ours: Option<&Row>) -> Outcome {
    let Case { load, size } = row.case;
    let middle = |figure: fn(&Round) -> f64| median(row.rounds.iter().map(figure)).map(whole);
    let to_limit = row.rounds.iter().filter_map(|round| {
        let limit = round.limit.map(|figures| Round { figures, ..*round })?;
        Some(time_of(load, round) / time_of(load, &limit))
    });
    let to_annulus = row.rounds.iter().enumerate().filter_map(|(index, round)| {
        let ours = counterpart(index, round, &ours?.rounds)?;
        Some(time_of(load, round) / time_of(load, ours))
    });
    let to_annulus = if row.peer.name() == OURS { None } else { median(to_annulus) };
    Outcome {
        schema: SCHEMA,
        load,
        size,
        peer: row.peer.name(),
        wait: row.wait.map(crate::scene::Wait::name),
        p50_ns: middle(|round| round.figures.p50_ns as f64),
        p99_ns: middle(|round| round.figures.p99_ns as f64),
        per_s: middle(|round| round.figures.per_s),
        to_limit: median(to_limit).map(thousandths),
        to_annulus: to_annulus.map(thousandths),
        canary_p50_ns: middle(|round| round.canary_ns),
        rounds: row.rounds.len(),
        rejected_rounds: row.rejected_count,
        skipped: row.skipped.clone().filter(|_| row.rounds.is_empty()),
        failed: row.failed.clone(),
    }
}

/// The time that a round stands for: its p50, or with many in flight the share of each request.
fn time_of(load: Load, round: &Round) -> f64 {
    match load {
        Load::Hot | Load::Cold => round.figures.p50_ns as f64,
        Load::Pipelined => 1e9 / round.figures.per_s,
    }
}

/// The round of ours to compare with: the nearest in time in which the cores were where they were.
fn counterpart<'r>(index: usize, round: &Round, ours: &'r [Round]) -> Option<&'r Round> {
    let is_alike = |other: &Round| {
        let (one, two) = (round.canary_ns, other.canary_ns);
        one.max(two) <= one.min(two) * CANARY_SHIFT_MAX
    };
    let alike = ours.iter().enumerate().filter(|(_, other)| is_alike(other));
    alike.min_by_key(|(other_index, _)| other_index.abs_diff(index)).map(|(_, other)| other)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and float casts saturate"
)]
fn whole(middle: f64) -> u64 {
    middle.round() as u64
}

fn thousandths(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

/// One table, a case after the other, and in each the fastest first.
pub(crate) fn write_table(outcomes: &[Outcome], output: &mut impl Write) -> io::Result<()> {
    use Alignment::{Left, Right};
    let mut table = Table::new(&[
        ("load", Left),
        ("size", Right),
        ("transport", Left),
        ("both sides", Left),
        ("p50", Right),
        ("p99", Right),
        ("a second", Right),
        ("× limit", Right),
        ("× annulus", Right),
        ("canary", Right),
        ("rounds", Right),
    ]);
    for outcome in ranked(outcomes) {
        let [p50, p99, per_s] = figure_texts(outcome);
        table.push([
            outcome.load.name().to_owned(),
            outcome.size.to_string(),
            outcome.peer.to_owned(),
            outcome.wait.unwrap_or(NONE).to_owned(),
            p50,
            p99,
            per_s,
            ratio_text(outcome.to_limit),
            ratio_text(outcome.to_annulus),
            outcome.canary_p50_ns.map_or_else(|| NONE.to_owned(), duration_text),
            match outcome.rejected_rounds {
                0 => outcome.rounds.to_string(),
                rejected => format!("{} (−{rejected})", outcome.rounds),
            },
        ]);
    }
    table.write(output, Style::detect())?;
    for outcome in outcomes {
        let Outcome { load, size, peer, skipped, failed, .. } = outcome;
        for (what, reason) in [("skipped", skipped), ("failed", failed)] {
            if let Some(reason) = reason {
                writeln!(output, "{what}: {} {size} B, {peer}: {reason}", load.name())?;
            }
        }
    }
    Ok(())
}

/// One object a line.
pub(crate) fn write_json(outcomes: &[Outcome], output: &mut impl Write) -> io::Result<()> {
    for outcome in outcomes {
        writeln!(output, "{}", serde_json::to_string(outcome)?)?;
    }
    Ok(())
}

/// A table for each load, a row a transport and a column a size: what `docs/benchmarks.md` shows.
pub(crate) fn write_markdown(outcomes: &[Outcome], output: &mut impl Write) -> io::Result<()> {
    for load in Load::ALL {
        let of_load: Vec<&Outcome> =
            ranked(outcomes).into_iter().filter(|outcome| outcome.load == load).collect();
        let mut sizes: Vec<usize> = of_load.iter().map(|outcome| outcome.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        // As they are ranked at the first size.
        let Some(&first_size) = sizes.first() else { continue };
        let heads: Vec<String> = sizes.iter().map(|size| format!("{size} B")).collect();
        writeln!(output, "| {} | both sides | {} |", load.name(), heads.join(" | "))?;
        writeln!(output, "|---|---|{}", "---|".repeat(sizes.len()))?;
        for leader in of_load.iter().filter(|outcome| outcome.size == first_size) {
            let Some(wait) = leader.wait else { continue };
            let cell = |size: &usize| {
                let mut alike = of_load.iter().filter(|outcome| outcome.peer == leader.peer);
                alike
                    .find(|outcome| outcome.size == *size)
                    .map_or_else(|| NONE.to_owned(), |outcome| markdown_cell(outcome))
            };
            let cells: Vec<String> = sizes.iter().map(cell).collect();
            writeln!(output, "| {} | {wait} | {} |", leader.peer, cells.join(" | "))?;
        }
        writeln!(output)?;
    }
    Ok(())
}

fn markdown_cell(outcome: &Outcome) -> String {
    let [p50, p99, per_s] = figure_texts(outcome);
    if outcome.p50_ns.is_none() {
        return "skipped".to_owned();
    }
    let times = match outcome.load {
        Load::Hot | Load::Cold => format!("{p50} / {p99}"),
        Load::Pipelined => per_s,
    };
    let to = |ratio: Option<f64>| ratio.map_or_else(|| NONE.to_owned(), rounded);
    format!("{times} · {} · {}", to(outcome.to_limit), to(outcome.to_annulus))
}

/// By load and size as they were measured, the fastest first, the skipped last.
fn ranked(outcomes: &[Outcome]) -> Vec<&Outcome> {
    let time = |outcome: &Outcome| match outcome.load {
        Load::Hot | Load::Cold => outcome.p50_ns.unwrap_or(u64::MAX),
        Load::Pipelined => u64::MAX - outcome.per_s.unwrap_or(0),
    };
    let mut ranked: Vec<&Outcome> = outcomes.iter().collect();
    ranked.sort_by_key(|outcome| (outcome.load as u8, outcome.size, time(outcome)));
    ranked
}

fn figure_texts(outcome: &Outcome) -> [String; 3] {
    let time = |figure: Option<u64>| figure.map_or_else(|| NONE.to_owned(), duration_text);
    let per_s = outcome.per_s.map_or_else(
        || NONE.to_owned(),
        |per_s| match per_s as f64 {
            rate if rate < 999.5e3 => format!("{:.0} k", rate / 1e3),
            rate => format!("{:.2} M", rate / 1e6),
        },
    );
    [time(outcome.p50_ns), time(outcome.p99_ns), per_s]
}

fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| NONE.to_owned(), |ratio| format!("{}×", rounded(ratio)))
}

/// Two or three digits that mean something.
fn rounded(ratio: f64) -> String {
    match ratio {
        ratio if ratio < 9.995 => format!("{ratio:.2}"),
        ratio if ratio < 99.95 => format!("{ratio:.1}"),
        ratio => format!("{ratio:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Figures;
    use crate::peers;

    fn round(p50_ns: u64, limit_ns: u64, canary_ns: f64) -> Round {
        let figures = |p50_ns| Figures { p50_ns, p99_ns: p50_ns, per_s: 1e9 / p50_ns as f64 };
        Round { figures: figures(p50_ns), limit: Some(figures(limit_ns)), canary_ns }
    }

    fn row(peer: &str, load: Load, rounds: Vec<Round>) -> Row {
        let peer = peers::find(peer).unwrap();
        let case = Case { load, size: 64 };
        let wait = peer.wait(load).ok();
        Row { case, peer, wait, rounds, rejected_count: 0, skipped: None, failed: None }
    }

    #[test]
    fn ratios_are_those_of_rounds_in_which_the_cores_were_alike() {
        for load in [Load::Hot, Load::Pipelined] {
            let rows = [
                row("annulus", load, vec![round(200, 100, 120.0), round(600, 300, 350.0)]),
                // The first was measured after the cores had moved apart.
                row("ringfire", load, vec![round(900, 300, 360.0), round(1200, 300, 340.0)]),
            ];
            let [ours, theirs] = outcomes(&rows).try_into().unwrap();
            assert_eq!((ours.to_limit, ours.to_annulus), (Some(2.0), None));
            assert_eq!((theirs.to_limit, theirs.to_annulus), (Some(3.5), Some(1.75)));
        }
    }

    #[test]
    fn without_a_round_in_the_same_state_there_is_no_ratio() {
        let rows = [
            row("annulus", Load::Hot, vec![round(200, 100, 120.0)]),
            row("ringfire", Load::Hot, vec![round(900, 300, 360.0)]),
        ];
        assert_eq!(outcomes(&rows)[1].to_annulus, None);
    }

    #[test]
    fn the_fastest_comes_first_and_who_was_skipped_says_why() {
        let mut skipped = row("node-net", Load::Hot, Vec::new());
        skipped.skipped = Some("node cannot be started".to_owned());
        let rows = [
            skipped,
            row("unix-socket", Load::Hot, vec![round(4_000, 100, 120.0)]),
            row("annulus", Load::Hot, vec![round(200, 100, 120.0)]),
        ];
        let mut text = Vec::new();
        write_table(&outcomes(&rows), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let order =
            ["annulus  ", "unix-socket  ", "node-net  ", "skipped: hot 64 B, node-net: node"];
        let places = order.map(|word| text.find(word).unwrap());
        assert!(places.is_sorted(), "{text}");
    }
}
