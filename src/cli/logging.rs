//! Logs: human text on a terminal, priorities under systemd, always standard error.
//!
//! Whatever is logged anywhere in the crate, prompts, answers and keys are not.

use std::env;
use std::fmt;
use std::io;

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{Extensions, ExtensionsMut, LookupSpan, SpanData};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;

/// What `-v`, `-vv` and so on ask for, when `RUST_LOG` asks for nothing. Libraries below us stay
/// quiet until everything is asked for; release builds have no trace points.
const FILTERS: [&str; 3] = ["warn,annulus=info", "warn,annulus=debug", "trace"];

/// Sets the process's log up. `RUST_LOG` is a list of `target=level` and of one level for the rest; spans
/// and fields, of which we have none, would bring a regular expression engine. Call it once, before the first thread starts.
///
/// # Errors
///
/// `RUST_LOG` is not a filter.
pub(crate) fn start(session: &Session) -> Result<(), Failure> {
    let asked = env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let verbosity = usize::from(session.verbosity()).min(FILTERS.len() - 1);
    let directives = asked.as_deref().unwrap_or(FILTERS[verbosity]);
    let filter: Targets = directives.parse().map_err(|error| {
        Failure::new(Exit::Usage, format!("RUST_LOG={directives}: {error}"))
            .advise("write it like annulus=debug")
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let filtered = NoSpans.with(filter);
    if stderr_is_the_journal() {
        filtered.with(lines.event_format(Journal::new())).init();
    } else {
        filtered.with(lines.with_ansi(session.output.paint_stderr.is_on())).init();
    }
    Ok(())
}

/// Whether systemd reads our standard error: `JOURNAL_STREAM` is its device and inode
/// (`systemd.exec(5)`). A variable inherited through a pipe or a terminal does not match.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// What lies below the layers of the log. We have no spans, and those of libraries are not shown; the usual
/// [`tracing_subscriber::Registry`] keeps 32 KiB for the threads that might open some.
struct NoSpans;

impl Subscriber for NoSpans {
    fn register_callsite(&self, callsite: &'static Metadata<'static>) -> Interest {
        if callsite.is_event() { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, callsite: &Metadata<'_>) -> bool {
        callsite.is_event()
    }

    /// Never called: no span is enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl LookupSpan<'_> for NoSpans {
    type Data = NoData;

    fn span_data(&self, _: &Id) -> Option<NoData> {
        None
    }
}

/// There is none.
enum NoData {}

impl SpanData<'_> for NoData {
    fn id(&self) -> Id {
        match *self {}
    }

    fn metadata(&self) -> &'static Metadata<'static> {
        match *self {}
    }

    fn parent(&self) -> Option<&Id> {
        match *self {}
    }

    fn extensions(&self) -> Extensions<'_> {
        match *self {}
    }

    fn extensions_mut(&self) -> ExtensionsMut<'_> {
        match *self {}
    }
}

/// Lines for the journal: a syslog priority in front, no time, no colour (`sd-daemon(3)`).
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The syslog priority of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written, to be looked at afterwards.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_start_with_their_priority() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let subscriber = NoSpans
            .with("trace".parse::<Targets>().unwrap())
            .with(lines.event_format(Journal::new()));
        tracing::subscriber::with_default(subscriber, || {
            // As a library may have it.
            let span = tracing::error_span!("around", number = 1).entered();
            assert!(span.is_disabled());
            tracing::warn!(count = 2, "careful");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("<4>") && text.ends_with("careful count=2\n"), "{text}");
    }

    #[test]
    fn every_verbosity_is_a_filter() {
        for filter in FILTERS {
            assert!(filter.parse::<Targets>().is_ok(), "{filter}");
        }
        assert!("annulus=loud".parse::<Targets>().is_err());
    }
}
