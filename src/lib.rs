//! Annulus: the AI backend that every editor window on a Linux workstation shares.
