//! The dialect as a whole, from outside.

mod encode;
mod recorded;
mod stream;
