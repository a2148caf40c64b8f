//! The pool against endpoints that do what a script says, in virtual time.

mod cache;
mod cancel;
mod commit;
mod failover;
mod keys;
mod lines;
mod retry;
mod script;
mod simulation;
pub(super) mod virtual_time;
pub(super) mod world;
