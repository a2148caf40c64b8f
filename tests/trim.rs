//! What a program gives back when it has started. One test a file: it measures the whole process.
#![cfg(feature = "cli")]

use std::hint::black_box;
use std::process;

use annulus::footprint::Footprint;
use annulus::trim::{ProgramPages, give_back, share_one_heap};

const MIB: u64 = 1 << 20;

fn footprint() -> Footprint {
    Footprint::of_process(process::id()).unwrap()
}

#[test]
fn pages_that_only_the_start_needed_are_given_back() {
    share_one_heap();
    let mut blocks: Vec<Vec<u8>> = (0..16 << 10).map(|_| vec![1; 1 << 10]).collect();
    // It keeps the heap's end where it is.
    let last = blocks.pop();
    let before = footprint();
    drop(black_box(blocks));
    give_back(&ProgramPages::find().unwrap()).unwrap();
    let after = footprint();
    let (program, left) = (before.pss_file_bytes, after.pss_file_bytes);
    assert!(left < program * 3 / 4, "{program} bytes of the program before, {left} after");
    let heap = before.pss_anon_bytes.saturating_sub(after.pss_anon_bytes);
    assert!(heap > 8 * MIB, "{heap} bytes of the heap");
    assert_eq!(last.unwrap(), vec![1; 1 << 10]);
}
