//! Floor 0.
#![no_std]
