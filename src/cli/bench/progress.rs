//! How far a benchmark has come: a bar on a terminal, a line for each case elsewhere.
//!
//! The invariant to remember: nothing is drawn while something is measured. The bar has no thread of
//! its own; it moves when a round is over.

use std::io::IsTerminal as _;

use annulus::bench::{Case, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::session::Session;

/// What the bar looks like; a template that indicatif reads.
const TEMPLATE: &str = "{bar:24} {pos:>3}/{len} rounds  {msg}";

/// The bar, or what stands in for it.
pub(super) struct Steps<'s> {
    session: &'s Session,
    /// Hidden where there is no terminal to draw on.
    bar: ProgressBar,
    /// What is measured now.
    name: String,
    /// Rounds of the cases before, rejected ones included.
    rounds_before: u64,
    /// Rounds of this case that its end would leave undone.
    wanted: u64,
    /// Rounds that have been added to the bar because others were rejected.
    rejected: u64,
}

impl<'s> Steps<'s> {
    /// A bar of `round_count` rounds. None when the answer is for a machine.
    pub(super) fn new(session: &'s Session, round_count: u64) -> Self {
        let visible = std::io::stderr().is_terminal() && !session.output.json;
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant");
        let bar = ProgressBar::with_draw_target(Some(round_count), target).with_style(style);
        Self { session, bar, name: String::new(), rounds_before: 0, wanted: 0, rejected: 0 }
    }

    /// The next case begins.
    pub(super) fn begin(&mut self, case: &Case) {
        self.name = name_of(case);
        (self.wanted, self.rejected) = (case.round_count.into(), 0);
        if self.bar.is_hidden() {
            if !self.session.output.json || self.session.verbosity() > 0 {
                let line = format!("measuring {}", self.name);
                self.session.output.note(&self.session.output.paint_stderr.dim(&line));
            }
        } else {
            self.bar.set_message(self.name.clone());
            self.bar.tick();
        }
    }

    /// A round is over.
    pub(super) fn round(&mut self, progress: Progress) {
        let rejected = u64::from(progress.rejected);
        self.bar.inc_length(rejected - self.rejected);
        self.rejected = rejected;
        if rejected > 0 {
            self.bar.set_message(format!("{} ({rejected} rejected)", self.name));
        }
        self.bar.set_position(self.rounds_before + u64::from(progress.kept) + rejected);
    }

    /// The case is over, whether all its rounds were run or not.
    pub(super) fn end(&mut self) {
        self.rounds_before += self.wanted + self.rejected;
        self.bar.set_position(self.rounds_before);
    }

    /// Says something beside the bar.
    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| self.session.output.note(text));
    }
}

/// Takes the bar away.
impl Drop for Steps<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A case in a few words.
fn name_of(case: &Case) -> String {
    let plural = if case.connections == 1 { "" } else { "s" };
    let mut name = format!(
        "{}, {} B, {} connection{plural}",
        case.name, case.burst.payload_size, case.connections
    );
    if case.open > case.connections {
        name += &format!(" of {}", case.open);
    }
    if case.window > 1 {
        name += &format!(", {} in flight each", case.window);
    }
    name
}

#[cfg(test)]
mod tests {
    use annulus::bench::{DaemonCase, Load};

    use super::*;

    #[test]
    fn a_case_is_named_with_what_sets_it_apart() {
        let hot = DaemonCase::new(Load::Hot, 64, 1, 10).case;
        assert_eq!(name_of(&hot), "rtt_hot, 64 B, 1 connection");
        let open = DaemonCase::new(Load::Crowded, 64, 16, 10).with_window(8).with_open(1000).case;
        assert_eq!(name_of(&open), "open, 64 B, 16 connections of 1000, 8 in flight each");
    }
}
