//! The shared mapping of one connection: a memfd that the client makes and the daemon checks.
//!
//! The invariant to remember: memory that a peer can write is only ever seen as atomics, and its
//! size is sealed before it is mapped, so that no access can fault.

mod core_word;
mod descriptor;
#[cfg(not(annulus_loom))]
mod doorbell;
mod layout;
#[cfg(not(annulus_loom))]
mod mapping;

pub use core_word::{CoreWord, Whereabouts};
pub use descriptor::{check_doorbell, check_region, create_region_file};
#[cfg(not(annulus_loom))]
pub use doorbell::Doorbell;
pub use layout::{REGION_MAGIC, RegionLayout, RegionView};
#[cfg(not(annulus_loom))]
pub use mapping::Mapping;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

#[cfg(annulus_loom)]
pub use crate::stand_in::{Doorbell, Mapping};
use crate::sync::AtomicU64;

/// A mapped region: the memory and the layout that gives it meaning.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    layout: RegionLayout,
}

/// Memory that holds a region, so that connections run over mapped memory and over test memory.
pub trait RegionMemory {
    /// The region's rings and flags.
    fn view(&self) -> RegionView<'_>;
}

impl RegionMemory for Region {
    #[inline(always)]
    fn view(&self) -> RegionView<'_> {
        Self::view(self)
    }
}

impl Region {
    /// Client: makes a fresh region and the sealed memfd to pass to the daemon.
    ///
    /// # Errors
    ///
    /// The system's, when it has no memory or no descriptors left.
    pub fn create(layout: RegionLayout) -> io::Result<(Self, OwnedFd)> {
        let file = create_region_file(layout.size())?;
        let region = Self { mapping: Mapping::shared(&file, layout.size())?, layout };
        region.view().initialize();
        Ok((region, file))
    }

    /// Daemon: maps the region behind `file`, which [`check_region`] has accepted for `layout`.
    ///
    /// # Errors
    ///
    /// The system's. A memfd that the client sealed against future writes is refused here.
    pub fn map(file: BorrowedFd<'_>, layout: RegionLayout) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::shared(file, layout.size())?, layout })
    }

    /// The region's rings and flags.
    #[inline(always)]
    #[must_use]
    pub fn view(&self) -> RegionView<'_> {
        RegionView::new(self.mapping.words(), self.layout)
    }

    /// All of the region, as words that the peer may write at any time.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// The region's layout.
    #[must_use]
    pub const fn layout(&self) -> RegionLayout {
        self.layout
    }

    /// Gives whole pages between two file offsets back to the kernel; they read as zeros again.
    ///
    /// Only the client does this: the memory is its own, and a system call on memory that a peer
    /// holds could make the caller wait.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn give_back(&self, start: u64, end: u64) -> io::Result<()> {
        self.mapping.give_back(start, end)
    }
}
