//! Gives back memory that a daemon needed only while it started. One of the few files with `unsafe`.
//!
//! Start-up runs through most of the program once (the command line, the configuration, the urings)
//! and frees most of what it allocates. Both stay resident for the daemon's life unless somebody says
//! otherwise: the kernel keeps the program's pages mapped, and malloc its free blocks.
//!
//! For a program's `main`: it concerns the whole process. The invariant to remember: nothing here
//! changes what any memory reads; some pages only come later.
#![allow(unsafe_code)]

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};

/// How long [`give_back`] waits for threads that are still starting.
pub const SETTLE_TIME_MAX: Duration = Duration::from_millis(50);

/// What glibc is told when a program starts; ld.so(8) reads it once (`GLIBC_TUNABLES`).
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Starts this program again in place, in the same process and with the same arguments, with a malloc
/// that keeps no freed blocks for each thread; call it first of all. Returns only where that has been
/// done, or cannot be done: then memory is as it is otherwise, and nothing else differs.
///
/// Blocks that a thread keeps pin the pages that they lie on, so the heap of a daemon whose requests
/// differ in size grows for thousands of requests although it holds no more. There is no call for it,
/// only the environment of a starting program. Where that has something for malloc, it is left alone.
pub fn start_without_thread_caches() {
    if cfg!(not(target_env = "gnu")) || env::var_os(TUNABLES).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let Some(name) = arguments.next() else { return };
    let _ = Command::new(program)
        .arg0(name)
        .args(arguments)
        .env(TUNABLES, "glibc.malloc.tcache_count=0")
        .exec();
}

/// Lets all threads share one heap (mallopt(3)); call it before the first thread starts.
///
/// Data shards allocate nothing and the control thread next to nothing, so one worker has the heap to
/// itself. With a heap for each thread, each keeps pages that no other can use. Does nothing where
/// malloc is not glibc's.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` needs nothing; it takes malloc's own lock. A value that it refuses changes
    // nothing, and then there are only more heaps.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The clean pages of the program and its libraries.
#[derive(Debug)]
pub struct ProgramPages(Vec<Range<usize>>);

impl ProgramPages {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// `/proc/self/smaps` cannot be read.
    pub fn find() -> io::Result<Self> {
        clean_ranges(BufReader::new(File::open("/proc/self/smaps")?)).map(Self)
    }

    /// Unmaps them. What is needed of the program comes back from the page cache at its next use, 64 KiB
    /// or more around each, for a fault of about a microsecond.
    ///
    /// # Errors
    ///
    /// `/proc/self/pagemap` cannot be read, or the kernel refuses the advice. What has been given back until
    /// then stays so, and nothing is lost.
    pub fn give_back(&self) -> io::Result<()> {
        let pagemap = File::open("/proc/self/pagemap")?;
        for range in &self.0 {
            if has_own_page(&pagemap, range)? {
                continue;
            }
            let start = ptr::without_provenance_mut(range.start);
            // SAFETY: dropping pages of a mapping must not change what it reads. `clean_ranges` takes
            // only private mappings of files that nobody may write through, and of this one no page is
            // our own by now (`has_own_page`): every page comes back from the file as it was. The range is
            // still that mapping: the loader made it before `main`, and this program neither loads nor
            // unloads libraries. A debugger that comes in between loses a breakpoint, nothing else.
            unsafe { madvise(start, range.len(), Advice::LinuxDontNeed)? };
        }
        Ok(())
    }
}

/// True when a page of `range` is not the file's: a debugger or a probe has written to it
/// (`pagemap` of proc_pid_pagemap(5), 8 bytes for each page).
fn has_own_page(pagemap: &File, range: &Range<usize>) -> io::Result<bool> {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    const OF_FILE: u64 = 1 << 61;
    let page_size = rustix::param::page_size();
    let mut entries = vec![0; range.len() / page_size * size_of::<u64>()];
    pagemap.read_exact_at(&mut entries, (range.start / page_size * size_of::<u64>()) as u64)?;
    let (entries, _) = entries.as_chunks();
    let is_own = |entry| entry & PRESENT_OR_SWAPPED != 0 && entry & OF_FILE == 0;
    Ok(entries.iter().any(|bytes| is_own(u64::from_ne_bytes(*bytes))))
}

