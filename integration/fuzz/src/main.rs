//! One target under libFuzzer: `BERTH_FUZZ=NAME berth-fuzz [OPTION OF LIBFUZZER] CORPUS…`.
#![no_main]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "the macro exports the entry points of libFuzzer")]
#![allow(clippy::panic, reason = "a test program")]

use std::sync::OnceLock;

use berth_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("BERTH_FUZZ").unwrap_or_default();
        target(&name).unwrap_or_else(|| panic!("BERTH_FUZZ={name:?} names no target"))
    })
}

fuzz_target!(|data: &[u8]| (chosen().run)(data));
