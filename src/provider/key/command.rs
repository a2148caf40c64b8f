//! The first line that a program writes, within bounds of time and size.

use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::zeroize::Zeroizing;

/// How often a program that has closed its output is looked at until it ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Why there is no line.
#[derive(Debug)]
pub(super) enum CommandError {
    /// There is no such program.
    NotFound,
    /// It cannot be started or read from.
    Io(io::Error),
    /// It ended otherwise than with success; in words.
    Failed(String),
    /// Its first line is longer than allowed.
    TooLarge,
    /// It did not end in time.
    TooSlow,
}

/// Runs the program `words[0]` with the others as its arguments, with nothing on its standard input
/// and its standard error left unread, and returns the first line of its output without the end of
/// the line.
///
/// When this returns the program has ended: in good time by itself, else killed together with what
/// it has started. `words` is not empty.
pub(super) fn first_line(
    words: &[String],
    size_max: usize,
    time_max: Duration,
) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let deadline = Instant::now() + time_max;
    let child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It may say what the key is about, or even the key.
        .stderr(Stdio::null())
        // A group of its own, so that it can be killed with all that it has started.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::NotFound,
            _ => CommandError::Io(error),
        })?;
    let mut running = Running { child, is_over: false };

    let line = read_line(&mut running.child, size_max, deadline)?;
    let status = running.wait(deadline)?;
    if status.success() { Ok(line) } else { Err(CommandError::Failed(outcome(status))) }
}

/// A program that does not outlive this.
struct Running {
    child: Child,
    /// Whether it has ended and was waited for.
    is_over: bool,
}

impl Running {
    /// Waits for the end of a program that has closed its output.
    fn wait(&mut self, deadline: Instant) -> Result<ExitStatus, CommandError> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(CommandError::Io)? {
                self.is_over = true;
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(CommandError::TooSlow);
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Until somebody waits for it, the number of its group is nobody else's, even if it has
        // ended and only what it has started goes on.
        if !self.is_over {
            let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            // All may have ended meanwhile, which is as good.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = self.child.wait();
        }
    }
}

/// Reads to the end of the output, which lets the program end by itself, and keeps the first line.
fn read_line(
    child: &mut Child,
    size_max: usize,
    deadline: Instant,
) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(Zeroizing::default()) };
    // Room for everything, so that no copy is left behind by growing.
    let mut line = Zeroizing::new(Vec::with_capacity(size_max + 1));
    let mut is_whole = false;
    let mut piece = Zeroizing::new([0_u8; 1024]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut waiting = [PollFd::new(&stdout, PollFlags::IN)];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(0) => return Err(CommandError::TooSlow),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(CommandError::Io(errno.into())),
        }
        // A program that writes for ever ends with the deadline, one piece at a time.
        let size = match stdout.read(&mut *piece) {
            Ok(0) => return Ok(line),
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CommandError::Io(error)),
        };
        if left.is_zero() {
            return Err(CommandError::TooSlow);
        }
        if is_whole {
            continue;
        }
        let end = piece[..size].iter().position(|byte| *byte == b'\n');
        let more = &piece[..end.unwrap_or(size)];
        if line.len() + more.len() > size_max {
            return Err(CommandError::TooLarge);
        }
        line.extend_from_slice(more);
        is_whole = end.is_some();
    }
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time_max: Duration) -> Result<String, CommandError> {
        let words = ["sh", "-c", script].map(str::to_owned);
        let line = first_line(&words, 64, time_max)?;
        Ok(String::from_utf8(line.to_vec()).unwrap())
    }

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn the_first_line_counts() {
        assert_eq!(shell("echo one; echo two", LONG).unwrap(), "one");
        assert_eq!(shell("printf one", LONG).unwrap(), "one");
        assert_eq!(shell("printf o; sleep 0.05; printf 'ne\\ntwo'", LONG).unwrap(), "one");
        assert_eq!(shell("true", LONG).unwrap(), "");
        assert_eq!(shell("cat", LONG).unwrap(), "");
    }

    #[test]
    fn failure_is_told_without_the_output() {
        let error = shell("echo secret; echo secret >&2; exit 3", LONG).unwrap_err();
        assert!(matches!(&error, CommandError::Failed(outcome) if outcome == "code 3"));
        let error = shell("kill -9 $$", LONG).unwrap_err();
        assert!(matches!(&error, CommandError::Failed(outcome) if outcome == "signal 9"));
        let nobody = first_line(&["/nowhere/program".to_owned()], 64, LONG);
        assert!(matches!(nobody, Err(CommandError::NotFound)));
    }

    #[test]
    fn output_is_bounded_in_size_and_time() {
        let long = "head -c 65 /dev/zero; sleep 60";
        assert!(matches!(shell(long, LONG), Err(CommandError::TooLarge)));
        for script in ["sleep 60", "exec >&-; sleep 60", "echo one; yes", "sleep 60 &"] {
            let started = Instant::now();
            assert!(matches!(shell(script, SHORT), Err(CommandError::TooSlow)), "{script}");
            assert!(started.elapsed() < LONG, "{script}");
        }
    }

    #[test]
    fn what_a_killed_program_has_started_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for rest in ["sleep 60", "exit"] {
            let script = format!("sleep 60 & echo $! > {}; {rest}", path.display());
            // The shell has to come as far as its end within it.
            let ended = shell(&script, Duration::from_secs(3));
            assert!(matches!(ended, Err(CommandError::TooSlow)), "{rest}");
            let number = std::fs::read_to_string(&path).unwrap();
            let status = format!("/proc/{}/stat", number.trim());
            // A zombie that nobody has waited for yet is dead too; dying takes a moment.
            let is_alive = || std::fs::read_to_string(&status).is_ok_and(|s| !s.contains(") Z "));
            let patience = Instant::now() + LONG;
            while is_alive() && Instant::now() < patience {
                thread::sleep(LOOK_INTERVAL);
            }
            assert!(!is_alive(), "{rest}");
        }
    }
}
