//! The program that runs as the container's process in tests: it reports what it sees and does what it is told.
//!
//! Built statically, so that a root filesystem needs nothing else. It has no Rust `main`: the standard library's start-up
//! code would ignore SIGPIPE, install signal handlers and open `/dev/null` in place of closed descriptors, and all
//! of that is what the tests want to see as the runtime left it. What it can do is in `berth_integration::probe`.
#![no_main]
#![allow(unsafe_code)]

/// The C library's entry point.
// SAFETY: `main` is the symbol the C start-up code calls, with this signature; nothing else in the program defines it.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
    berth_integration::probe::main()
}
