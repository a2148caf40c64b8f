//! What a process costs, as the kernel accounts for it (proc_pid_smaps(5), proc_pid_stat(5)).
//!
//! Three views of one number. *Private*: what would be free if the process ended. *Proportional*
//! (PSS): private, and of each shared page the part that falls to this process; summed over all
//! processes it counts every page once. *Shared*: mapped by others too, in full.
//!
//! The invariant to remember: clients make their regions and pay for them, so what the daemon *owns*
//! is its anonymous and its file-backed part, [`Footprint::owned_bytes`]; `pss_shmem_bytes` is its
//! share of the clients' memory.

use std::fs;
use std::io;

use serde::Serialize;

/// Bytes of a `kB` in the kernel's text.
const KIB: u64 = 1024;

/// Memory of one process. All fields are bytes; every one is a multiple of 1 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// In memory at all, shared pages in full.
    pub rss_bytes: u64,
    /// Proportional: shared pages in part.
    pub pss_bytes: u64,
    /// The proportional part that no file backs: heap and stacks.
    pub pss_anon_bytes: u64,
    /// The proportional part that files back: the program and its libraries.
    pub pss_file_bytes: u64,
    /// The proportional part in shared memory: the clients' regions.
    pub pss_shmem_bytes: u64,
    /// Mapped by nobody else.
    pub private_bytes: u64,
    /// Mapped by others too, in full.
    pub shared_bytes: u64,
}

impl Footprint {
    /// Reads the sums over all mappings of the process `id`. The kernel walks its page tables for
    /// this: some tens of microseconds for each MiB, and its lock is held meanwhile.
    ///
    /// # Errors
    ///
    /// The process is gone or another user's, or the kernel has no `smaps_rollup` (before 4.14).
    pub fn of_process(id: u32) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?)
    }

    /// What the process itself brought, as opposed to its part of its clients' regions.
    #[must_use]
    pub const fn owned_bytes(&self) -> u64 {
        self.pss_anon_bytes + self.pss_file_bytes
    }

    fn parse(text: &str) -> io::Result<Self> {
        let bytes = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
            number.map(|kib: u64| kib * KIB).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("smaps_rollup has no {name}"))
            })
        };
        Ok(Self {
            rss_bytes: bytes("Rss")?,
            pss_bytes: bytes("Pss")?,
            pss_anon_bytes: bytes("Pss_Anon")?,
            pss_file_bytes: bytes("Pss_File")?,
            pss_shmem_bytes: bytes("Pss_Shmem")?,
            private_bytes: bytes("Private_Clean")? + bytes("Private_Dirty")?,
            shared_bytes: bytes("Shared_Clean")? + bytes("Shared_Dirty")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_pages_of_this_process_add_up() {
        let footprint = Footprint::of_process(std::process::id()).unwrap();
        assert_eq!(footprint.private_bytes + footprint.shared_bytes, footprint.rss_bytes);
        assert!(footprint.pss_bytes <= footprint.rss_bytes && footprint.pss_anon_bytes > 0);
    }

    #[test]
    fn a_kernel_without_a_field_is_reported_by_the_fields_name() {
        let error = Footprint::parse("x [rollup]\nRss:  8 kB\nPss:  7 kB\n").unwrap_err();
        assert!(error.to_string().contains("Pss_Anon"), "{error}");
    }
}
