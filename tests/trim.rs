//! What a program gives back when it has started. One test a file: it measures the whole process.
#![cfg(feature = "cli")]

use std::fs;
use std::hint::black_box;
use std::process;

use annulus::footprint::Footprint;
use annulus::trim::{give_back_heap, give_back_start_up, share_one_heap};

const MIB: u64 = 1 << 20;

fn footprint() -> Footprint {
    Footprint::of_process(process::id()).unwrap()
}

#[test]
fn pages_that_nobody_needs_go_and_the_program_reads_on() {
    share_one_heap();
    // Reading the program brings it into the page cache; nothing is sure to have touched all of it.
    let program = fs::read("/proc/self/exe").unwrap().len() as u64;
    assert!(program > 4 * MIB);
    let before = footprint().pss_file_bytes;
    give_back_start_up().unwrap();
    let after = footprint().pss_file_bytes;
    assert!(after < before * 3 / 4, "{before} bytes of the program before, {after} after");

    let mut blocks: Vec<Vec<u8>> = (0..16 << 10).map(|_| vec![1; 1 << 10]).collect();
    let last = blocks.pop();
    let full = footprint().pss_anon_bytes;
    drop(black_box(blocks));
    give_back_heap();
    let given_back = full.saturating_sub(footprint().pss_anon_bytes);
    // The last block keeps the heap's end where it is.
    assert_eq!(last.unwrap().len(), 1 << 10);
    assert!(given_back > 8 * MIB, "{given_back} bytes of the heap");
}
