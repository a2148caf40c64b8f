//! Descriptors that carry memory and doorbells: made by the client, judged by the daemon.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, OFlags, SealFlags};

use super::RegionLayout;
use crate::sync::sound;
use crate::wire::Fault;

/// `TMPFS_MAGIC` of statfs(2): where memfds live, unlike hugetlbfs ones and regular files.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// A region may not change its size, nor its seals. So no access to it can fault.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Client: a memfd of `size` bytes, sealed as the daemon demands, of which no page exists yet.
///
/// # Errors
///
/// The system's.
pub fn create_region_file(size: u64) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(
        "annulus-region",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    rustix::fs::ftruncate(&file, size)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Daemon: judges a region's descriptor before anything is mapped.
///
/// Seals come first: only a memfd can have them, so a file on FUSE or NFS, which could stall a
/// shard, is never asked for anything else. The size is checked too, because a sealed but empty
/// memfd maps and then kills who touches it.
///
/// # Errors
///
/// [`Fault::RegionSeals`] or [`Fault::RegionSize`].
pub fn check_region(file: BorrowedFd<'_>, layout: RegionLayout) -> Result<(), Fault> {
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    let refused = |file_system| Fault::RegionSeals { seals: seals.bits(), file_system };
    if !seals.contains(SEALS) && sound("a region is sealed") {
        return Err(refused(0));
    }
    let file_system = rustix::fs::fstatfs(file).map_err(|_| refused(0))?;
    #[expect(clippy::cast_sign_loss, reason = "a magic number, compared as bits")]
    let kind = file_system.f_type as u64;
    if kind != TMPFS_MAGIC {
        return Err(refused(kind));
    }
    let size =
        rustix::fs::fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
    if size != layout.size() && sound("a region has its size") {
        return Err(Fault::RegionSize { size, needed: layout.size() });
    }
    Ok(())
}

/// Daemon: makes sure that a doorbell is an eventfd and nothing else; `index` names it in the fault.
///
/// Anything else with a descriptor could be made to block or to lie about being readable. One that
/// was opened with `O_PATH` (open(2)) only names an eventfd: it can neither be polled nor written.
///
/// # Errors
///
/// [`Fault::NotAnEventfd`].
pub fn check_doorbell(file: BorrowedFd<'_>, index: u32) -> Result<(), Fault> {
    // There is no other way to ask; control path only, so text is fine.
    let is_mere_path = |flags: OFlags| flags.contains(OFlags::PATH);
    let usable = rustix::fs::fcntl_getfl(file).is_ok_and(|flags| !is_mere_path(flags))
        || !sound("a doorbell is more than a path");
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new());
    match link {
        Ok(target) if usable && target.as_bytes() == b"anon_inode:[eventfd]" => Ok(()),
        _ => Err(Fault::NotAnEventfd { index }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Doorbell;
    use std::os::fd::AsFd;

    const LAYOUT: RegionLayout = RegionLayout::new(1 << 14, 1 << 14);

    fn judge(file: impl AsFd) -> Result<(), Fault> {
        check_region(file.as_fd(), LAYOUT)
    }

    fn memfd(flags: MemfdFlags, size: u64, seals: SealFlags) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", flags | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, size).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn our_own_region_is_accepted() {
        assert_eq!(judge(create_region_file(LAYOUT.size()).unwrap()), Ok(()));
    }

    #[test]
    fn a_missing_seal_is_a_fault() {
        for seals in [
            SealFlags::SHRINK,
            SealFlags::GROW | SealFlags::SEAL,
            SealFlags::SHRINK | SealFlags::GROW,
        ] {
            let file = memfd(MemfdFlags::ALLOW_SEALING, LAYOUT.size(), seals);
            assert!(matches!(judge(file), Err(Fault::RegionSeals { .. })));
        }
    }

    #[test]
    fn an_empty_or_odd_sized_memfd_is_a_fault() {
        for size in [0, LAYOUT.size() - 1, LAYOUT.size() + 4096] {
            let file = memfd(MemfdFlags::ALLOW_SEALING, size, SEALS);
            assert_eq!(judge(file), Err(Fault::RegionSize { size, needed: LAYOUT.size() }));
        }
    }

    #[test]
    fn a_regular_file_is_a_fault() {
        assert!(matches!(judge(tempfile::tempfile().unwrap()), Err(Fault::RegionSeals { .. })));
    }

    #[test]
    fn only_an_eventfd_is_a_doorbell() {
        assert_eq!(check_doorbell(Doorbell::new().unwrap().as_fd(), 1), Ok(()));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(check_doorbell(file.as_fd(), 1), Err(Fault::NotAnEventfd { index: 1 }));
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(check_doorbell(pipe.as_fd(), 2), Err(Fault::NotAnEventfd { index: 2 }));
    }

    #[test]
    fn a_descriptor_that_only_names_an_eventfd_is_no_doorbell() {
        use rustix::fs::Mode;
        let doorbell = Doorbell::new().unwrap();
        let path = format!("/proc/self/fd/{}", doorbell.as_fd().as_raw_fd());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let name = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        assert_eq!(check_doorbell(name.as_fd(), 1), Err(Fault::NotAnEventfd { index: 1 }));
    }
}
