//! Model checks of the code that several threads or processes run at once.
//!
//! loom runs each model in every interleaving and with every value that a relaxed load may give, up
//! to a number of preemptions. The models run the code that ships: annulus built with the private
//! cfg `annulus_loom`, whose `sync` gives loom's atomics. `docs/verification.md` says what they show
//! and what they do not; `tools/models` runs them, and `tools/canaries` makes sure that they find
//! the bugs that they are for.
#![cfg(all(test, annulus_loom))]

mod link;
mod park;
mod pool;
mod ring;
mod shutdown;
mod stage;
mod worker;

// They are private to annulus, so the very files are compiled here once more.
#[path = "../../src/pool/bitmap.rs"]
mod bitmap;
#[path = "../../src/link/ready.rs"]
mod ready;

// What those files name `crate::sync`.
use annulus::sync;
