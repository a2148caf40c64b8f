//! Regions that are no memory, or memory that a daemon must not map.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use annulus::region::RegionLayout;
use annulus::wire::Features;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use crate::common::send_with_descriptors;
use crate::hostile::{
    Attack, CAPACITY, Gifts, Peer, Seen, Stage, again, answer, bell, connect, hello, offer,
    region_refused, visits,
};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "the connection's own socket as the region",
        run: |stage| {
            let (_region, gifts) = Gifts::honest(CAPACITY, CAPACITY);
            let socket = connect(stage);
            let [_, first, second] = gifts.all();
            send_with_descriptors(&socket, hello().as_bytes(), &[socket.as_fd(), first, second]);
            vec![answer(&socket)]
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a region that is no memory: pipe, device, directory, socket, eventfd, epoll",
        run: |stage| {
            let (_region, mut gifts) = Gifts::honest(CAPACITY, CAPACITY);
            strange_files(Path::new("/dev/zero"))
                .into_iter()
                .map(|file| {
                    gifts.region = file;
                    offer(stage, &hello(), &gifts)
                })
                .collect()
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "each choice of seals that lacks one",
        run: |stage| {
            let all = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL];
            let choice = |bits: usize| {
                (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| all[bit]).collect()
            };
            (0..7).map(|bits| with_memfd(stage, size(), choice(bits))).collect()
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "regular files, on disk and on tmpfs",
        run: regular_files,
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a memfd of huge pages",
        run: huge_pages,
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "a region that is empty, too small or too large",
        run: |stage| {
            let sizes = [0, 1, 4096, size() - 4096, size() - 1, size() + 1, size() + 4096, 1 << 40];
            sizes.map(|size| with_memfd(stage, size, SEALS)).into()
        },
        must: &[region_refused("region_size")],
        timed: again(visits),
    },
    Attack {
        name: "a region that shrank before it was sealed",
        run: |stage| {
            let file = memfd(size(), SealFlags::empty());
            rustix::fs::ftruncate(&file, size() / 2).unwrap();
            rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
            vec![with_region(stage, file)]
        },
        must: &[region_refused("region_size")],
        timed: again(visits),
    },
    Attack {
        name: "a region sealed against writing, now or later",
        run: |stage| {
            [SealFlags::WRITE, SealFlags::FUTURE_WRITE]
                .map(|seal| with_memfd(stage, size(), SEALS | seal))
                .into()
        },
        must: &[region_refused("region_unmappable")],
        timed: again(visits),
    },
    Attack {
        name: "a region opened for reading or writing only",
        run: |stage| {
            [OFlags::RDONLY, OFlags::WRONLY]
                .map(|flags| with_region(stage, reopened(&memfd(size(), SEALS), flags).unwrap()))
                .into()
        },
        must: &[region_refused("region_unmappable")],
        timed: again(visits),
    },
    Attack {
        name: "a region opened as a mere path",
        run: |stage| {
            vec![with_region(stage, reopened(&memfd(size(), SEALS), OFlags::PATH).unwrap())]
        },
        must: &[region_refused("region_seals")],
        timed: again(visits),
    },
    Attack {
        name: "an executable region",
        run: executable_region,
        must: &[Seen::Served],
        timed: again(visits),
    },
];

pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Bytes of a region with two rings of [`CAPACITY`].
pub(crate) fn size() -> u64 {
    RegionLayout::new(CAPACITY, CAPACITY).size()
}

pub(crate) fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("annulus-region", flags).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    if !seals.is_empty() {
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    }
    file
}

fn with_region(stage: &Stage, region: OwnedFd) -> Seen {
    let gifts = Gifts { region, request_doorbell: bell(), response_doorbell: bell() };
    offer(stage, &hello(), &gifts)
}

fn with_memfd(stage: &Stage, size: u64, seals: SealFlags) -> Seen {
    with_region(stage, memfd(size, seals))
}

/// The same file, opened anew through procfs.
pub(crate) fn reopened(file: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn strange_files(device: &Path) -> Vec<OwnedFd> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let create = rustix::event::epoll::CreateFlags::CLOEXEC;
    vec![
        read,
        write,
        fs::File::options().read(true).write(true).open(device).unwrap().into(),
        fs::File::open("/").unwrap().into(),
        ours.into(),
        bell(),
        rustix::event::epoll::create(create).unwrap(),
    ]
}

fn regular_files(stage: &Stage) -> Vec<Seen> {
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(size()).unwrap();
    let mut seen = vec![with_region(stage, on_disk.into())];
    match tempfile::tempfile_in("/dev/shm") {
        Err(_) => seen.push(Seen::Skipped("no tmpfs to write to")),
        Ok(file) => {
            file.set_len(size()).unwrap();
            seen.push(with_region(stage, file.into()));
        }
    }
    seen
}

fn huge_pages(stage: &Stage) -> Vec<Seen> {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB;
    let Ok(file) = rustix::fs::memfd_create("annulus-region", flags) else {
        println!("skipped: this kernel has no huge pages for memfds");
        return vec![Seen::Skipped("no huge pages here")];
    };
    // Reserves nothing before it is mapped, so a machine without free huge pages will do.
    if rustix::fs::ftruncate(&file, 4 << 20).is_err()
        || rustix::fs::fcntl_add_seals(&file, SEALS).is_err()
    {
        return vec![Seen::Skipped("no sealed huge pages here")];
    }
    vec![with_region(stage, file)]
}

fn executable_region(stage: &Stage) -> Vec<Seen> {
    let flags = [MemfdFlags::EXEC, MemfdFlags::NOEXEC_SEAL];
    let offend = |flag: MemfdFlags| {
        let flags = flag | MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let Ok(region) = rustix::fs::memfd_create("annulus-region", flags) else {
            return Seen::Skipped("this kernel knows no such flag");
        };
        rustix::fs::ftruncate(&region, size()).unwrap();
        rustix::fs::fcntl_add_seals(&region, SEALS).unwrap();
        let layout = RegionLayout::new(CAPACITY, CAPACITY);
        let mapped = annulus::region::Region::map(region.as_fd(), layout).unwrap();
        mapped.view().initialize();
        let gifts = Gifts { region, request_doorbell: bell(), response_doorbell: bell() };
        let mut peer = Peer::bringing(&stage.socket(), mapped, gifts, Features::empty());
        let served = peer.is_served();
        let maps = fs::read_to_string(format!("/proc/{}/maps", stage.daemon.child.id())).unwrap();
        let mut regions = maps.lines().filter(|line| line.contains("annulus-region"));
        assert!(regions.all(|line| line.contains(" rw-s ")), "{maps}");
        served
    };
    flags.map(offend).into()
}
