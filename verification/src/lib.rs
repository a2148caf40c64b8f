//! Model checks and simulation for annulus.
