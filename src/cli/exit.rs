//! The exit codes: one table drives the help, the man pages and the mapping from errors.
//!
//! Scripts depend on these numbers. A number never changes its meaning; a new meaning gets a new
//! number.

use std::fmt::Write as _;
use std::process::ExitCode;

use annulus::IpcError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Ok,
    /// It was tried and failed.
    Failed,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage,
    /// Nobody listens on the socket.
    NoDaemon,
    /// A daemon is there and does not want to, now or ever.
    Refused,
    /// The answer was not whole in time.
    Timeout,
    /// The daemon went away, or what it sent is damaged.
    Lost,
    /// A signal of the user ended it: 128 and the number of SIGINT, as shells count.
    Interrupted,
}

/// Code, name in JSON, meaning in the help.
const TABLE: [(Exit, u8, &str, &str); 8] = [
    (Exit::Ok, 0, "ok", "done"),
    (Exit::Failed, 1, "failed", "the operation was tried and failed"),
    (Exit::Usage, 2, "usage", "the command line or the configuration is wrong"),
    (Exit::NoDaemon, 3, "no_daemon", "no daemon listens on the socket"),
    (Exit::Refused, 4, "refused", "the daemon refused, is busy, or already serves the socket"),
    (Exit::Timeout, 5, "timeout", "the answer was not whole in time"),
    (Exit::Lost, 6, "connection_lost", "the connection to the daemon was lost"),
    (
        Exit::Interrupted,
        130,
        "interrupted",
        "interrupted by Ctrl-C; a running request was cancelled",
    ),
];

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        self.row().1
    }

    /// The word that stands for it in JSON.
    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }

    /// How a command ends that met `error`.
    pub(crate) fn of_ipc_error(error: &IpcError) -> Self {
        match error {
            IpcError::NotRunning { .. } => Self::NoDaemon,
            IpcError::AlreadyRunning { .. }
            | IpcError::Refused { .. }
            | IpcError::Busy { .. }
            | IpcError::ShuttingDown => Self::Refused,
            IpcError::Timeout => Self::Timeout,
            IpcError::ConnectionLost { .. } | IpcError::Fault(_) => Self::Lost,
            _ => Self::Failed,
        }
    }

    fn row(self) -> &'static (Self, u8, &'static str, &'static str) {
        TABLE.iter().find(|row| row.0 == self).expect("every exit has a row; a test says so")
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as it stands at the end of every help text.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (_, code, _, meaning) in TABLE {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {code:>3}  {meaning}");
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use annulus::wire::Status;

    use super::*;

    #[test]
    fn every_exit_has_one_row_and_a_code_of_its_own() {
        let exits = [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::NoDaemon,
            Exit::Refused,
            Exit::Timeout,
            Exit::Lost,
            Exit::Interrupted,
        ];
        for exit in exits {
            assert_eq!(TABLE.iter().filter(|row| row.0 == exit).count(), 1);
            assert_eq!(TABLE.iter().filter(|row| row.1 == exit.code()).count(), 1);
        }
    }

    #[test]
    fn errors_end_as_the_table_says() {
        let code = |error: &IpcError| Exit::of_ipc_error(error).code();
        assert_eq!(code(&IpcError::NotRunning { socket_path: "/s".into() }), 3);
        assert_eq!(code(&IpcError::Busy { retry_after: Duration::ZERO }), 4);
        assert_eq!(code(&IpcError::Refused { status: Status::NotAuthorized, fault: None }), 4);
        assert_eq!(code(&IpcError::Timeout), 5);
        assert_eq!(code(&IpcError::from_goodbye(None)), 6);
        assert_eq!(code(&IpcError::HandlerPanic), 1);
    }

    #[test]
    fn the_help_lists_every_code() {
        assert_eq!(help().lines().count(), 1 + TABLE.len());
        assert!(help().ends_with("cancelled"));
    }
}
