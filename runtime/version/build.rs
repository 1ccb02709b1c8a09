//! Passes the commit that is built to the crate.

#[path = "src/find.rs"]
mod find;

use std::path::Path;

fn main() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-env-changed=BERTH_COMMIT");
    println!("cargo:rerun-if-changed=src/find.rs");
    let given = std::env::var("BERTH_COMMIT").ok();
    let found = find::commit(given.as_deref(), own, &own.join("../.."));
    for file in found.files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    if let Some(id) = found.id {
        println!("cargo:rustc-env=BERTH_BUILD_COMMIT={id}");
    }
}
