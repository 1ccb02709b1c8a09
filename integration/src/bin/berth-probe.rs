//! The process of the test containers: it reports what it sees and carries out the actions on its command line.
//!
//! It is static, so a root filesystem needs no other file. It has no Rust `main`: the start-up code of the standard
//! library ignores SIGPIPE, installs signal handlers and opens `/dev/null` for closed descriptors, and the tests must
//! see these as the runtime left them. `berth_integration::probe` has the actions.
#![no_main]
#![allow(unsafe_code)]

/// The entry point that the C library calls.
// SAFETY: the C start-up code calls the symbol `main` with this signature, and no other code in the program defines it.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
    berth_integration::probe::main()
}