/// Gives back what the start needed: `program`, and free heap pages (malloc_trim(3)).
///
/// Call it when everything has been started. It waits until the other threads sleep,
/// [`SETTLE_TIME_MAX`] at most: one that is still starting would bring back what only its start needs.
///
/// # Errors
///
/// `/proc/self/task` cannot be read, or the kernel refuses the advice. What has been given back until then
/// stays so, and nothing is lost.
pub fn give_back(program: &ProgramPages) -> io::Result<()> {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    while !others_sleep()? && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    program.give_back()?;
    give_back_heap();
    Ok(())
}

/// Returns free heap pages (malloc_trim(3)).
///
/// Call it also between two phases of a start: what the second one reserves and does not touch
/// otherwise lies on pages that the first one has touched. Does nothing where malloc is not glibc's.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` needs nothing; it takes malloc's own locks and returns free pages only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// True when no thread of this process runs or is about to, but the one that asks (proc_pid_stat(5)).
fn others_sleep() -> io::Result<bool> {
    let mut awake_count = 0;
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that has ended meanwhile sleeps, too.
        let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may hold anything but ends with the last parenthesis.
        let state = stat.rsplit_once(')').map_or("S", |(_, rest)| rest.trim_start());
        awake_count += usize::from(!state.starts_with('S'));
    }
    Ok(awake_count <= 1)
}

/// Address ranges of mappings that read the same after their pages are dropped, from the text of
/// proc_pid_smaps(5): private, of a file, not writable, and without a page of our own.
fn clean_ranges(smaps: impl BufRead) -> io::Result<Vec<Range<usize>>> {
    let mut ranges = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Anonymous:") => {
                let is_clean = words.next() == Some("0");
                ranges.extend(candidate.take().filter(|_| is_clean));
            }
            Some(name) if name.ends_with(':') => {}
            Some(addresses) => candidate = file_range(addresses, words),
            None => {}
        }
    }
    Ok(ranges)
}

/// The range of a mapping's first line, if it is private, of a file and not writable.
fn file_range<'a>(
    addresses: &str,
    mut words: impl Iterator<Item = &'a str>,
) -> Option<Range<usize>> {
    let (start, end) = addresses.split_once('-')?;
    let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
    let range = hexadecimal(start)?..hexadecimal(end)?;
    let is_constant = matches!(words.next()?, "r--p" | "r-xp");
    // Offset and device come in between; only a file has an inode.
    let has_file = words.nth(2)? != "0";
    (is_constant && has_file).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One mapping as the kernel prints it, with `anonymous` KiB of our own.
    fn mapping(first_line: &str, anonymous: u32) -> String {
        format!("{first_line}\nSize: 8 kB\nAnonymous: {anonymous} kB\nVmFlags: rd mr mw\n")
    }

    fn ranges(text: &str) -> Vec<Range<usize>> {
        clean_ranges(text.as_bytes()).unwrap()
    }

    #[test]
    fn text_and_constants_without_pages_of_our_own_are_dropped() {
        let text = mapping("1000-3000 r-xp 00001000 fe:00 77   /usr/bin/annulus", 0)
            + &mapping("4000-5000 r--p 00000000 fe:00 78   /lib/libc.so.6", 0);
        assert_eq!(ranges(&text), [0x1000..0x3000, 0x4000..0x5000]);
    }

    #[test]
    fn a_page_that_was_written_to_is_seen() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * rustix::param::page_size() as u64).unwrap();
        // SAFETY: nobody else has the file, so nobody changes it.
        let mut copy = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
        let start = copy.as_ptr().addr();
        let range = start..start + copy.len();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        assert_eq!(copy[0], 0);
        assert!(!has_own_page(&pagemap, &range).unwrap());
        *copy.last_mut().unwrap() = 1;
        assert!(has_own_page(&pagemap, &range).unwrap());
    }

    #[test]
    fn what_could_read_differently_afterwards_is_kept() {
        for (first_line, anonymous) in [
            ("1000-2000 r--p 00001000 fe:00 77 /usr/bin/annulus", 4),
            ("1000-2000 rw-p 00001000 fe:00 77 /usr/bin/annulus", 0),
            ("1000-2000 r--s 00001000 fe:00 77 /usr/bin/annulus", 0),
            ("1000-2000 r-xp 00000000 00:00 0 [vdso]", 0),
            ("1000-2000 r--p 00000000 00:00 0", 0),
            ("no mapping at all", 0),
        ] {
            assert!(ranges(&mapping(first_line, anonymous)).is_empty(), "{first_line}");
        }
    }
}
